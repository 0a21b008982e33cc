// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "caches.hpp"

#include <stdexcept>
#include <utility>

#include "compositions.hpp"
#include "exact_cache.hpp"
#include "head_dims.hpp"

namespace engine {

template <int D, int Group>
std::unique_ptr<attention_cache> make_composed(std::string_view, const attention_shape&, const cache_options&);

namespace {

template <int D, int... Group>
std::unique_ptr<attention_cache> make_for(std::string_view name, const attention_shape& shape,
                                          const cache_options& options, std::integer_sequence<int, Group...>) {
  std::unique_ptr<attention_cache> made;
  ((made = make_composed<D, Group>(name, shape, options)) || ...);
  return made;
}

/// Null where there is no such name. Throws where there is no such head dimension.
template <int... D>
std::unique_ptr<attention_cache> make_for(std::string_view name, const attention_shape& shape,
                                          const cache_options& options, std::integer_sequence<int, D...>) {
  std::unique_ptr<attention_cache> made;
  const auto make = [&]<int Dim>() {
    if (shape.head_dim != Dim) return false;
    made = make_for<Dim>(name, shape, options, std::make_integer_sequence<int, 4>());
    return true;
  };
  if ((make.template operator()<D>() || ...)) return made;
  std::string dims;
  ((dims += (dims.empty() ? "" : ", ") + std::to_string(D)), ...);
  throw std::invalid_argument("no cache is built for heads of " + std::to_string(shape.head_dim) + " channels (" +
                              dims + ")");
}

}  // namespace

std::vector<cache_entry> list_caches() {
  std::vector<cache_entry> out;
  out.push_back({"exact", "fp32 keys and values, written without kvc: the check on kvc's own fp32", false, false, ""});
  compositions<64>::for_each([&]<class Spec>(const char* name, const char* summary) {
    const bool has_map = requires {
      Spec::layers_policy::needs_table;
    };
    const bool is_default = name != std::string_view("mixture-3") && name != std::string_view("pruned-keys");
    out.push_back({name, summary, Spec::calibration_floats > 0 || has_map, is_default, Spec::name().c_str()});
  });
  return out;
}

std::unique_ptr<attention_cache> make_cache(std::string_view name, const attention_shape& shape,
                                            const cache_options& options) {
  if (name == "exact") {
    return options.pool != nullptr ? std::make_unique<exact_cache>(shape, options.context, *options.pool)
                                   : std::make_unique<exact_cache>(shape, options.context, options.threads);
  }
  auto made = make_for(name, shape, options, head_dims());
  if (made != nullptr) return made;
  std::string names;
  for (const cache_entry& cache : list_caches()) {
    if (cache.name == name) {
      throw std::invalid_argument("the cache '" + cache.name +
                                  "' is calibrated, and built for heads of 64 and 128 channels");
    }
    names += (names.empty() ? "" : ", ") + cache.name;
  }
  throw std::invalid_argument("there is no cache '" + std::string(name) + "' (there are: " + names + ")");
}

}  // namespace engine
