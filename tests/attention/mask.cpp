// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <initializer_list>
#include <kvc/attention/mask.hpp>

// The two ranges of visible_at against the definition, row by row: causal; the model's sliding window hides everything
// older than `window`; the retention keeps the first `sinks` rows and the newest `keep`.

TEST_CASE("visible rows are those of the definition, each of them once") {
  int differences = 0;
  for (const kvc::int64 sinks : {0, 1, 3, 9}) {
    for (const kvc::int64 keep : {0, 1, 2, 5, 16}) {
      for (const kvc::int64 window : {0, 1, 4, 7, 30}) {
        for (kvc::int64 position = 0; position < 24; ++position) {
          const kvc::visible_rows v = kvc::visible_at(position, sinks, keep, window);
          for (kvc::int64 t = 0; t < 40; ++t) {
            const bool causal = t <= position;
            const bool in_window = window == 0 || position - t < window;
            const bool kept = keep == 0 || t < sinks || position - t < keep;
            const int wanted = causal && in_window && kept ? 1 : 0;
            const int seen =
                (t >= v.sinks.begin && t < v.sinks.end ? 1 : 0) + (t >= v.recent.begin && t < v.recent.end ? 1 : 0);
            if (seen != wanted) ++differences;
          }
        }
      }
    }
  }
  CHECK(differences == 0);
}

TEST_CASE("a row outside of the definition would be found") {
  const kvc::visible_rows v = kvc::visible_at(10, 2, 4, 0);
  CHECK(v.sinks.begin == 0);
  CHECK(v.sinks.end == 2);
  CHECK(v.recent.begin == 7);
  CHECK(v.recent.end == 11);
}

TEST_CASE("ranges") {
  CHECK(kvc::row_range{}.empty());
  CHECK(kvc::row_range{3, 3}.empty());
  CHECK(kvc::row_range{4, 3}.empty());
  CHECK_FALSE(kvc::row_range{3, 4}.empty());
  const kvc::row_range r = kvc::row_range{2, 9}.within(4, 7);
  CHECK(r.begin == 4);
  CHECK(r.end == 7);
  CHECK(kvc::row_range{2, 5}.within(6, 9).empty());
}
