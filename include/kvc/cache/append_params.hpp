// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/rows.hpp"
#include "kvc/rotary/pairs.hpp"

// What append does with the model's rows first, in fp32: RMS normalisation, then the rotary embedding of keys. After it
// come the merge of heads, the transforms and the codec, as for rows that arrive so.

namespace kvc::inline v0_1 {

/// x / sqrt(mean of x^2 + epsilon) * weight. weight: [model_width], shared by the heads; null: rows stay as they are.
struct rms_norm {
  const float* weight = nullptr;
  float epsilon = 0;
};

/// The default of append: rows come as they are to be stored.
struct rows_as_given {
  static constexpr bool prepares = false;
};

template <class P>
concept row_preparation = requires {
  {P::prepares || true};
};

/// Rows come as the projections give them. Pointers are read where append runs: on the device by cuda::append.
template <rotary::pairs Layout = rotary::pairs::interleaved>
struct append_params {
  static constexpr bool prepares = true;
  static constexpr rotary::pairs layout = Layout;

  rms_norm first = {};             ///< of keys, per head; of a latent without its rotary key
  rms_norm second = {};            ///< of values, per head; of the rotary key of a latent
  rotary::table_view rotary = {};  ///< turns the leading 2 * pairs channels of keys, of a latent's rotary key
};

namespace detail {

template <class Spec>
constexpr status check_prepare(const rows_as_given&) {
  return status::ok;
}
/// What does not depend on the step.
template <class Spec, rotary::pairs Layout>
constexpr status check_prepare(const append_params<Layout>& p) {
  constexpr int width = Spec::is_latent ? Spec::second_stream::model_width : Spec::first_stream::model_width;
  if (!(p.first.epsilon >= 0) || !(p.second.epsilon >= 0)) return status::invalid_argument;
  if (p.rotary.cos_sin == nullptr) return status::ok;
  if (Spec::first_stream::is_deferred) return status::deferred_rotary;
  return p.rotary.pairs < 1 || 2 * p.rotary.pairs > width ? status::invalid_argument : status::ok;
}
/// Whether the rotary table reaches as far as a sequence of `length` rows.
KVC_HD constexpr bool reaches(const rows_as_given&, int64 /*length*/) {
  return true;
}
template <rotary::pairs Layout>
KVC_HD constexpr bool reaches(const append_params<Layout>& p, int64 length) {
  return p.rotary.cos_sin == nullptr || length <= p.rotary.positions;
}

/// 1 / sqrt(mean of x^2 + epsilon) over x: [Width].
template <int Width, class T, class Team>
KVC_HD float inverse_rms(const T* x, float epsilon, Team team) {
  float sum = 0;
  for (int i = team.rank(); i < Width; i += team.size()) sum += to_float(x[i]) * to_float(x[i]);
  return 1.0f / sqrt_of(team.sum(sum) / static_cast<float>(Width) + epsilon);
}

/// The second half of the preparation: x *= inverse * weight, and the rotary embedding of `position`.
template <class Spec, bool First, row_preparation Params, class Team>
KVC_HD void finish_row(const Params& params, float inverse, int64 position, float* x, Team team) {
  constexpr int width = stream_of<Spec, First>::model_width;
  const rms_norm& norm = First ? params.first : params.second;
  if (norm.weight != nullptr) {
    for (int i = team.rank(); i < width; i += team.size()) x[i] *= inverse * norm.weight[i];
    team.sync();
  }
  if constexpr (First != Spec::is_latent) {
    if (params.rotary.cos_sin != nullptr) {
      rotary::turn<Params::layout>(x, params.rotary.at(position), params.rotary.pairs, team);
    }
  }
}

/// x: [model_width], the row of a KV head at `position`, prepared in place.
template <class Spec, bool First, row_preparation Params, class Team = serial_team>
KVC_HD void prepare_row(const Params& params, int64 position, float* x, Team team = {}) {
  const rms_norm& norm = First ? params.first : params.second;
  const float inverse =
      norm.weight == nullptr ? 1.0f : inverse_rms<stream_of<Spec, First>::model_width>(x, norm.epsilon, team);
  finish_row<Spec, First>(params, inverse, position, x, team);
}

/// Whether a team that has Own neighbouring channels of a row per thread can prepare it in registers.
template <class Spec, bool First, int Own, row_preparation Params>
KVC_HD bool prepares_share(const Params& p) {
  const rms_norm& norm = First ? p.first : p.second;
  const bool turns = First != Spec::is_latent && p.rotary.cos_sin != nullptr;
  return reinterpret_cast<size_type>(norm.weight) % 16 == 0 &&
         (!turns || rotary::turns_share<Params::layout, Own>(p.rotary.cos_sin, p.rotary.pairs));
}

/// The same in its team's registers, where prepares_share. x: [model_width / threads]
template <class Spec, bool First, row_preparation Params, class Team>
KVC_HD void prepare_share(const Params& params, int64 position, float* x, Team team) {
  constexpr int width = stream_of<Spec, First>::model_width;
  constexpr int own = width / Team::size();
  const rms_norm& norm = First ? params.first : params.second;
  if (norm.weight != nullptr) {
    float sum = 0;
    for (int k = 0; k < own; ++k) sum += x[k] * x[k];
    const float inverse = 1.0f / sqrt_of(team.sum(sum) / static_cast<float>(width) + norm.epsilon);
    for (int k = 0; k < own; k += 4) {
      float weights[4];
      __builtin_memcpy(weights, __builtin_assume_aligned(norm.weight + team.rank() * own + k, 16), 16);
      for (int i = 0; i < 4; ++i) x[k + i] *= inverse * weights[i];
    }
  }
  if constexpr (First != Spec::is_latent) {
    if (params.rotary.cos_sin != nullptr) {
      rotary::turn_share<Params::layout, own>(x, params.rotary.at(position), params.rotary.pairs, team);
    }
  }
}

/// A prepared model row of a stored head. KV heads that are merged are normalised each; what follows is linear, and
/// done once.
template <class Spec, bool First, class T, row_preparation Params, class Team = serial_team>
KVC_HD void load_prepared_row(const rows_view<const T>& rows, int64 row, int head, int merged, const float* weights,
                              const Params& params, int64 position, float* x, Team team = {}) {
  constexpr int width = stream_of<Spec, First>::model_width;
  if (merged == 1) {
    const T* source = rows.at(row, head);
    for (int i = team.rank(); i < width; i += team.size()) x[i] = to_float(source[i]);
    team.sync();
    return prepare_row<Spec, First>(params, position, x, team);
  }
  const rms_norm& norm = First ? params.first : params.second;
  for (int i = team.rank(); i < width; i += team.size()) x[i] = 0;
  for (int m = 0; m < merged; ++m) {
    const T* source = rows.at(row, head * merged + m);
    const float inverse = norm.weight == nullptr ? 1.0f : inverse_rms<width>(source, norm.epsilon, team);
    const float factor = weights[m] * inverse;
    for (int i = team.rank(); i < width; i += team.size()) x[i] += factor * to_float(source[i]);
  }
  team.sync();
  finish_row<Spec, First>(params, 1.0f, position, x, team);
}

}  // namespace detail

}  // namespace kvc::inline v0_1
