// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace report {
namespace {

std::string format(const char* pattern, double value) {
  char out[64];
  std::snprintf(out, sizeof out, pattern, value);
  return out;
}

/// The work of one call of run().
class runner {
 public:
  runner(engine::model& model, engine::device_model* device, const plan& plan, progress& progress)
      : model_(model), device_(device), plan_(plan), progress_(progress) {
    out_.reference.entry = find_cache(reference_name);
    for (const engine::cache_entry& entry : plan.caches) {
      out_.caches.push_back({entry, {}, {}});
      out_.was_calibrated |= entry.is_calibrated;
    }
    if (plan.words != nullptr) out_.passkeys = passkey_tasks(*plan.words);
  }

  results run() {
    progress_.plan(planned_tokens());
    if (out_.was_calibrated) calibrate();
    for (std::size_t i = 0; i < plan_.windows; ++i) read(i);
    for_all([&](cache_result& cache) { look_for_passkeys(cache); });
    for (cache_result& cache : out_.caches) {
      if (is_reference(cache)) cache = out_.reference;
    }
    out_.seconds = progress_.seconds();
    return std::move(out_);
  }

 private:
  static bool is_reference(const cache_result& cache) { return cache.entry.name == reference_name; }

  /// The reference, and then every other cache.
  template <class Call>
  void for_all(Call&& call) {
    call(out_.reference);
    for (cache_result& cache : out_.caches) {
      if (!is_reference(cache)) call(cache);
    }
  }

  std::size_t planned_tokens() {
    std::size_t caches = 0, passkey_tokens = 0;
    for_all([&](cache_result&) { ++caches; });
    for (const passkey_task& task : out_.passkeys) passkey_tokens += task.prompt.size();
    return (out_.was_calibrated ? plan_.sample.size() : 0) + caches * (plan_.windows * plan_.window + passkey_tokens);
  }

  void calibrate() {
    progress_.begin("calibration", plan_.sample.size());
    samples_ = std::make_unique<engine::samples>(model_, plan_.sample);
    progress_.end("rows and queries of " + std::to_string(plan_.sample.size()) + " tokens of other text");
  }

  std::unique_ptr<engine::attention_cache> new_cache(const cache_result& cache, std::size_t context) const {
    return make_cache(device_, cache.entry.name, model_.config().attention(),
                      {.context = static_cast<int>(context),
                       .pool = &model_.pool(),
                       .rotary = &model_.rotary(),
                       .data = samples_ ? &samples_->data() : nullptr});
  }
  engine::decoder& reader() {
    if (device_ != nullptr) return *device_;
    return model_;
  }

  void read(std::size_t index) {
    const auto window = plan_.text.subspan(index * plan_.window, plan_.window);
    reference_logits expected(window, static_cast<std::size_t>(model_.config().vocabulary));
    const std::string of_window =
        plan_.windows > 1 ? ", window " + std::to_string(index + 1) + " of " + std::to_string(plan_.windows) : "";
    for_all([&](cache_result& cache) {
      progress_.begin(cache.entry.name + of_window, window.size());
      const auto made = new_cache(cache, window.size());
      position_scores scores = expected.empty_scores();
      const window_reading reading =
          read_window(reader(), *made, window, [&](std::size_t first, std::span<const float> logits) {
            if (is_reference(cache)) {
              expected.record(first, logits, model_.pool());
            } else {
              expected.compare(first, logits, model_.pool(), scores);
            }
            progress_.advance(logits.size() / static_cast<std::size_t>(model_.config().vocabulary));
          });
      cache.reading.add(is_reference(cache) ? expected.own_scores() : scores, reading);
      progress_.end("perplexity " + format("%.3f", std::exp(cache.reading.window_losses.back())) + ", KL " +
                    format("%.5f", cache.reading.window_kls.back()));
    });
  }

  void look_for_passkeys(cache_result& cache) {
    if (out_.passkeys.empty()) return;
    std::size_t tokens = 0;
    for (const passkey_task& task : out_.passkeys) tokens += task.prompt.size();
    progress_.begin(cache.entry.name + ", passkeys", tokens);
    cache.passkey.emplace();
    std::size_t found = 0;
    for (const passkey_task& task : out_.passkeys) {
      const auto made = new_cache(cache, static_cast<std::size_t>(passkey_context(out_.passkeys)));
      cache.passkey->found.push_back(retrieves(reader(), *made, *plan_.words, task));
      found += cache.passkey->found.back() ? 1 : 0;
      progress_.advance(task.prompt.size());
    }
    progress_.end(std::to_string(found) + " of " + std::to_string(out_.passkeys.size()) + " found");
  }

  engine::model& model_;
  engine::device_model* device_;
  const plan& plan_;
  progress& progress_;
  std::unique_ptr<engine::samples> samples_;
  results out_;
};

}  // namespace

double retrieval::share() const {
  return static_cast<double>(std::count(found.begin(), found.end(), true)) / static_cast<double>(found.size());
}

engine::cache_entry find_cache(const std::string& name) {
  for (engine::cache_entry& entry : engine::list_caches()) {
    if (entry.name == name) return entry;
  }
  throw std::invalid_argument("there is no cache '" + name + "'");
}

std::unique_ptr<engine::attention_cache> make_cache(engine::device_model* device, const std::string& name,
                                                    const engine::attention_shape& shape,
                                                    const engine::cache_options& options) {
  return device != nullptr ? device->make_cache(name, options) : engine::make_cache(name, shape, options);
}

results run(engine::model& model, engine::device_model* device, const plan& plan, progress& progress) {
  return runner(model, device, plan, progress).run();
}

}  // namespace report
