// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kvc/host/attend_shares.hpp"
#include "kvc/kvc.hpp"

// How a step's attend is shared between slices: every split once, and nobody with much more than his part.

using kvc::int64;
using namespace kvc::host::detail;

namespace {

using grouped = kvc::compose<kvc::shape<1, 32, 8, 128>, kvc::quant::integer<4, 32>>;
using joint = kvc::clla_cache<kvc::shape<2, 16, 16, 128>>;
using windowed = kvc::compose<kvc::shape<1, 8, 2, 64>, kvc::tokens::sinks_and_window<4, 3000>>;

/// Lengths before a step, and its rows.
struct batch {
  std::vector<int64> lengths;
  std::vector<int64> rows;
};

struct shared_work {
  std::vector<double> cost;  ///< of each slice
  double largest_piece = 0;  ///< of what is not cut further
  int cut = 0;
  bool is_each_once = true;
};

template <class Spec>
shared_work share(const batch& b, int slices) {
  std::vector<int64> indptr = {0};
  for (const int64 r : b.rows) indptr.push_back(indptr.back() + r);
  kvc::step_view step{};
  step.sequences = static_cast<int>(b.lengths.size());
  step.seq_lens = b.lengths.data();
  step.row_indptr = indptr.data();
  const kvc::extents<Spec> model;
  const attend_shares<Spec> shares(model, step, 0, slices);
  shared_work w;
  w.cost.resize(static_cast<std::size_t>(slices));
  int64 end = 0;
  std::vector<int64> rows(b.lengths.size());
  shares.for_units([&](const attend_unit& u) {
    w.is_each_once = w.is_each_once && u.begin == end && u.cut == w.cut;
    end = u.begin + u.cost;
    rows[static_cast<std::size_t>(u.index)] += u.rows;
    const bool is_cut = u.owner < 0;
    w.cut += is_cut ? 1 : 0;
    if (!is_cut) w.cost[static_cast<std::size_t>(u.owner)] += static_cast<double>(u.cost);
    // What stands where two parts meet goes to one of them.
    const bool is_whole = !is_cut && shares.slice_of(u, 0) != shares.slice_of(u, u.splits - 1);
    if (is_whole) w.largest_piece = std::max(w.largest_piece, static_cast<double>(u.cost));
    int before = 0;
    int64 place = u.begin;
    for (int64 s = 0; s < u.splits; ++s) {
      const int slice = shares.slice_of(u, s);
      const int64 next = shares.place_of(u, (s + 1) * kvc::host::split_rows);
      w.is_each_once = w.is_each_once && slice >= before && slice < slices;
      if (is_cut) w.cost[static_cast<std::size_t>(slice)] += static_cast<double>(next - place);
      w.largest_piece = std::max(w.largest_piece, static_cast<double>(next - place));
      before = slice;
      place = next;
    }
    w.is_each_once = w.is_each_once && place == end;
  });
  for (std::size_t i = 0; i < rows.size(); ++i)
    w.is_each_once = w.is_each_once && rows[i] == b.rows[i] * model.stored_heads();
  return w;
}

/// The largest part over the mean.
double imbalance(const shared_work& w) {
  double sum = 0;
  for (const double c : w.cost) sum += c;
  return *std::max_element(w.cost.begin(), w.cost.end()) / sum * static_cast<double>(w.cost.size());
}

}  // namespace

TEST_CASE("one long request among short ones is shared by all slices") {
  for (const int slices : {2, 3, 8}) {
    CAPTURE(slices);
    const shared_work w = share<joint>({{100000, 100, 100, 100}, {1, 1, 1, 1}}, slices);
    CHECK(w.is_each_once);
    CHECK(w.cut == 1);
    CHECK(imbalance(w) < 1.1);
    // Long and short by turns, one stored head: no slice gets all the long ones.
    batch turns;
    for (int i = 0; i < 32; ++i) {
      turns.lengths.push_back(i % 2 == 0 ? 20000 : 50);
      turns.rows.push_back(1);
    }
    CHECK(imbalance(share<joint>(turns, slices)) < 1.1);
  }
  CHECK(imbalance(share<grouped>({{65536, 300, 20, 4000}, {1, 1, 1, 1}}, 5)) < 1.1);
}

TEST_CASE("equal requests are not cut") {
  const batch equal{{8000, 8000, 8000, 8000}, {1, 1, 1, 1}};
  CHECK(share<joint>(equal, 2).cut == 0);
  CHECK(share<grouped>(equal, 4).cut == 0);
  CHECK(imbalance(share<grouped>(equal, 4)) < 1.001);
  CHECK(share<joint>(equal, 3).cut == 2);
}

TEST_CASE_TEMPLATE("every split belongs to one slice, and parts are equal but for a piece", Spec, grouped, joint,
                   windowed) {
  const unsigned seed = std::random_device{}();
  std::mt19937 random(seed);
  const auto below = [&](int n) { return std::uniform_int_distribution<int>(0, n - 1)(random); };
  for (int round = 0; round < 300; ++round) {
    batch b;
    for (int n = 1 + below(20); n > 0; --n) {
      b.lengths.push_back(below(3) == 0 ? below(60000) : below(900));
      b.rows.push_back(below(4) == 0 ? below(700) : below(3));
    }
    const int slices = 1 + below(9);
    const shared_work w = share<Spec>(b, slices);
    CAPTURE(seed);
    CAPTURE(round);
    CAPTURE(slices);
    CHECK(w.is_each_once);
    CHECK(w.cut < slices);
    double sum = 0;
    for (const double c : w.cost) sum += c;
    // A part may be longer by half a piece at each end.
    CHECK(*std::max_element(w.cost.begin(), w.cost.end()) <= sum / slices + w.largest_piece + 1);
  }
}
