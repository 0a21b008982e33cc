// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/stream.hpp"

// Rows between the model's space and the stored space of a stream:
//
//   model row --dims--> --wrappers, outermost first--> stored row --> bf16 tail or codec
//
// Constants of a stream and stored head: [dims_floats][wrapper floats, outermost first].

namespace kvc::inline v0_1 {

namespace detail {

/// The wrappers of a quant policy, applied in turn. Policies without row functions (exact_ends, codecs) pass through.
template <class Q, int Width>
struct wrappers {
  KVC_HD static void forward(float* /*x*/, const float* /*constants*/) {}
  KVC_HD static void inverse(float* /*x*/, const float* /*constants*/) {}
  KVC_HD static float fold_query(float* /*q*/, const float* /*constants*/) { return 0; }
  KVC_HD static void unfold_output(float* /*o*/, float /*mass*/, const float* /*constants*/) {}
  static void initialise(float* /*constants*/) {}
  static constexpr bool is_identity = true;
};

template <class Q, int Width>
requires quant::is_wrapper<Q>
struct wrappers<Q, Width> {
  using inner = wrappers<typename Q::inner_codec, Width>;
  static constexpr bool has_rows = requires(float* x) { Q::template forward<Width>(x, x); };
  static constexpr int own = wrapper_floats<Q, Width>::own();
  static constexpr bool is_identity = !has_rows && inner::is_identity;

  KVC_HD static void forward(float* x, const float* constants) {
    if constexpr (has_rows) Q::template forward<Width>(x, constants);
    inner::forward(x, constants + own);
  }
  KVC_HD static void inverse(float* x, const float* constants) {
    inner::inverse(x, constants + own);
    if constexpr (has_rows) Q::template inverse<Width>(x, constants);
  }
  KVC_HD static float fold_query(float* q, const float* constants) {
    float constant = 0;
    if constexpr (has_rows) constant = Q::template fold_query<Width>(q, constants);
    return constant + inner::fold_query(q, constants + own);
  }
  KVC_HD static void unfold_output(float* o, float mass, const float* constants) {
    inner::unfold_output(o, mass, constants + own);
    if constexpr (has_rows) Q::template unfold_output<Width>(o, mass, constants);
  }
  static void initialise(float* constants) {
    if constexpr (has_rows) Q::template initialise<Width>(constants);
    inner::initialise(constants + own);
  }
};

}  // namespace detail

template <class Stream>
struct transform {
  using dims_policy = typename Stream::dims_policy;
  using stack = detail::wrappers<typename Stream::quant_policy, Stream::width>;
  static constexpr int model_width = Stream::model_width;
  static constexpr int width = Stream::width;

  /// row: [model_width] -> stored: [width]
  KVC_HD static void store(const float* row, float* stored, const float* constants) {
    dims_policy::template compress<model_width>(row, stored, constants);
    stack::forward(stored, constants + Stream::dims_floats);
  }

  /// stored: [width], overwritten -> row: [model_width]. The inverse of store, as far as dims keeps the row.
  KVC_HD static void restore(float* stored, float* row, const float* constants) {
    stack::inverse(stored, constants + Stream::dims_floats);
    dims_policy::template expand<model_width>(stored, row, constants);
  }

  /// query: [model_width] -> folded: [score_width]. Returns what is the same for all rows: score = <folded, row> + it.
  /// Deferred keys are scored after expansion, so their query stays as it is.
  KVC_HD static float fold_query(const float* query, float* folded, const float* constants) {
    if constexpr (Stream::is_deferred) {
      for (int i = 0; i < model_width; ++i) folded[i] = query[i];
      return 0;
    } else {
      dims_policy::template fold_query<model_width>(query, folded, constants);
      return stack::fold_query(folded, constants + Stream::dims_floats);
    }
  }

  /// sum: [width], a sum of stored rows with weights of total `mass`, overwritten -> output: [model_width].
  KVC_HD static void unfold_output(float* sum, float mass, float* output, const float* constants) {
    stack::unfold_output(sum, mass, constants + Stream::dims_floats);
    dims_policy::template expand<model_width>(sum, output, constants);
  }

  /// Constants that stand for no calibration.
  static void initialise(float* constants) {
    dims_policy::template initialise<model_width>(constants);
    stack::initialise(constants + Stream::dims_floats);
  }
};

}  // namespace kvc::inline v0_1
