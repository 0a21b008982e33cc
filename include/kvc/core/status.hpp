// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1 {

/// What a launcher answers. Launchers never throw, print or allocate.
enum class [[nodiscard]] status : int{
    ok = 0,       invalid_argument,  null_pointer,    misaligned,      bad_layer,           bad_sequence,
    bad_position, follower_layer,    out_of_capacity, no_step,         step_open,           not_appended,
    evicted,      unsupported,       bad_extents,     bad_layer_map,   workspace_too_small, corrupt_file,
    other_cache,  other_calibration, device_error,    deferred_rotary,
};

/// One sentence for people.
constexpr const char* to_string(status s) {
  switch (s) {
    case status::ok:
      return "ok";
    case status::invalid_argument:
      return "an argument is out of its range";
    case status::null_pointer:
      return "a buffer that is needed is null";
    case status::misaligned:
      return "page and tail buffers must be 16-byte aligned";
    case status::bad_layer:
      return "the layer does not exist in this cache";
    case status::bad_sequence:
      return "the sequence id does not exist";
    case status::bad_position:
      return "the position or row range is outside of the sequence";
    case status::follower_layer:
      return "this layer reads another layer's rows and must not append";
    case status::out_of_capacity:
      return "no free pages, sequences or step rows are left; nothing was reserved";
    case status::no_step:
      return "no step is open: call reserve first";
    case status::step_open:
      return "a step is open: commit it or abandon it first";
    case status::not_appended:
      return "the slot that this layer reads was not appended in this step";
    case status::evicted:
      return "a row that is needed was evicted and cannot come back";
    case status::unsupported:
      return "this composition does not support the call; route() says why";
    case status::bad_extents:
      return "layer or head counts do not fit the composition";
    case status::bad_layer_map:
      return "the layer map points to a layer that writes nothing, or to a later one";
    case status::workspace_too_small:
      return "the workspace is smaller than its query function asks";
    case status::corrupt_file:
      return "the cache file is truncated or corrupt";
    case status::other_cache:
      return "the cache file was written by another composition or model shape";
    case status::other_calibration:
      return "the cache file was written with another calibration";
    case status::device_error:
      return "the CUDA runtime reported an error; kvc::cuda::last_error() has its code";
    case status::deferred_rotary:
      return "keys are stored before their rotary embedding: attend takes the rotary table, append does not";
  }
  return "unknown status";
}

}  // namespace kvc::inline v0_1
