// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace engine {

// A GGUF file is: a magic, counts, a table of named values (the metadata), a table of named tensors, and then, aligned,
// the tensors' bytes. Reading one means checking those tables; nothing is copied until a tensor is dequantized.
// Versions 2 and 3, little endian. Whatever the bytes hold, the outcome is a valid gguf_file or one std::runtime_error
// with one sentence; memory stays within a small multiple of the file's own size.

/// The element formats that the engine can read, with the numbers that files give them.
enum class tensor_type : std::uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 8, bf16 = 30 };

/// The types of metadata values, with the numbers that files give them.
enum class value_type : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

/// An array in the metadata: checked when the file is parsed, decoded when it is asked for. (Tokenizers hold hundreds
/// of thousands of strings; arrays of arrays are walked over, but nothing asks for them.)
struct gguf_array {
  value_type element = value_type::u8;
  std::size_t count = 0;
  std::span<const std::byte> bytes;  ///< the elements as they stand in the file
};

/// Integers are widened to 64 bit by their signedness, f32 to double.
using gguf_value = std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, gguf_array>;

/// A tensor as it stands in the file. `shape` is in the order of matrices in memory, the slowest dimension first: a
/// weight is [outputs][inputs]. (The file lists the fastest first.)
struct gguf_tensor {
  tensor_type type = tensor_type::f32;
  std::vector<std::size_t> shape;
  std::size_t elements = 0;
  std::span<const std::byte> bytes;
};

class gguf_file {
 public:
  /// Reads a whole file. Errors name the path.
  static gguf_file read(const std::string& path);

  /// Parses bytes that the caller keeps alive for as long as the result.
  static gguf_file parse(std::span<const std::byte> bytes);

  // Views point into the bytes, so a copy would need care that nobody asked for yet. A move keeps the heap block.
  gguf_file(const gguf_file&) = delete;
  gguf_file& operator=(const gguf_file&) = delete;
  gguf_file(gguf_file&&) = default;
  gguf_file& operator=(gguf_file&&) = default;

  std::uint32_t version() const { return version_; }
  const std::map<std::string_view, gguf_value>& metadata() const { return metadata_; }
  const std::map<std::string_view, gguf_tensor>& tensors() const { return tensors_; }

  bool has(std::string_view key) const { return metadata_.contains(key); }

  // Typed look-ups. A missing key gives the fall-back, or an error where there is none; a value of another type is
  // always an error, as is an integer outside [low, high].
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high,
                       std::optional<std::int64_t> fallback = {}) const;
  double number(std::string_view key, std::optional<double> fallback = {}) const;
  bool boolean(std::string_view key, std::optional<bool> fallback = {}) const;
  std::string_view text(std::string_view key, std::optional<std::string_view> fallback = {}) const;
  std::vector<std::string_view> strings(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key) const;
  std::vector<float> floats(std::string_view key) const;

  /// The tensor of this name and exactly this shape, or an error that states both.
  const gguf_tensor& tensor(std::string_view name, std::span<const std::size_t> shape) const;

 private:
  gguf_file() = default;
  const gguf_value* find(std::string_view key) const;
  const gguf_array& array(std::string_view key) const;

  std::vector<std::byte> owned_;  // empty where the caller owns the bytes
  std::uint32_t version_ = 0;
  std::map<std::string_view, gguf_value> metadata_;
  std::map<std::string_view, gguf_tensor> tensors_;
};

/// How many elements share one block of bytes, and how many bytes that is (f32: 1 and 4; Q4_1: 32 and 20).
struct block_layout {
  std::size_t elements = 1;
  std::size_t bytes = 4;
};
block_layout layout_of(tensor_type type);
std::string_view name_of(tensor_type type);

/// Every element as fp32, in memory order.
std::vector<float> dequantize(const gguf_tensor& tensor);

/// IEEE half precision to single, exactly: subnormals, infinities and NaN included.
float float_from_half(std::uint16_t bits);

/// A name out of a file, for a message: in quotes, cut after 80 bytes, with '?' for what is no printable ASCII.
std::string quoted(std::string_view name);

/// A shape as people read it: "[49152][576]".
std::string shape_text(std::span<const std::size_t> shape);

}  // namespace engine
