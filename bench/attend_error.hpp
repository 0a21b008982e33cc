// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cmath>
#include <kvc/attention/mask.hpp>
#include <kvc/attention/params.hpp>
#include <kvc/cache/append.hpp>
#include <kvc/reference/attention.hpp>
#include <vector>

namespace kvc_bench {

/// |out - reference| / |reference| of attention on the decoded rows: new row `row` of the step's first sequence in slot
/// 0, its first and its last query head. All in host memory; q: [query_heads][query_width], out: [query_heads]
/// [output_width], of that row.
template <class Spec>
double attend_error(const kvc::cache_view<Spec>& view, const kvc::step_view& step, int row,
                    const kvc::attend_params& params, const kvc::bf16* q, const float* out) {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  const kvc::int64 position = step.seq_lens[0] + row;
  const kvc::visible_rows seen =
      kvc::visible_at(position, Spec::tokens_policy::sinks, Spec::tokens_policy::window, params.window);
  double distance = 0;
  double norm = 0;
  for (const int head : {0, static_cast<int>(view.model.query_heads) - 1}) {
    const int stored_head = head / static_cast<int>(view.model.group());
    const kvc::stream_rows<Spec, true> keys(view, step, 0, 0, stored_head);
    const kvc::stream_rows<Spec, false> values(view, step, 0, 0, stored_head);
    const float* key_constants = kvc::detail::constants_of<true>(view, 0, stored_head).transform;
    const float* value_constants = kvc::detail::constants_of<false>(view, 0, stored_head).transform;
    kvc::reference::attention_input in;
    in.scale = static_cast<double>(params.scale);
    in.soft_cap = static_cast<double>(params.soft_cap);
    for (int i = 0; i < Spec::query_width; ++i) {
      in.query.push_back(static_cast<double>(q[head * Spec::query_width + i].value()));
    }
    for (const kvc::row_range range : {seen.sinks, seen.recent}) {
      for (kvc::int64 t = range.begin; t < range.end; ++t) {
        float stored[first::width], key[first::model_width], stored_value[second::width], value[second::model_width];
        keys.read(t, position + 1, stored);
        kvc::transform<first>::restore(stored, key, key_constants);
        if constexpr (first::is_deferred) {
          first::rotary_policy::template rotate<first::model_width>(key, params.rotary.at(t));
        }
        values.read(t, position + 1, stored_value);
        kvc::transform<second>::restore(stored_value, value, value_constants);
        std::vector<double> k(key, key + first::model_width);
        std::vector<double> other(value, value + second::model_width);
        if (Spec::is_latent) {  // the latent is the value; with the rotary key behind it, the key
          other.swap(k);
          k.insert(k.begin(), other.begin(), other.end());
        }
        in.keys.push_back(k);
        in.values.push_back(other);
      }
    }
    const std::vector<double> expected = kvc::reference::attention(in).out;
    for (std::size_t c = 0; c < expected.size(); ++c) {
      const double error = static_cast<double>(out[head * Spec::output_width + static_cast<int>(c)]) - expected[c];
      distance += error * error;
      norm += expected[c] * expected[c];
    }
  }
  return std::sqrt(distance / norm);
}

}  // namespace kvc_bench
