// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "caches.hpp"
#include "device.hpp"
#include "evaluate.hpp"
#include "passkey.hpp"
#include "progress.hpp"
#include "samples.hpp"
#include "siblings.hpp"

namespace report {

/// The cache that all others are compared with.
inline constexpr const char* reference_name = "fp32";

/// What is read through which caches.
struct plan {
  std::vector<engine::cache_entry> caches;
  std::span<const token> text;  ///< begins with the first window
  std::size_t window = 0, windows = 0;
  std::span<const token> sample;  ///< for calibrated caches
  int threads = 1;
  const engine::tokenizer* words = nullptr;  ///< for passkeys; null: no passkeys
};

/// Whether the number was found, per depth.
struct retrieval {
  std::vector<bool> found;
  double share() const;
};

struct cache_result {
  engine::cache_entry entry;
  evaluation reading;
  std::optional<retrieval> passkey;
};

struct results {
  cache_result reference;  ///< fp32, also where it is none of the caches asked for
  std::vector<cache_result> caches;
  std::vector<sibling> siblings;
  std::vector<passkey_task> passkeys;
  bool was_calibrated = false;
  double seconds = 0;
};

/// Reads all windows through all caches, one cache at a time, the reference first. `device`, where there is one, does
/// the reading; calibration and scores are the host's.
results run(engine::model& model, engine::device_model* device, const plan& plan, progress& progress);

/// A cache for what reads: `device`, or else the host.
std::unique_ptr<engine::attention_cache> make_cache(engine::device_model* device, const std::string& name,
                                                    const engine::attention_shape& shape,
                                                    const engine::cache_options& options);

/// The entry of a cache that exists.
engine::cache_entry find_cache(const std::string& name);

}  // namespace report
