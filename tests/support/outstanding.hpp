// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "oracle.hpp"

// Queries that ask for one row among many: without it, the answer is another.

namespace kvc_test {

/// Whether all rows that the newest of so many saw can still be gathered: the oldest may be gone with its page.
inline bool has_all_seen(const cache_facts& f, int64 length) {
  const int64 needed = length - f.keep + 1;
  return f.keep == 0 || needed <= 0 || needed % f.tokens_per_page != 0 ||
         needed / f.tokens_per_page <= kvc::ceil_div(f.sinks, f.tokens_per_page);
}

/// A key as queries meet it.
inline std::vector<double> met_key(const cache_facts& f, const head_rows& rows, int64 t) {
  std::vector<double> key(rows.first[size_of(t)].begin(), rows.first[size_of(t)].end());
  const std::vector<float>& second = rows.second[size_of(t)];
  if (f.is_latent) key.insert(key.end(), second.begin(), second.end());
  if (f.is_deferred) rotate_in_double(f, key, t);
  return key;
}

/// Of all rows that are there.
inline std::vector<double> mean_key(const cache_facts& f, const head_rows& rows) {
  std::vector<double> mean(size_of(f.query_width), 0.0);
  double count = 0;
  for (std::size_t t = 0; t < rows.first.size(); ++t) {
    if (rows.first[t].empty()) continue;
    const std::vector<double> key = met_key(f, rows, static_cast<int64>(t));
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += key[i];
    count += 1;
  }
  for (double& x : mean) x /= count;
  return mean;
}
inline std::vector<double> distance_of(const cache_facts& f, const head_rows& rows, const std::vector<double>& mean,
                                       int64 t) {
  std::vector<double> key = met_key(f, rows, t);
  for (std::size_t i = 0; i < key.size(); ++i) key[i] -= mean[i];
  return key;
}

/// The part of row t in the scores' exponentials, where its own score is `sharpness` above the mean key's.
inline double weight_of(const cache_facts& f, const head_rows& rows, const std::vector<double>& mean, int64 t,
                        double sharpness) {
  const std::vector<double> distance = distance_of(f, rows, mean, t);
  const double unit = norm(distance) * norm(distance);
  double sum = 0;
  for (std::size_t i = 0; i < rows.first.size(); ++i) {
    if (rows.first[i].empty()) continue;
    const std::vector<double> other = distance_of(f, rows, mean, static_cast<int64>(i));
    double product = 0;
    for (std::size_t c = 0; c < other.size(); ++c) product += distance[c] * other[c];
    sum += std::exp(sharpness * (product / unit - 1));
  }
  return 1 / sum;
}

/// Of the rows [begin, end) that are farthest from the mean, the one that may have the most weight for the first head.
inline int64 outstanding_row(const cache_facts& f, const head_rows& rows, const std::vector<double>& mean, int64 begin,
                             int64 end) {
  std::vector<std::pair<double, int64>> candidates;
  for (int64 t = begin; t < end; ++t) candidates.emplace_back(-norm(distance_of(f, rows, mean, t)), t);
  std::sort(candidates.begin(), candidates.end());
  candidates.resize(std::min<std::size_t>(candidates.size(), 6));
  for (auto& [weight, t] : candidates) weight = weight_of(f, rows, mean, t, 16);
  return std::max_element(candidates.begin(), candidates.end())->second;
}

/// Queries of one row and head [query heads of the stored head][query_width] that give row t nearly all the weight:
/// their direction is the key's distance from the mean, where its score is 16 or more above the mean's.
inline void put_queries_for(const cache_facts& f, const head_rows& rows, const std::vector<double>& mean, int64 t,
                            float scale, std::vector<float>& queries) {
  const std::vector<double> distance = distance_of(f, rows, mean, t);
  const double unit = static_cast<double>(scale) * norm(distance) * norm(distance);
  for (int h = 0; h < f.query_heads / f.stored_heads; ++h) {
    for (const double x : distance) queries.push_back(static_cast<float>((16 + h % 4) * x / unit));
  }
}

}  // namespace kvc_test
