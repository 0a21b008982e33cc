// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cmath>
#include <kvc/reference/attention.hpp>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>

#include "model_cache.hpp"

// Attention of a cache against the oracle on the rows that the cache decodes, within arithmetic error alone.
//
// The tolerance is an error analysis of fp32 attention, not a number that happens to pass. u = 2^-24 is the unit
// roundoff, and a sum of n terms in any order is off by at most n u times the sum of their magnitudes (to first order).
//
//   score     s_t = scale (q . k_t). The library folds q into the stored space instead of taking k_t out of it;
//             both are linear maps of fp32 sums. Each side loses at most T u |q| |k|, with T the depth of the sums
//             of its transforms:
//               Hadamard of order B     log2 B + 2 (butterflies are orthonormal: errors add in norm)
//               centring                2, on a row that is longer by the mean: |k| + 2 |mean|
//               basis of rank R         (head dim + R) sqrt R (R sums of head dim products; rows of norm about 1)
//               deferred rotation       3
//             and the product itself width / 16 + 4 (16 partial sums and a tree), constant, scale and soft cap 4.
//             soft cap: tanh is off by 3e-7 of the cap.
//             With D = 2 T + width / 16 + 8:  delta = D u scale |q| (|k| + 2 |mean|) + 3e-7 cap, the largest over
//             the rows; sum_i |q_i k_i| stands for the norms where no transform mixes channels.
//   weight    p_t = exp(s_t - m): relative error a = expm1(delta) + u |s_t - m| + 2e-7 (exp_of), and the latter once
//             more for every tile at which the running maximum can rise. |s_t - m| <= 2 max |s|.
//   sums      l and o add up the rows of a split of 1024 one by one, then the splits: n = min(rows, 1024) + splits.
//   output    o / l = sum_t p_t v_t / l. Wrong weights move channel c by 2 a A_c, A_c = sum_t p_t |v_tc| / l: the
//             transforms of the values are linear, so this holds on either side of them. Rounding of the sums adds
//             (2 n + 4) u A_c; where transforms mix channels, (2 n + T + 4) u times the norm of the stored row
//             instead, which is longer than the row by the mean.
//   lse       m + log l, off by delta + a + n u + 4 u (|lse| + max |s|)
//
// Products in less than fp32 (tensor cores) round their factors: q, k, p and v, each by a relative r (2^-9 for bf16,
// 2^-16 for pairs of bf16, whose smallest product is left out). Then delta grows by 2 r scale sum_i |q_i k_i|, the
// output's tolerance by 4 r sum_t p_t max_c |v_tc| / l (a factor may be a value less its group's lowest: at most twice
// the largest magnitude). That is far above what independent roundings give, so the whole output vector is
// checked as well: its error is a sum over rows of p_t |v_t| times roundings of size r (1 + scale |(q_i k_i)|), and may
// be 6 times the root of the sum of their squares.
//
// 8-bit products with packed codes round a stream's queries by up to Q / 254, with Q the largest channel of the query,
// and its weights times their rows' scales by up to 1 / 255 of the largest in a tile of 128 rows. They meet codes less
// their centre: |scale (code - centre)| = |x - middle|, which is at most 1.4 times half the row's range (2 bits: codes
// lie up to 2 of 3 steps from the centre), and of norm at most 1.4 (|x| + sqrt(width) range / 4): where a group's
// middle is far from zero, its numbers are on that side too. So a weight's rounding moves a channel by up to
// 1.4 W / 255, with W the tile's largest product of a weight and half its row's range: scales are the same share of
// their rows' ranges. These roundings are many and independent, so their sums are judged by 6 standard deviations, not
// by the worst case, which would hide a lost row: a score moves by 6 / sqrt(3) scale (Q / 254) |x - middle|, a channel
// of the output by 6 sqrt(sum over tiles of 128 (1.4 W / 255)^2) / l. The whole output is checked against the root of
// the sum of their squares. Where transforms mix channels, Q and half the range are bounded by 6 norm / sqrt(block) (a
// Hadamard block spreads a vector: that is 6 standard deviations of a channel), or by the norm; channels then lie
// around zero, and a middle within one deviation of it: range / 12 instead of range / 4. The middles of groups may meet
// weights in bf16, and the query's sums in two bf16 each: a channel moves by 2^-9 p_t |v_t| at most for each row, which
// are independent as well, a score by 2^-16 scale sum_i |q_i k_i|.
//
// The bound is a worst case; what it leaves undetected is measured by the mutants of attention/mutants.cpp.

