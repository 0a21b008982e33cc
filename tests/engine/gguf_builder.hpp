// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace engine_test {

using bytes = std::vector<std::byte>;

/// Appends the bytes of a number.
template <class T>
void put(bytes& to, T value) {
  const std::size_t at = to.size();
  to.resize(at + sizeof(T));
  std::memcpy(to.data() + at, &value, sizeof(T));
}

/// Appends a string as GGUF writes it: a 64-bit length and the characters.
inline void put_string(bytes& to, std::string_view text) {
  put<std::uint64_t>(to, text.size());
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  to.insert(to.end(), data, data + text.size());
}

/// Writes a GGUF file in memory. Every count can be overwritten, so that wrong files are as easy to write as right
/// ones.
class gguf_builder {
 public:
  std::uint32_t version = 3;
  std::int64_t tensor_count = -1;  // -1: as many as there are
  std::int64_t value_count = -1;
  std::size_t alignment = 32;  // of the data; the metadata key is written by the caller

  gguf_builder& u32(std::string_view key, std::uint32_t value) { return scalar(key, 4, value); }
  gguf_builder& i32(std::string_view key, std::int32_t value) { return scalar(key, 5, value); }
  gguf_builder& u64(std::string_view key, std::uint64_t value) { return scalar(key, 10, value); }
  gguf_builder& f32(std::string_view key, float value) { return scalar(key, 6, value); }
  gguf_builder& boolean(std::string_view key, bool value) { return scalar<std::uint8_t>(key, 7, value ? 1 : 0); }

  gguf_builder& text(std::string_view key, std::string_view value) {
    begin(key, 8);
    put_string(values_, value);
    return *this;
  }

  gguf_builder& strings(std::string_view key, const std::vector<std::string>& items) {
    begin(key, 9);
    put<std::uint32_t>(values_, 8);
    put<std::uint64_t>(values_, items.size());
    for (const auto& item : items) put_string(values_, item);
    return *this;
  }

  template <class T>
  gguf_builder& numbers(std::string_view key, std::uint32_t type, const std::vector<T>& items) {
    begin(key, 9);
    put<std::uint32_t>(values_, type);
    put<std::uint64_t>(values_, items.size());
    for (const T item : items) put(values_, item);
    return *this;
  }

  /// A key, a type, and whatever bytes follow.
  gguf_builder& raw_value(std::string_view key, std::uint32_t type, const bytes& value) {
    begin(key, type);
    values_.insert(values_.end(), value.begin(), value.end());
    return *this;
  }

  /// `shape` slowest first, as in memory. The data lie behind those of the tensors before.
  gguf_builder& tensor(std::string_view name, std::uint32_t type, const std::vector<std::uint64_t>& shape,
                       const bytes& data) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    raw_tensor(name, type, shape, data_.size());
    data_.insert(data_.end(), data.begin(), data.end());
    return *this;
  }

  /// A row of the tensor table, true or not, without data.
  gguf_builder& raw_tensor(std::string_view name, std::uint32_t type, const std::vector<std::uint64_t>& shape,
                           std::uint64_t offset) {
    put_string(tensors_, name);
    put<std::uint32_t>(tensors_, static_cast<std::uint32_t>(shape.size()));
    for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent) put<std::uint64_t>(tensors_, *extent);
    put<std::uint32_t>(tensors_, type);
    put<std::uint64_t>(tensors_, offset);
    ++tensors_written_;
    return *this;
  }

  bytes build() const {
    bytes out;
    for (const char c : {'G', 'G', 'U', 'F'}) put(out, c);
    put(out, version);
    put<std::int64_t>(out, tensor_count >= 0 ? tensor_count : tensors_written_);
    put<std::int64_t>(out, value_count >= 0 ? value_count : values_written_);
    out.insert(out.end(), values_.begin(), values_.end());
    out.insert(out.end(), tensors_.begin(), tensors_.end());
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    out.insert(out.end(), data_.begin(), data_.end());
    return out;
  }

 private:
  void begin(std::string_view key, std::uint32_t type) {
    put_string(values_, key);
    put(values_, type);
    ++values_written_;
  }

  template <class T>
  gguf_builder& scalar(std::string_view key, std::uint32_t type, T value) {
    begin(key, type);
    put(values_, value);
    return *this;
  }

  bytes values_, tensors_, data_;
  std::int64_t values_written_ = 0, tensors_written_ = 0;
};

/// What a call complains about; empty where it does not. Only std::runtime_error is a proper refusal.
template <class Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const std::runtime_error& problem) {
    return problem.what();
  }
  return {};
}

}  // namespace engine_test
