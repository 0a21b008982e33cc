// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "gguf.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <utility>

namespace engine {

static_assert(std::endian::native == std::endian::little, "GGUF files are little endian, and so must the machine be");

namespace {

constexpr std::size_t max_dimensions = 4;
constexpr int max_array_nesting = 4;
constexpr std::size_t max_name_bytes = 65535;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("GGUF: " + what);
}

/// Walks over the bytes; every read is checked against what is left.
class reader {
 public:
  explicit reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::size_t position() const { return position_; }
  std::size_t left() const { return bytes_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t count, const char* what) {
    if (count > left()) {
      fail("the file ends inside " + std::string(what) + " (byte " + std::to_string(position_) + " of " +
           std::to_string(bytes_.size()) + ", " + std::to_string(count) + " wanted)");
    }
    const auto out = bytes_.subspan(position_, static_cast<std::size_t>(count));
    position_ += out.size();
    return out;
  }

  template <class T>
  T scalar(const char* what) {
    T out;
    std::memcpy(&out, take(sizeof(T), what).data(), sizeof(T));
    return out;
  }

  std::string_view string(const char* what) {
    const auto length = scalar<std::uint64_t>(what);
    const auto raw = take(length, what);
    return {reinterpret_cast<const char*>(raw.data()), raw.size()};
  }