namespace kvc_test {

inline constexpr double unit_roundoff = 0x1p-24;
inline constexpr double exp_error = 2e-7;
inline constexpr double tanh_error = 3e-7;

/// T of the comment above: roundings of one row's way into or out of the stored space.
inline double transform_depth(const stream_facts& f) {
  double depth = 1;
  if (f.rotations > 0) depth += f.rotations * (std::log2(f.hadamard_block) + 2);
  depth += 2.0 * f.centres;
  if (f.low_rank) depth += (f.model_width + f.width) * std::sqrt(static_cast<double>(f.width));
  return depth;
}

/// The largest channel that a row of this norm can have in the stored space, where transforms mix channels.
inline double largest_stored(const stream_facts& f, double norm) {
  return f.low_rank ? norm : norm * std::min(1.0, 6 / std::sqrt(static_cast<double>(f.hadamard_block)));
}

/// Of channels [begin, end): the largest magnitude, and the range, in the stored space.
inline double stored_magnitude(const stream_facts& f, const std::vector<double>& x, std::size_t begin, std::size_t end,
                               double mean_norm) {
  double largest = 0;
  double square = 0;
  for (std::size_t i = begin; i < end; ++i) {
    if (!std::isfinite(x[i])) continue;
    largest = std::max(largest, std::fabs(x[i]));
    square += x[i] * x[i];
  }
  return f.mixes ? largest_stored(f, std::sqrt(square) + 2 * mean_norm) : largest + 2 * mean_norm;
}

struct expected_attention {
  std::vector<double> out;
  double lse = 0;
  std::vector<double> out_tolerance;
  double lse_tolerance = 0;
  double norm_tolerance = 0;  ///< of the whole output; 0: not checked
};

/// Of the finite channels: a NaN decides its own results, not the tolerance of others.
inline double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += std::isfinite(v) ? v * v : 0;
  return std::sqrt(sum);
}

/// Key channels of `row` turned by the angles of its position, in double: the tests' own rotary embedding.
inline void rotate_in_double(const cache_facts& f, std::vector<double>& key, int64 position) {
  const float* angle = rotary_table(f.rotary_dims).data() + position * f.rotary_dims;
  for (int i = 0; i < f.rotary_dims / 2; ++i) {
    double& a = key[f.half_split ? i : 2 * i];
    double& b = key[f.half_split ? i + f.rotary_dims / 2 : 2 * i + 1];
    const double cosine = static_cast<double>(angle[2 * i]);
    const double sine = static_cast<double>(angle[2 * i + 1]);
    const double x = a;
    const double y = b;
    a = x * cosine - y * sine;
    b = x * sine + y * cosine;
  }
}

/// Whether the query at `position` sees row t: the definition, straight.
inline bool is_visible(const cache_facts& f, const kvc::attend_params& params, int64 position, int64 t) {
  if (t > position) return false;
  if (params.window > 0 && position - t >= params.window) return false;
  return f.keep == 0 || t < f.sinks || position - t < f.keep;
}

