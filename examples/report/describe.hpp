// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <string>

#include "model_config.hpp"
#include "run.hpp"

namespace report {

/// What was measured, on what, with what: everything but the results.
struct setting {
  std::string date;  ///< UTC, ISO 8601
  std::string cpu;
  std::string gpu;  ///< empty where the host did the reading
  int threads = 1;

  std::string model_name;
  std::size_t model_bytes = 0;
  engine::model_config model;

  std::string text_name;
  std::size_t text_bytes = 0, text_tokens = 0;
  std::size_t skip_tokens = 0, window = 0, windows = 0;

  std::string sample_name;  ///< empty where no cache was calibrated
  std::size_t sample_tokens = 0;
};

/// Fills date, cpu and threads.
void describe_machine(setting& to, int threads);

/// The figures of one cache in the units of the table.
struct figures {
  double bits_per_value = 0;   ///< all bytes over all values of the model's own cache
  double bytes_per_token = 0;  ///< pages and tail as allocated, over the tokens of a window
  double ratio = 0;            ///< the model's own cache in 16 bit over this one
  double perplexity = 0;
  double perplexity_change = 0;                                       ///< 0.01 is one percent more than fp32
  double append_tokens_per_second = 0, attend_tokens_per_second = 0;  ///< in steps of many tokens
  double append_gb_per_second = 0;                                    ///< compressed bytes written
  double decode_append_seconds = 0, decode_attend_seconds = 0;        ///< one token at the end of a window
  double decode_attend_gb_per_second = 0;                             ///< compressed bytes read
};
figures figures_of(const cache_result& cache, const cache_result& reference, const setting& setting);

/// Two bytes for each key and value of one token.
double bytes_in_16_bit(const engine::model_config& model);

/// The table for people.
std::string table(const results& results, const setting& setting);

/// report.json.
std::string to_json(const results& results, const setting& setting);

}  // namespace report
