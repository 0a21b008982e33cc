// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/kvc.hpp>
#include <string>

#include "compositions.hpp"

using namespace kvc_test;
using kvc::host::operation;
using kvc::host::route;

namespace {

constexpr operation all_operations[] = {operation::append, operation::append_slots, operation::attend,
                                        operation::gather, operation::fork,         operation::truncate,
                                        operation::save};

template <class Spec>
void check_routes() {
  CAPTURE(Spec::name().c_str());
  for (const operation op : all_operations) {
    const kvc::host::route_answer answer = route<Spec>(op);
    CHECK(std::string(answer.why).size() > 10);
    CHECK(std::string(answer.kernel).size() > 3);
    const bool unsupported = op == operation::append_slots && Spec::has_tail;
    CHECK(answer.code == (unsupported ? kvc::status::unsupported : kvc::status::ok));
  }
}

template <class... Specs>
void check_all(list<Specs...>) {
  (check_routes<Specs>(), ...);
}

using plain = compose<shape<2, 4, 2, 32>>;
using tail = compose<shape<2, 4, 2, 32>, integer<4, 32, affine, per_channel>>;

}  // namespace

TEST_CASE("every operation has an answer for every composition, with its reason") {
  check_all(all_compositions{});
}

TEST_CASE("the answers tell the ways apart") {
  const auto kernel = [](kvc::host::route_answer a) { return std::string(a.kernel); };
  CHECK(kernel(route<plain>(operation::append)) != kernel(route<tail>(operation::append)));
  CHECK(kernel(route<tail>(operation::append_slots)) == "none");
  using deferred = compose<shape<2, 4, 2, 32>, interleaved<>>;
  using joint = compose<shape<2, 4, 4, 32>, kvc::heads::latent, latent<32, 16>>;
  CHECK(kernel(route<deferred>(operation::attend)) != kernel(route<plain>(operation::attend)));
  CHECK(kernel(route<joint>(operation::attend)) != kernel(route<plain>(operation::attend)));
  CHECK(route<plain>(static_cast<operation>(99)).code == kvc::status::invalid_argument);
}

TEST_CASE("append_slots does what its route says") {
  // unsupported is an answer before anything else: even null buffers are not looked at.
  const kvc::cache_view<tail> view{};
  CHECK(kvc::host::append_slots<tail, float>(view, 0, {}, {}, nullptr, 1) == kvc::status::unsupported);
}
