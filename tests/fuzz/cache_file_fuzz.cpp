// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Any bytes as a cache file, for a composition with an open tail and for one that evicts. The first byte picks the
// composition; the checksum is written by the harness, as no fuzzer would find it. A file may be refused by kvc::error
// with the status of a bad file; one that is taken must save to a file that loads and saves to the same bytes, and the
// sequence must attend, grow, be cut and be gathered.

#include <cstddef>
#include <cstdint>
#include <kvc/kvc.hpp>
#include <span>
#include <vector>

namespace {

using kvc::status;
using kvc::quant::affine, kvc::quant::exact_ends, kvc::quant::integer, kvc::quant::per_channel, kvc::quant::split;

using head = kvc::shape<2, 2, 1, 16>;
using tail = kvc::compose<head, kvc::layers::shared<2>, kvc::storage<16>,
                          split<exact_ends<2, 3, integer<4, 8, affine, per_channel>>, integer<4, 16>>>;
using windowed =
    kvc::compose<head, kvc::storage<16>, kvc::tokens::sinks_and_window<2, 12>, integer<2, 16, affine, per_channel>>;

void expect(bool holds) {
  if (!holds) __builtin_trap();
}

template <class Call>
bool is_taken(Call&& call) {
  try {
    call();
  } catch (const kvc::error& e) {
    expect(e.code() == status::corrupt_file || e.code() == status::other_cache ||
           e.code() == status::other_calibration || e.code() == status::out_of_capacity ||
           e.code() == status::evicted);  // the last by truncate alone
    return false;
  }
  return true;
}

template <class Spec>
void step(kvc::host::cache<Spec>& cache, int sequence, int rows) {
  const std::vector<float> x(static_cast<std::size_t>(rows) * 2 * 16, 0.25f);
  std::vector<float> out(x.size());
  cache.reserve(sequence, rows);
  for (int layer = 0; layer < 2; ++layer) {
    if (cache.model().writes(layer)) cache.append(layer, x.data(), x.data());
    cache.attend(layer, x.data(), out.data(), static_cast<float*>(nullptr), {.scale = 0.25f});
  }
  cache.commit();
}

template <class Spec>
void use(std::span<const kvc::byte> file) {
  kvc::host::cache<Spec> cache({.capacity = 160, .max_sequences = 2, .max_step_rows = 32});
  int sequence = -1;
  if (!is_taken([&] { sequence = cache.load(file); })) {
    expect(cache.memory().pages_in_use == 0);
    expect(cache.add_sequence() == 0);
    return;
  }
  const std::vector<kvc::byte> saved = cache.save(sequence);
  {
    kvc::host::cache<Spec> other({.capacity = 160, .max_sequences = 1, .max_step_rows = 32});
    expect(other.save(other.load(saved)) == saved);
  }
  const kvc::int64 length = cache.length(sequence);
  const int copy = cache.fork(sequence);
  if (is_taken([&] { cache.truncate(copy, length - length / 3); })) {
    if (is_taken([&] { step(cache, copy, 9); })) expect(cache.length(copy) == length - length / 3 + 9);
  }
  cache.remove(copy);
  for (const int rows : {1, 20}) {
    if (!is_taken([&] { step(cache, sequence, rows); })) break;
  }
  const kvc::int64 newest = cache.length(sequence) - 1;
  if (newest >= 0) {
    std::vector<float> k(16), v(16);
    cache.gather(sequence, 0, newest, newest + 1, k.data(), v.data());
  }
  cache.remove(sequence);
  expect(cache.memory().pages_in_use == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 9) return 0;
  std::vector<kvc::byte> file(data + 1, data + size);
  const kvc::uint64 sum = kvc::detail::fnv1a(std::span(file).first(file.size() - 8));
  for (std::size_t i = 0; i < 8; ++i) file[file.size() - 8 + i] = static_cast<kvc::byte>(sum >> (8 * i));
  if (data[0] % 2 == 0) {
    use<tail>(file);
  } else {
    use<windowed>(file);
  }
  return 0;
}
