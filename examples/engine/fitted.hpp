// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "attention_cache.hpp"
#include "kvc/core/config.hpp"

namespace engine {

struct sample_data;

/// The constants of a calibrated composition, as kvc::calibration<Spec>::load takes them, fitted to a model's own rows.
/// Apart from the caches, because it needs Eigen, which takes long to compile.
std::vector<float> fitted_constants(std::string_view cache, const attention_shape& shape, const sample_data& data);

/// The layer map that was found on the samples, [layers].
std::span<const kvc::int32> leaders_of(const sample_data& data);

}  // namespace engine