/// What attention over the rows of one stored head should give for one query, and how far fp32 may be from it.
inline expected_attention expect_attention(const cache_facts& f, const head_rows& rows, const float* query,
                                           int query_head, int64 position, const kvc::attend_params& params,
                                           double rounding_of_factors = 0) {
  kvc::reference::attention_input in;
  in.scale = static_cast<double>(params.scale);
  in.soft_cap = static_cast<double>(params.soft_cap);
  in.has_sink = params.sink_logits != nullptr;
  in.sink = in.has_sink ? static_cast<double>(params.sink_logits[query_head]) : 0;
  in.query.assign(query, query + f.query_width);
  const stream_facts& values = f.values();
  std::vector<int64> positions;  // of the rows that are seen
  double longest_key = 0;
  double largest_product = 0;
  double largest_square = 0;  // of the norm of a row of products q_i k_i
  const bool in_bytes = rounding_of_factors == 0 && !params.fp32_products;
  double byte_spread = 0;  // of a score: one standard deviation
  for (int64 t = 0; t <= position; ++t) {
    if (!is_visible(f, params, position, t)) continue;
    std::vector<double> key(rows.first[t].begin(), rows.first[t].end());
    std::vector<double> value(rows.second[t].begin(), rows.second[t].end());
    if (f.is_latent) {
      const std::vector<double> joint = key;
      key.insert(key.end(), value.begin(), value.end());
      value = joint;
    }
    if (f.is_deferred) rotate_in_double(f, key, t);
    longest_key = std::max(longest_key, norm(key));
    double product = 0;
    double square = 0;
    for (std::size_t i = 0; i < key.size(); ++i) {
      const double x = std::fabs(in.query[i] * key[i]);
      product += std::isfinite(x) ? x : 0;
      square += std::isfinite(x) ? x * x : 0;
    }
    largest_square = std::max(largest_square, square);
    double row_spread = 0;
    const auto add_bytes = [&](const stream_facts& stream, std::size_t begin, std::size_t end) {
      if (!in_bytes || !stream.is_packed) return;
      const double most = stored_magnitude(stream, key, begin, end, stream.mean_norm);
      double square_norm = 0;
      for (std::size_t i = begin; i < end; ++i) square_norm += std::isfinite(key[i]) ? key[i] * key[i] : 0;
      const double root = std::sqrt(static_cast<double>(stream.width));
      // `most` of mixed channels is 6 standard deviations, a middle within one.
      const double middles = root * most / (stream.mixes ? 6 : 2);
      const double coded = 1.4 * std::min(root * most, std::sqrt(square_norm) + 2 * stream.mean_norm + middles);
      row_spread += in.scale / 254 * stored_magnitude(stream, in.query, begin, end, 0) * coded / std::sqrt(3.0);
    };
    add_bytes(f.first, 0, f.is_latent ? static_cast<std::size_t>(f.first.model_width) : key.size());
    if (f.is_latent) add_bytes(f.second, static_cast<std::size_t>(f.first.model_width), key.size());
    byte_spread = std::max(byte_spread, row_spread);
    largest_product = std::max(largest_product, product);
    positions.push_back(t);
    in.keys.push_back(std::move(key));
    in.values.push_back(std::move(value));
  }
  const kvc::reference::attention_output o = kvc::reference::attention(in);

  expected_attention e;
  e.out = o.out;
  if (e.out.empty()) e.out.assign(f.output_width, 0.0);
  e.lse = o.lse;

  double depth = 2 * transform_depth(f.first) + f.query_width / 16.0 + 8;
  double means = f.first.mean_norm;
  if (f.is_latent) {
    depth += 2 * transform_depth(f.second);
    means += f.second.mean_norm;
  }
  if (f.is_deferred) depth += 3;
  const bool keys_mix = f.first.mixes || f.is_deferred || means > 0 || (f.is_latent && f.second.mixes);
  const double largest = in.scale * (keys_mix ? norm(in.query) * (longest_key + 2 * means) : largest_product);
  const double r = rounding_of_factors;
  const double delta =
      (depth * unit_roundoff + 2 * r + (in_bytes ? 0x1p-16 : 0)) * largest + tanh_error * in.soft_cap + 6 * byte_spread;
  const double row_count = static_cast<double>(in.keys.size());
  const double tiles = std::ceil(static_cast<double>(position + 1) / 16) + 2;
  const double a = std::expm1(delta) + 2 * unit_roundoff * largest + tiles * exp_error;
  const double splits = std::ceil(static_cast<double>(position + 1) / 1024);
  const double n = std::min(row_count, 1024.0) + splits;

  // The weights once more, for A_c and the norms.
  const bool values_mix = values.mixes || values.centres > 0;
  std::vector<double> channel(f.output_width, 0.0);
  double mixed = 0;
  double largest_values = 0;
  double squares = 0;
  double middle_square = 0;  // of a channel: the variance by roundings of weights that meet middles
  std::vector<double> tops(static_cast<std::size_t>(position / 128 + 1));  // per tile: the largest weight x range
  for (std::size_t t = 0; t < in.keys.size(); ++t) {
    double score = 0;
    for (std::size_t i = 0; i < in.query.size(); ++i) score += in.query[i] * in.keys[t][i];
    score *= in.scale;
    if (in.soft_cap > 0) score = in.soft_cap * std::tanh(score / in.soft_cap);
    const double weight = std::exp(score - o.lse);
    const double length = norm(in.values[t]) + 2 * values.mean_norm;
    mixed += weight * length;
    double largest_value = 0;
    for (const double x : in.values[t]) largest_value = std::max(largest_value, std::isfinite(x) ? std::fabs(x) : 0);
    largest_values += weight * largest_value;
    if (in_bytes && values.is_packed) {
      middle_square += weight * largest_value * 0x1p-9 * weight * largest_value * 0x1p-9;
      double& top = tops[static_cast<std::size_t>(positions[t] / 128)];
      top =
          std::max(top, weight * 2 * stored_magnitude(values, in.values[t], 0, in.values[t].size(), values.mean_norm));
    }
    squares += weight * weight * length * length;
    for (int c = 0; c < f.output_width; ++c) channel[c] += weight * std::fabs(in.values[t][c]);
  }
  double byte_square = middle_square;  // of a channel: the variance
  for (const double top : tops) byte_square += 128 * (0.7 * top / 255) * (0.7 * top / 255);
  const double width = f.output_width;
  for (int c = 0; c < f.output_width; ++c) {
    const double rounding = values_mix ? (2 * n + transform_depth(values) + 4) * mixed : (2 * n + 4) * channel[c];
    e.out_tolerance.push_back(2 * a * channel[c] + 4 * r * (values_mix ? mixed : largest_values) +
                              unit_roundoff * rounding + row_count * 1.2e-38 + 6 * std::sqrt(byte_square));
  }
  if (byte_spread > 0 || byte_square > 0) {
    e.norm_tolerance = 6 * (2 * byte_spread * std::sqrt(squares) + std::sqrt(width * byte_square)) +
                       64 * unit_roundoff * (1 + largest) * mixed;
  }
  if (r > 0) {
    // Where a transform mixes channels, products are spread over the stored row like those of random directions.
    const double spread =
        keys_mix ? 3 * largest / in.scale / std::sqrt(static_cast<double>(f.first.width)) : std::sqrt(largest_square);
    e.norm_tolerance =
        6 * r * (1 + in.scale * spread) * std::sqrt(squares) + 64 * unit_roundoff * (1 + largest) * mixed;
  }
  e.lse_tolerance = delta + a + n * unit_roundoff + 4 * unit_roundoff * (std::fabs(e.lse) + largest);
  return e;
}