  /// A count of things of at least `smallest` bytes each: more than the rest of the file could hold is a lie, and is
  /// refused before anything is sized by it.
  std::size_t count(std::size_t smallest, const char* what) {
    const auto n = scalar<std::uint64_t>(what);
    if (n > left() / smallest) {
      fail("the " + std::string(what) + " is " + std::to_string(n) + ", more than the rest of the file could hold");
    }
    return static_cast<std::size_t>(n);
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
};

/// Bytes of a value of fixed size; 0 for strings and arrays; refuses numbers that are no type.
std::size_t bytes_of(value_type type) {
  switch (type) {
    case value_type::u8:
    case value_type::i8:
    case value_type::boolean:
      return 1;
    case value_type::u16:
    case value_type::i16:
      return 2;
    case value_type::u32:
    case value_type::i32:
    case value_type::f32:
      return 4;
    case value_type::u64:
    case value_type::i64:
    case value_type::f64:
      return 8;
    case value_type::string:
    case value_type::array:
      return 0;
  }
  fail("there is no metadata type " + std::to_string(static_cast<std::uint32_t>(type)));
}

/// Walks over one array, arrays inside arrays too, and returns where its elements lie.
gguf_array read_array(reader& in, std::span<const std::byte> file, int nesting) {
  if (nesting > max_array_nesting)
    fail("metadata arrays are nested deeper than " + std::to_string(max_array_nesting) + " levels");
  gguf_array out;
  out.element = static_cast<value_type>(in.scalar<std::uint32_t>("an array's type"));
  const std::size_t fixed = bytes_of(out.element);
  const std::size_t smallest = fixed > 0 ? fixed : out.element == value_type::string ? 8 : 12;
  out.count = in.count(smallest, "length of a metadata array");

  const std::size_t begin = in.position();
  if (fixed > 0) {
    in.take(out.count * fixed, "a metadata array");  // fits: count() divided
  } else {
    for (std::size_t i = 0; i < out.count; ++i) {
      if (out.element == value_type::string)
        in.string("a string of a metadata array");
      else
        read_array(in, file, nesting + 1);
    }
  }
  out.bytes = file.subspan(begin, in.position() - begin);
  return out;
}

/// One number of a fixed-size type, widened.
gguf_value read_scalar(reader& in, value_type type) {
  const char* what = "a metadata value";
  switch (type) {
    case value_type::u8:
      return std::uint64_t{in.scalar<std::uint8_t>(what)};
    case value_type::i8:
      return std::int64_t{in.scalar<std::int8_t>(what)};
    case value_type::u16:
      return std::uint64_t{in.scalar<std::uint16_t>(what)};
    case value_type::i16:
      return std::int64_t{in.scalar<std::int16_t>(what)};
    case value_type::u32:
      return std::uint64_t{in.scalar<std::uint32_t>(what)};
    case value_type::i32:
      return std::int64_t{in.scalar<std::int32_t>(what)};
    case value_type::u64:
      return in.scalar<std::uint64_t>(what);
    case value_type::i64:
      return in.scalar<std::int64_t>(what);
    case value_type::f32:
      return double{in.scalar<float>(what)};
    case value_type::f64:
      return in.scalar<double>(what);
    case value_type::boolean:
      return in.scalar<std::uint8_t>(what) != 0;
    default:
      fail("there is no number of metadata type " + std::to_string(static_cast<std::uint32_t>(type)));
  }
}

gguf_value read_value(reader& in, std::span<const std::byte> file) {
  const auto type = static_cast<value_type>(in.scalar<std::uint32_t>("a metadata type"));
  bytes_of(type);  // refuses numbers that are no type
  if (type == value_type::string) return in.string("a metadata string");
  if (type == value_type::array) return read_array(in, file, 1);
  return read_scalar(in, type);
}

std::string_view read_name(reader& in, const char* what) {
  const std::string_view name = in.string(what);
  if (name.empty()) fail(std::string(what) + " is empty");
  if (name.size() > max_name_bytes) fail(std::string(what) + " is longer than 65535 bytes");
  return name;
}

/// Formats that exist but are not served, so that the refusal can name them.
std::string other_type_name(std::uint32_t type) {
  static const std::map<std::uint32_t, const char*> names = {
      {6, "Q5_0"},   {7, "Q5_1"},   {9, "Q8_1"},     {10, "Q2_K"},   {11, "Q3_K"},    {12, "Q4_K"},  {13, "Q5_K"},
      {14, "Q6_K"},  {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"},
      {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"},  {24, "I8"},     {25, "I16"},     {26, "I32"},   {27, "I64"},
      {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},   {35, "TQ2_0"},  {39, "MXFP4"}};
  const auto found = names.find(type);
  return found != names.end() ? found->second : "number " + std::to_string(type);
}

tensor_type checked_type(std::uint32_t type, std::string_view tensor) {
  for (const auto served : {tensor_type::f32, tensor_type::f16, tensor_type::bf16, tensor_type::q8_0, tensor_type::q4_0,
                            tensor_type::q4_1}) {
    if (type == static_cast<std::uint32_t>(served)) return served;
  }
  fail("tensor " + quoted(tensor) + " has type " + other_type_name(type) +
       ", which is not served (served: F32, F16, BF16, Q8_0, Q4_0, Q4_1)");
}

/// A row of the tensor table, before its bytes are known to exist.
struct tensor_entry {
  gguf_tensor tensor;
  std::uint64_t offset = 0;  // from the start of the data section
  std::size_t size = 0;      // in bytes
};

tensor_entry read_tensor_entry(reader& in, std::string_view name, std::size_t file_bytes) {
  tensor_entry out;
  const auto dimensions = in.scalar<std::uint32_t>("a tensor's dimension count");
  if (dimensions < 1 || dimensions > max_dimensions) {
    fail("tensor " + quoted(name) + " has " + std::to_string(dimensions) + " dimensions (1 to 4 are possible)");
  }
  // No format stores more than two elements per byte, so a product beyond this bound cannot be in the file.
  const std::uint64_t most_elements = 2 * std::uint64_t{file_bytes};
  std::uint64_t elements = 1;
  std::vector<std::size_t> fastest_first;
  for (std::uint32_t d = 0; d < dimensions; ++d) {
    const auto extent = in.scalar<std::uint64_t>("a tensor's shape");
    if (extent == 0) fail("tensor " + quoted(name) + " has an empty dimension");
    if (extent > most_elements / elements)
      fail("tensor " + quoted(name) + " has more elements than the file could hold");
    elements *= extent;
    fastest_first.push_back(static_cast<std::size_t>(extent));
  }
  out.tensor.type = checked_type(in.scalar<std::uint32_t>("a tensor's type"), name);
  out.offset = in.scalar<std::uint64_t>("a tensor's offset");

  const block_layout block = layout_of(out.tensor.type);
  if (fastest_first[0] % block.elements != 0) {
    fail("tensor " + quoted(name) + " has rows of " + std::to_string(fastest_first[0]) + " elements, no multiple of " +
         std::string(name_of(out.tensor.type)) + "'s blocks of " + std::to_string(block.elements));
  }
  out.tensor.shape.assign(fastest_first.rbegin(), fastest_first.rend());
  out.tensor.elements = static_cast<std::size_t>(elements);
  out.size = out.tensor.elements / block.elements * block.bytes;
  return out;
}

std::string expectation(std::string_view key, const char* kind) {
  return "metadata " + quoted(key) + " is not " + kind;
}

}  // namespace

gguf_file gguf_file::read(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) throw std::runtime_error("there is no file '" + path + "'");
  if (!std::filesystem::is_regular_file(status)) throw std::runtime_error("'" + path + "' is not a regular file");
  const auto size = std::filesystem::file_size(path, error);
  if (error) throw std::runtime_error("cannot read '" + path + "': " + error.message());

  std::ifstream stream(path, std::ios::binary);
  std::vector<std::byte> bytes(stream ? static_cast<std::size_t>(size) : 0);
  stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!stream) throw std::runtime_error("cannot read '" + path + "'");
  try {
    gguf_file out = parse(bytes);
    out.owned_ = std::move(bytes);  // a moved vector keeps its block, so the views stay valid
    return out;
  } catch (const std::runtime_error& problem) {
    throw std::runtime_error("'" + path + "': " + problem.what());
  }
}

gguf_file gguf_file::parse(std::span<const std::byte> bytes) {
  gguf_file out;
  reader in(bytes);

  // Header.
  const auto magic = in.take(4, "the magic");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) fail("this is no GGUF file (its first four bytes are not 'GGUF')");
  out.version_ = in.scalar<std::uint32_t>("the version");
  if (out.version_ == 0x02000000u || out.version_ == 0x03000000u) fail("the file is big endian, which is not served");
  if (out.version_ != 2 && out.version_ != 3)
    fail("version " + std::to_string(out.version_) + " is not served (served: 2, 3)");
  const std::size_t tensor_count = in.count(24, "tensor count");   // name length, dimension count, type, offset
  const std::size_t value_count = in.count(13, "metadata count");  // key length, type, one byte

