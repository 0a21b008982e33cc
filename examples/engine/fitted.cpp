// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "fitted.hpp"

#include <utility>

#include "compositions.hpp"
#include "head_dims.hpp"
#include "kvc/calibrate/fit.hpp"
#include "sample_data.hpp"

namespace engine {
namespace {

template <class Spec>
std::vector<float> fit_all_heads(const attention_shape& shape, const sample_data& data) {
  kvc::extents<Spec> e{shape.layers, shape.query_heads, shape.kv_heads};
  e.leaders = data.leaders.data();
  kvc::calibration<Spec> constants(e);
  for (int layer = 0; layer < e.layers; ++layer) {
    if (!e.writes(layer)) continue;
    for (int head = 0; head < e.stored_heads(); ++head) {
      const head_moments& m = data.at(layer, head);
      kvc::calibrate::fit(constants, e.slot(layer), head,
                          {Spec::first_stream::is_deferred ? m.keys_before : m.keys_after, m.values, m.queries});
    }
  }
  return {constants.values().begin(), constants.values().end()};
}

template <int... D>
std::vector<float> fit_by_name(std::string_view cache, const attention_shape& shape, const sample_data& data,
                               std::integer_sequence<int, D...>) {
  std::vector<float> values;
  const auto fit = [&]<int Dim>() {
    if (shape.head_dim != Dim) return;
    compositions<Dim>::for_each([&]<class Spec>(const char* name, const char*) {
      if constexpr (Spec::calibration_floats > 0) {
        if (cache == name) values = fit_all_heads<Spec>(shape, data);
      }
    });
  };
  (fit.template operator()<D>(), ...);
  return values;
}

}  // namespace

std::vector<float> fitted_constants(std::string_view cache, const attention_shape& shape, const sample_data& data) {
  return fit_by_name(cache, shape, data, head_dims());
}

std::span<const kvc::int32> leaders_of(const sample_data& data) {
  return data.leaders;
}

}  // namespace engine
