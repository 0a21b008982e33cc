// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"

namespace kvc::inline v0_1 {

// The algebra of softmax over parts. For scores s_t and rows v_t, a part holds
//
//   m = max_t s_t          l = sum_t exp(s_t - m)          o = sum_t exp(s_t - m) v_t
//
// Parts over disjoint rows merge in any grouping: sealed pages and tail, the splits of a long context, a shared prefix,
// another device's share. The empty part (m = -inf, l = 0, o = 0) is the identity.

/// The scalar half of a part.
struct softmax_state {
  float m = bits_float(0xff800000u);
  float l = 0;

  /// log(sum_t exp(s_t)): natural, -inf if empty.
  KVC_HD float lse() const { return l == 0 ? bits_float(0xff800000u) : m + log_of(l); }

  /// Raises the maximum to at least `next`; returns the factor for everything summed so far.
  KVC_HD float raise(float next) {
    if (!(next > m)) return 1.0f;
    const float factor = exp_of(m - next);
    m = next;
    l *= factor;
    return factor;
  }

  /// One more score: returns the weight of its row, after `factor` was applied to what is there.
  KVC_HD float push(float score, float& factor) {
    factor = raise(score);
    if (score == bits_float(0xff800000u)) return 0.0f;  // also where m is -inf: no exp(-inf + inf)
    const float p = exp_of(score - m);
    l += p;
    return p;
  }
};

/// A part with its output: o[Width] beside (m, l), in the caller's memory.
struct attention_state {
  softmax_state* softmax;
  float* o;
  int width;

  KVC_HD void clear() const {
    *softmax = softmax_state{};
    for (int i = 0; i < width; ++i) o[i] = 0;
  }
  /// One more row with its score.
  KVC_HD void push(float score, const float* v) const {
    float factor = 1;
    const float p = softmax->push(score, factor);
    for (int i = 0; i < width; ++i) o[i] = o[i] * factor + p * v[i];
  }
  /// Takes another part in.
  KVC_HD void merge(const softmax_state& other, const float* other_o) const {
    if (other.m == bits_float(0xff800000u) && other.l == 0) return;
    const float m = max_of(softmax->m, other.m);
    const float a = softmax->l == 0 ? 0.0f : exp_of(softmax->m - m);
    const float b = exp_of(other.m - m);
    softmax->m = m;
    softmax->l = softmax->l * a + other.l * b;
    for (int i = 0; i < width; ++i) o[i] = o[i] * a + other_o[i] * b;
  }
  /// A logit that takes part in the sum but has no row (attention sink, as in GPT-OSS).
  KVC_HD void push_sink(float logit) const {
    float factor = 1;
    softmax->push(logit, factor);
    for (int i = 0; i < width; ++i) o[i] *= factor;
  }
  /// o / l: the attention output of this part; zero if empty.
  KVC_HD void normalize() const {
    const float inverse = softmax->l == 0 ? 0.0f : 1.0f / softmax->l;
    for (int i = 0; i < width; ++i) o[i] *= inverse;
  }
};

/// Merges normalized outputs by their log-sum-exps, as attend returns them: a <- a joined with b.
KVC_HD void merge_outputs(float* a, float& a_lse, const float* b, float b_lse, int width) {
  const float empty = bits_float(0xff800000u);
  if (b_lse == empty) return;
  const float m = max_of(a_lse, b_lse);
  const float wa = a_lse == empty ? 0.0f : exp_of(a_lse - m);
  const float wb = exp_of(b_lse - m);
  const float total = wa + wb;
  for (int i = 0; i < width; ++i) a[i] = (a[i] * wa + b[i] * wb) / total;
  a_lse = m + log_of(total);
}

}  // namespace kvc::inline v0_1