  // Metadata.
  for (std::size_t i = 0; i < value_count; ++i) {
    const std::string_view key = read_name(in, "a metadata key");
    gguf_value value = read_value(in, bytes);
    if (!out.metadata_.emplace(key, std::move(value)).second) fail("metadata key " + quoted(key) + " stands twice");
  }
  const auto alignment = static_cast<std::uint64_t>(out.integer("general.alignment", 1, 1 << 20, 32));
  if (!std::has_single_bit(alignment)) {
    fail("general.alignment is " + std::to_string(alignment) + ", no power of two");
  }

  // Tensor table.
  std::map<std::string_view, tensor_entry> entries;
  for (std::size_t i = 0; i < tensor_count; ++i) {
    const std::string_view name = read_name(in, "a tensor name");
    tensor_entry entry = read_tensor_entry(in, name, bytes.size());
    if (entry.offset % alignment != 0) {
      fail("tensor " + quoted(name) + " starts at offset " + std::to_string(entry.offset) +
           ", which is not aligned to " + std::to_string(alignment));
    }
    if (!entries.emplace(name, std::move(entry)).second) fail("tensor " + quoted(name) + " stands twice");
  }

  // Data. A file without tensors may end at its tables.
  const std::size_t padding = static_cast<std::size_t>((alignment - in.position() % alignment) % alignment);
  if (!entries.empty()) in.take(padding, "the padding before the tensors");
  const auto data = bytes.subspan(in.position());
  std::vector<std::pair<std::uint64_t, std::string_view>> by_offset;
  for (auto& [name, entry] : entries) {
    if (entry.offset > data.size() || entry.size > data.size() - entry.offset) {
      fail("tensor " + quoted(name) + " reaches beyond the end of the file");
    }
    entry.tensor.bytes = data.subspan(static_cast<std::size_t>(entry.offset), entry.size);
    by_offset.emplace_back(entry.offset, name);
  }
  // Shared bytes would let a small file ask for a lot of memory.
  std::sort(by_offset.begin(), by_offset.end());
  for (std::size_t i = 1; i < by_offset.size(); ++i) {
    const auto& [offset, name] = by_offset[i - 1];
    if (by_offset[i].first - offset < entries.at(name).size) {
      fail("tensors " + quoted(name) + " and " + quoted(by_offset[i].second) + " overlap");
    }
  }
  for (auto& [name, entry] : entries) out.tensors_.emplace(name, std::move(entry.tensor));
  return out;
}

const gguf_value* gguf_file::find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

