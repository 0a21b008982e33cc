// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "gguf.hpp"

namespace engine {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little endian, as the machine must be");

namespace {

using json = nlohmann::json;

constexpr std::size_t length_bytes = 8;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("safetensors: " + what);
}

/// Bytes of an element; 0 for a type that is not known.
std::size_t element_bytes(const std::string& type) {
  static const std::map<std::string, std::size_t> known = {{"F64", 8}, {"I64", 8},  {"F32", 4}, {"I32", 4},
                                                           {"F16", 2}, {"BF16", 2}, {"I16", 2}, {"I8", 1},
                                                           {"U8", 1},  {"BOOL", 1}};
  const auto found = known.find(type);
  return found == known.end() ? 0 : found->second;
}

json parse_header(std::span<const std::byte> bytes) {
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  json out = json::parse(text, text + bytes.size(), nullptr, false);
  if (!out.is_object()) fail("the header is no JSON object");
  return out;
}

std::size_t count_from(const json& value, const std::string& name) {
  if (!value.is_number_unsigned()) fail("tensor " + engine::quoted(name) + " has a size that is no whole number");
  return value.get<std::size_t>();
}

safetensor read_entry(const std::string& name, const json& entry, std::span<const std::byte> data) {
  const bool complete = entry.is_object() && entry.contains("dtype") && entry["dtype"].is_string() &&
                        entry.contains("shape") && entry["shape"].is_array() && entry.contains("data_offsets") &&
                        entry["data_offsets"].is_array() && entry["data_offsets"].size() == 2;
  if (!complete) fail("tensor " + engine::quoted(name) + " lacks its type, shape or place");
  safetensor out;
  out.type = entry["dtype"].get<std::string>();
  const std::size_t element = element_bytes(out.type);
  if (element == 0)
    fail("tensor " + engine::quoted(name) + " is of a type that is not known, " + engine::quoted(out.type));
  std::size_t size = element;
  for (const json& dimension : entry["shape"]) {
    out.shape.push_back(count_from(dimension, name));
    if (out.shape.back() != 0 && size > data.size() / out.shape.back()) {
      fail("tensor " + engine::quoted(name) + " is larger than the file");
    }
    size *= out.shape.back();
  }
  const std::size_t begin = count_from(entry["data_offsets"][0], name),
                    end = count_from(entry["data_offsets"][1], name);
  if (begin > end || end > data.size()) fail("tensor " + engine::quoted(name) + " lies outside the file");
  if (end - begin != size) fail("tensor " + engine::quoted(name) + " has not as many bytes as its shape");
  out.bytes = data.subspan(begin, size);
  return out;
}

template <class T>
T element_at(std::span<const std::byte> bytes, std::size_t i) {
  T out;
  std::memcpy(&out, bytes.data() + i * sizeof(T), sizeof(T));
  return out;
}

}  // namespace

safetensors_file safetensors_file::read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("the file '" + path + "' cannot be read");
  const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const auto raw = std::as_bytes(std::span(content));
  try {
    return parse({raw.begin(), raw.end()});
  } catch (const std::runtime_error& problem) {
    throw std::runtime_error(path + ": " + problem.what());
  }
}

safetensors_file safetensors_file::parse(std::vector<std::byte> bytes) {
  safetensors_file out;
  out.bytes_ = std::move(bytes);
  const std::span<const std::byte> all = out.bytes_;
  if (all.size() < length_bytes) fail("the file ends before its header");
  const auto length = element_at<std::uint64_t>(all, 0);
  if (length > all.size() - length_bytes) fail("this is no safetensors file, or it ends inside its header");
  const auto size = static_cast<std::size_t>(length);
  const json header = parse_header(all.subspan(length_bytes, size));
  const auto data = all.subspan(length_bytes + size);
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      out.tensors_.emplace(name, read_entry(name, entry, data));
      continue;
    }
    if (!entry.is_object()) fail("the metadata are no JSON object");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) fail("the metadata " + engine::quoted(key) + " are no text");
      out.texts_.emplace(key, value.get<std::string>());
    }
  }
  return out;
}

const std::string& safetensors_file::text(const std::string& key) const {
  const auto found = texts_.find(key);
  if (found == texts_.end())
    fail("there are no metadata " + engine::quoted(key) + " (was this file made by export.py?)");
  return found->second;
}

const safetensor& safetensors_file::tensor(const std::string& name, std::span<const std::size_t> shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("there is no tensor " + engine::quoted(name));
  if (!std::ranges::equal(found->second.shape, shape)) {
    fail("tensor " + engine::quoted(name) + " has the shape " + shape_text(found->second.shape) + ", not " +
         shape_text(shape));
  }
  return found->second;
}

std::vector<float> safetensors_file::floats(const std::string& name, std::span<const std::size_t> shape) const {
  const safetensor& t = tensor(name, shape);
  std::size_t count = 1;
  for (const std::size_t n : t.shape) count *= n;
  std::vector<float> out(count);
  const auto fill = [&](auto value_at) {
    for (std::size_t i = 0; i < count; ++i) out[i] = value_at(i);
  };
  if (t.type == "F32") {
    fill([&](std::size_t i) { return element_at<float>(t.bytes, i); });
  } else if (t.type == "F16") {
    fill([&](std::size_t i) { return float_from_half(element_at<std::uint16_t>(t.bytes, i)); });
  } else if (t.type == "BF16") {
    fill([&](std::size_t i) {
      return std::bit_cast<float>(std::uint32_t{element_at<std::uint16_t>(t.bytes, i)} << 16);
    });
  } else if (t.type == "I8" && t.shape.size() == 2) {
    const std::size_t outputs[] = {t.shape[0]};
    const std::vector<float> scales = floats(name + ".scale", outputs);
    fill([&](std::size_t i) {
      return scales[i / t.shape[1]] * static_cast<float>(element_at<std::int8_t>(t.bytes, i));
    });
  } else {
    fail("tensor " + engine::quoted(name) + " is of type " + t.type + ", which the engine does not compute with");
  }
  return out;
}

}  // namespace engine
