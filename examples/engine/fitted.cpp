// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "fitted.hpp"

#include <stdexcept>

#include "compositions.hpp"
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

template <int D>
std::vector<float> fit_by_name(std::string_view cache, const attention_shape& shape, const sample_data& data) {
  std::vector<float> values;
  compositions<D>::for_each([&]<class Spec>(const char* name, const char*) {
    if constexpr (Spec::calibration_floats > 0) {
      if (cache == name) values = fit_all_heads<Spec>(shape, data);
    }
  });
  return values;
}

}  // namespace

std::vector<float> fitted_constants(std::string_view cache, const attention_shape& shape, const sample_data& data) {
  switch (shape.head_dim) {
    case 64:
      return fit_by_name<64>(cache, shape, data);
    case 80:
      return fit_by_name<80>(cache, shape, data);
    case 96:
      return fit_by_name<96>(cache, shape, data);
    case 128:
      return fit_by_name<128>(cache, shape, data);
    case 256:
      return fit_by_name<256>(cache, shape, data);
    default:
      throw std::invalid_argument("no cache is built for this head dim");
  }
}

std::span<const kvc::int32> leaders_of(const sample_data& data) {
  return data.leaders;
}

}  // namespace engine
