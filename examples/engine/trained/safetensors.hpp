// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace engine {

// A safetensors file is: the length of its header (8 bytes, little endian), the header, a JSON object that names each
// tensor's type, shape and place, and the tensors' bytes. `__metadata__` holds texts. Whatever the bytes hold, the
// outcome is a valid safetensors_file or one std::runtime_error with one sentence.

/// A tensor as it stands in the file; `shape` has the slowest dimension first.
struct safetensor {
  std::string type;  ///< "F32", "F16", "BF16", "I8", ...
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;
};

class safetensors_file {
 public:
  /// Reads a whole file. Errors name the path.
  static safetensors_file read(const std::string& path);
  static safetensors_file parse(std::vector<std::byte> bytes);

  safetensors_file(const safetensors_file&) = delete;
  safetensors_file& operator=(const safetensors_file&) = delete;
  safetensors_file(safetensors_file&&) = default;
  safetensors_file& operator=(safetensors_file&&) = default;

  const std::map<std::string, safetensor>& tensors() const { return tensors_; }

  /// A text of the metadata; an error where there is none of this name.
  const std::string& text(const std::string& key) const;

  /// A tensor's elements as fp32. F32, F16, BF16; and I8 [outputs][inputs] with a scale for each output in the F32
  /// tensor `name`.scale. An error where there is no such tensor, or not of exactly this shape.
  std::vector<float> floats(const std::string& name, std::span<const std::size_t> shape) const;

 private:
  safetensors_file() = default;
  const safetensor& tensor(const std::string& name, std::span<const std::size_t> shape) const;

  std::vector<std::byte> bytes_;
  std::map<std::string, std::string> texts_;
  std::map<std::string, safetensor> tensors_;
};

}  // namespace engine
