// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "kvc/cache/calibration.hpp"
#include "kvc/calibrate/kept_channels.hpp"
#include "kvc/calibrate/low_rank.hpp"

namespace kvc::inline v0_1::calibrate {

/// What a calibration is fitted to, per slot and stored head: moments of the rows as append takes them, and of the
/// queries that score them (in the same space: before their rotary embedding where keys are stored so).
struct head_samples {
  moments first;    ///< keys; of a latent cache, the latent
  moments second;   ///< values; of a latent cache, the rotary key
  moments queries;  ///< of all query heads that share the row and of all layers that read the slot

  template <class Spec>
  static head_samples of() {
    return {moments(Spec::first_stream::model_width), moments(Spec::second_stream::model_width),
            moments(Spec::first_stream::model_width)};
  }
};

namespace detail {

template <class Dims>
struct rank_of {
  static constexpr int value = 0;
};
template <int R>
struct rank_of<dims::low_rank<R>> {
  static constexpr int value = R;
};
template <class Dims>
struct kept_of {
  static constexpr int value = 0;
};
template <int N>
struct kept_of<dims::pruned<N>> {
  static constexpr int value = N;
};

template <class Q>
inline constexpr bool is_centred = false;
template <class Q>
inline constexpr bool is_centred<quant::centred<Q>> = true;

template <class Q>
constexpr bool has_centred() {
  if constexpr (quant::is_wrapper<Q>) {
    return is_centred<Q> || has_centred<typename Q::inner_codec>();
  } else {
    return false;
  }
}

template <class Codec>
inline constexpr bool is_tapered = false;
template <class... Runs>
inline constexpr bool is_tapered<quant::tapered<Runs...>> = true;

/// Scales the coordinates of a basis for one step per token: a coordinate of deviation d in b bits wants steps of
/// d * step(b), step(b) the best uniform quantizer's for a Gaussian. Within a run of equal bits the deviations go three
/// quarters of the way: what is left keeps the strong coordinates a little finer than the weak.
template <class Codec>
void scale_for_steps(basis& b) {
  constexpr double best_step[] = {1, 1.596, 0.9957, 0.586, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308};
  const Eigen::Index rank = b.encode.rows();
  const Eigen::VectorXd deviation = b.variances.cwiseMax(b.variances.maxCoeff() * 1e-12).cwiseSqrt();
  for (Eigen::Index first = 0, end; first < rank; first = end) {
    const int bits = Codec::bits_of(static_cast<int>(first));
    for (end = first; end < rank && Codec::bits_of(static_cast<int>(end)) == bits; ++end) {
    }
    const double mean = deviation.segment(first, end - first).array().log().mean();
    for (Eigen::Index r = first; r < end; ++r) {
      const double spread = std::exp(0.75 * std::log(deviation(r)) + 0.25 * mean);
      const double factor = 1 / (spread * best_step[bits]);
      b.encode.row(r) *= factor;
      b.decode.row(r) /= factor;
      b.variances(r) *= factor * factor;
    }
  }
}

/// Means for every centred wrapper: the mean row goes through the wrappers as any row does.
template <class Q, int Width>
void fit_wrappers(float* mean, float* constants) {
  if constexpr (quant::is_wrapper<Q>) {
    constexpr int own = kvc::detail::wrapper_floats<Q, Width>::own();
    if constexpr (is_centred<Q>) {
      for (int i = 0; i < Width; ++i) constants[i] = mean[i];
    }
    if constexpr (requires { Q::template forward<Width>(mean, constants); })
      Q::template forward<Width>(mean, constants);
    fit_wrappers<typename Q::inner_codec, Width>(mean, constants + own);
  }
}

template <class Stream>
void fit_stream(const moments& rows, const Eigen::MatrixXd& queries, std::span<float> dims, std::span<float> wrappers) {
  using dims_policy = typename Stream::dims_policy;
  constexpr int width = Stream::model_width;
  if constexpr (rank_of<dims_policy>::value > 0) {
    constexpr int rank = rank_of<dims_policy>::value;
    // A full basis describes deviations from a mean that is taken off anyway; a truncated one must carry the mean too.
    const bool centred = rank == width && has_centred<typename Stream::quant_policy>();
    basis b = query_aware_basis(centred ? rows.covariance() : rows.second_moment(), queries, rank);
    if constexpr (is_tapered<typename Stream::codec>) scale_for_steps<typename Stream::codec>(b);
    for (int r = 0; r < rank; ++r) {
      for (int i = 0; i < width; ++i) {
        dims[static_cast<std::size_t>(r * width + i)] = static_cast<float>(b.encode(r, i));
        dims[static_cast<std::size_t>((rank + r) * width + i)] = static_cast<float>(b.decode(r, i));
      }
    }
  }
  if constexpr (kept_of<dims_policy>::value > 0) {
    const std::vector<int> kept = kept_channels(rows.second_moment(), queries, kept_of<dims_policy>::value);
    for (std::size_t i = 0; i < kept.size(); ++i) dims[i] = static_cast<float>(kept[i]);
  }
  if constexpr (Stream::wrapper_floats > 0) {
    const Eigen::VectorXf model_mean = rows.mean().cast<float>();
    float mean[Stream::width];
    dims_policy::template compress<width>(model_mean.data(), mean, dims.data());
    fit_wrappers<typename Stream::quant_policy, Stream::width>(mean, wrappers.data());
  }
}

}  // namespace detail

/// Fits everything that the built-in policies of a composition calibrate, for one slot and stored head: means
/// (centred), query-aware bases (low_rank; averaged over rotary angles where keys are stored before them), kept
/// channels (pruned). Values are fitted without regard to queries. Merge weights stay as they are.
template <class Spec>
void fit(calibration<Spec>& constants, int slot, int head, const head_samples& samples) {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  Eigen::MatrixXd queries = samples.queries.second_moment();
  if constexpr (first::is_deferred) {
    constexpr int turning = 2 * Spec::rotary_policy::template pair_count<first::model_width>;
    queries = average_over_rotary(queries, Spec::rotary_policy::layout, turning);
  }
  detail::fit_stream<first>(samples.first, queries, constants.first_dims(slot, head),
                            constants.first_wrappers(slot, head));
  detail::fit_stream<second>(samples.second, Eigen::MatrixXd::Identity(second::model_width, second::model_width),
                             constants.second_dims(slot, head), constants.second_wrappers(slot, head));
}

}  // namespace kvc::inline v0_1::calibrate