/// The answer of a check that a mutant must be able to fail.
struct verdict {
  bool holds = true;
  double worst = 0;  ///< largest error over its tolerance
  std::string what;
};

inline const char* class_of(double x) {
  return std::isnan(x) ? "NaN" : (std::isinf(x) ? (x > 0 ? "+inf" : "-inf") : "finite");
}

inline void compare(double got, double wanted, double tolerance, const char* what, int index, verdict& v) {
  const bool same_class =
      class_of(got) == class_of(wanted) || std::string(class_of(got)) == std::string(class_of(wanted));
  double ratio = 0;
  if (same_class && std::isfinite(wanted)) ratio = std::fabs(got - wanted) / std::max(tolerance, 1e-300);
  v.worst = std::max(v.worst, ratio);
  if (same_class && (ratio <= 1 || !std::isfinite(wanted))) return;
  if (v.holds) {
    std::ostringstream out;
    out.precision(9);
    out << what << '[' << index << "] is " << got << ", should be " << wanted << " +- " << tolerance;
    v.what = out.str();
  }
  v.holds = false;
}

/// out: [output_width] and lse of one query against what is expected.
inline verdict compare_attention(const expected_attention& e, const float* out, float lse) {
  verdict v;
  for (std::size_t c = 0; c < e.out.size(); ++c) {
    compare(static_cast<double>(out[c]), e.out[c], e.out_tolerance[c], "out", static_cast<int>(c), v);
  }
  compare(static_cast<double>(lse), e.lse, e.lse_tolerance, "lse", 0, v);
  if (e.norm_tolerance > 0) {
    double distance = 0;
    for (std::size_t c = 0; c < e.out.size(); ++c) {
      const double error = static_cast<double>(out[c]) - e.out[c];
      distance += std::isfinite(e.out[c]) ? error * error : 0;
    }
    compare(std::sqrt(distance), 0, e.norm_tolerance, "the output's error", 0, v);
  }
  return v;
}

