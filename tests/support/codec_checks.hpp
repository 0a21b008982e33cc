// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <kvc/testing/codec.hpp>
#include <string>
#include <vector>

#include "codec_reference.hpp"
#include "policy_lists.hpp"

// What every built-in codec must satisfy, at one width, beyond the suite that users run:
//   - the independent decoder agrees with the library's, and with x within the bound;
//   - sizes are those of the format page;
//   - the bound is not loose: uniform data come near it.

namespace codec_checks {

inline void check_against(const codec_reference::codec& reference, const kvc::testing::detail::any_codec& codec) {
  CHECK(reference.tokens() == codec.tokens);
  CHECK(reference.row_bytes(codec.width) == codec.row_bytes);
  CHECK(reference.group_bytes(codec.width) == codec.group_bytes);

  double used = 0;  // how much of the bound uniform data take
  for (const kvc::testing::detail::codec_data& data : kvc::testing::detail::codec_inputs(codec.tokens, codec.width)) {
    kvc::testing::detail::encoded_group run(codec, 0);
    run.encode(data.x);
    const std::vector<float> library = run.decode();
    const std::vector<double> independent = reference.decode(run.codes.data(), run.constants.data(), codec.width);
    std::vector<float> bound(data.x.size());
    codec.bound(data.x.data(), 0, codec.tokens, bound.data());

    const bool uniform = std::string(data.name) == "uniform";
    double largest = 0;
    for (const double y : independent) largest = std::max(largest, std::fabs(y));
    int different = 0, beyond = 0;
    for (std::size_t i = 0; i < data.x.size(); ++i) {
      // The library's decoder rounds a product and a sum to fp32.
      if (!kvc::testing::close(library[i], independent[i], largest * 0x1p-22)) ++different;
      const double error = std::fabs(static_cast<double>(data.x[i]) - independent[i]);
      const double limit = static_cast<double>(bound[i]);
      if (!(error <= limit || bound[i] == HUGE_VALF)) ++beyond;
      if (uniform && limit > 0) used = std::max(used, error / limit);
    }
    CAPTURE(std::string(data.name));
    CHECK(different == 0);
    CHECK(beyond == 0);
  }
  if (reference.bits != 32) CHECK(used > 0.2);
}

template <class Codec, int Width>
void check_one() {
  CAPTURE(Width);
  CAPTURE(std::string(Codec::name.c_str()));
  CHECK(kvc::testing::codec_failures<Codec, Width>() == "");
  check_against(codec_reference::reference_of<Codec>::get(), kvc::testing::detail::any_codec::of<Codec, Width>());
}

template <class Codec, int... Widths>
void check_widths(policy_lists::widths<Widths...>) {
  (check_one<Codec, Widths>(), ...);
}

template <class... Codecs>
void check_all(policy_lists::list<Codecs...>) {
  (check_widths<Codecs>(policy_lists::all_widths{}), ...);
}

}  // namespace codec_checks