std::int64_t gguf_file::integer(std::string_view key, std::int64_t low, std::int64_t high,
                                std::optional<std::int64_t> fallback) const {
  const gguf_value* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    fail("metadata " + quoted(key) + " is missing");
  }
  std::int64_t out = 0;
  if (const auto* wide = std::get_if<std::uint64_t>(value)) {
    // Beyond int64 is beyond every range asked for: clamp, and let the range check speak.
    out = static_cast<std::int64_t>(std::min<std::uint64_t>(*wide, INT64_MAX));
  } else if (const auto* narrow = std::get_if<std::int64_t>(value)) {
    out = *narrow;
  } else {
    fail(expectation(key, "an integer"));
  }
  if (out < low || out > high) {
    fail("metadata " + quoted(key) + " is " + std::to_string(out) + ", outside " + std::to_string(low) + " to " +
         std::to_string(high));
  }
  return out;
}

double gguf_file::number(std::string_view key, std::optional<double> fallback) const {
  const gguf_value* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    fail("metadata " + quoted(key) + " is missing");
  }
  if (const auto* out = std::get_if<double>(value)) return *out;
  fail(expectation(key, "a floating-point number"));
}

bool gguf_file::boolean(std::string_view key, std::optional<bool> fallback) const {
  const gguf_value* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    fail("metadata " + quoted(key) + " is missing");
  }
  if (const auto* out = std::get_if<bool>(value)) return *out;
  fail(expectation(key, "a boolean"));
}

std::string_view gguf_file::text(std::string_view key, std::optional<std::string_view> fallback) const {
  const gguf_value* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    fail("metadata " + quoted(key) + " is missing");
  }
  if (const auto* out = std::get_if<std::string_view>(value)) return *out;
  fail(expectation(key, "a string"));
}

const gguf_array& gguf_file::array(std::string_view key) const {
  const gguf_value* value = find(key);
  if (value == nullptr) fail("metadata " + quoted(key) + " is missing");
  if (const auto* out = std::get_if<gguf_array>(value)) return *out;
  fail(expectation(key, "an array"));
}

std::vector<std::string_view> gguf_file::strings(std::string_view key) const {
  const gguf_array& source = array(key);
  if (source.element != value_type::string) fail(expectation(key, "an array of strings"));
  reader in(source.bytes);
  std::vector<std::string_view> out(source.count);
  for (auto& text : out) text = in.string("a string of a metadata array");
  return out;
}

std::vector<std::int64_t> gguf_file::integers(std::string_view key) const {
  const gguf_array& source = array(key);
  reader in(source.bytes);
  std::vector<std::int64_t> out;
  if (bytes_of(source.element) == 0) fail(expectation(key, "an array of integers"));
  out.reserve(source.count);
  for (std::size_t i = 0; i < source.count; ++i) {
    const gguf_value value = read_scalar(in, source.element);
    if (const auto* wide = std::get_if<std::uint64_t>(&value))
      out.push_back(static_cast<std::int64_t>(std::min<std::uint64_t>(*wide, INT64_MAX)));
    else if (const auto* narrow = std::get_if<std::int64_t>(&value))
      out.push_back(*narrow);
    else
      fail(expectation(key, "an array of integers"));
  }
  return out;
}

std::vector<float> gguf_file::floats(std::string_view key) const {
  const gguf_array& source = array(key);
  if (source.element != value_type::f32) fail(expectation(key, "an array of 32-bit floating-point numbers"));
  std::vector<float> out(source.count);
  if (!out.empty()) std::memcpy(out.data(), source.bytes.data(), source.bytes.size());
  return out;
}

const gguf_tensor& gguf_file::tensor(std::string_view name, std::span<const std::size_t> shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("tensor " + quoted(name) + " is missing");
  if (!std::equal(shape.begin(), shape.end(), found->second.shape.begin(), found->second.shape.end())) {
    fail("tensor " + quoted(name) + " has shape " + shape_text(found->second.shape) + " where the model needs " +
         shape_text(shape));
  }
  return found->second;
}

std::string quoted(std::string_view name) {
  std::string out = "'";
  for (const char c : name.substr(0, 80)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
  if (name.size() > 80) out += "...";
  return out + "'";
}

std::string shape_text(std::span<const std::size_t> shape) {
  std::string out;
  for (const std::size_t extent : shape) out += "[" + std::to_string(extent) + "]";
  return out;
}

}  // namespace engine