/// The rows of a layer that queries from position `length` - 1 on may see, decoded by gather: [stored head]. Cache: any
/// that has length() and gather().
template <class Cache>
std::vector<head_rows> gather_rows(Cache& cache, const cache_facts& f, int sequence, int layer) {
  const int64 length = cache.length(sequence);
  std::vector<head_rows> heads(f.stored_heads);
  for (head_rows& h : heads) {
    h.first.resize(length);
    h.second.resize(length);
  }
  const auto take = [&](int64 begin, int64 end) {
    if (begin >= end) return;
    const std::size_t n = static_cast<std::size_t>((end - begin) * f.stored_heads);
    std::vector<float> k(n * f.first.model_width), v(n * f.second.model_width);
    cache.gather(sequence, layer, begin, end, k.data(), v.data());
    for (int64 t = begin; t < end; ++t) {
      for (int h = 0; h < f.stored_heads; ++h) {
        const float* key = k.data() + ((t - begin) * f.stored_heads + h) * f.first.model_width;
        const float* value = v.data() + ((t - begin) * f.stored_heads + h) * f.second.model_width;
        heads[h].first[t].assign(key, key + f.first.model_width);
        heads[h].second[t].assign(value, value + f.second.model_width);
      }
    }
  };
  const int64 oldest = f.keep > 0 ? std::max<int64>(0, length - f.keep) : 0;
  take(0, std::min<int64>(f.sinks, oldest));
  take(oldest, length);
  return heads;
}
inline std::vector<head_rows> gather_rows(any_cache& cache, int sequence, int layer) {
  return gather_rows(cache, cache.facts(), sequence, layer);
}

/// All heads of one query row of a layer, rows as gather decodes them at the query's own length. query: [query_heads]
/// [query_width], out: [query_heads][output_width].
inline verdict check_query(const cache_facts& f, const std::vector<head_rows>& rows, const float* query, int64 position,
                           const kvc::attend_params& params, const float* out, const float* lse,
                           double rounding_of_factors = 0) {
  verdict all;
  const int group = f.query_heads / f.stored_heads;
  for (int h = 0; h < f.query_heads; ++h) {
    const expected_attention e =
        expect_attention(f, rows[h / group], query + static_cast<std::ptrdiff_t>(h) * f.query_width, h, position,
                         params, rounding_of_factors);
    const verdict v = compare_attention(e, out + static_cast<std::ptrdiff_t>(h) * f.output_width, lse[h]);
    all.worst = std::max(all.worst, v.worst);
    if (!v.holds && all.holds) {
      all.holds = false;
      all.what = "query head " + std::to_string(h) + ": " + v.what;
    }
  }
  return all;
}

}  // namespace kvc_test
