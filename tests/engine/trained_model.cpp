// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_trained nlohmann_json::nlohmann_json
#include "trained_model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "generate.hpp"

using namespace engine;
using nlohmann::json;

namespace {

const char* const models[] = {"mha", "mha-shift", "clla", "clla-int4", "clla-key8", "small-mha", "small-clla-int4"};

std::string path_of(const std::string& name) {
  const bool is_shipped = name.starts_with("small-");
  return std::string(KVC_TEST_SOURCE_DIR) + (is_shipped ? "/../examples/models/" : "/engine/trained/") + name +
         ".safetensors";
}

safetensors_file load(const std::string& name) {
  return safetensors_file::read(path_of(name));
}

/// What PyTorch says of one of the models (trained/make.py).
struct expectation {
  std::string text;
  std::vector<token> tokens;  // of all the text; of shipped models those that were fed
  std::vector<float> logits;  // [kept][vocabulary], after the last of the first `fed` tokens
  double fp32_error = 0;      // of PyTorch's own fp32
  std::size_t vocabulary = 0;

  static constexpr std::size_t fed = 64;

  explicit expectation(const std::string& model) {
    const auto file = load("expected");
    const bool is_shipped = model.starts_with("small-");
    text = file.text("text");
    tokens = json::parse(file.text(is_shipped ? model + ".tokens" : "tokens")).get<std::vector<token>>();
    const std::vector<std::size_t> shape = file.tensors().at(model + ".logits").shape;
    vocabulary = shape.at(1);
    logits = file.floats(model + ".logits", shape);
    fp32_error = std::stod(file.text(model + ".fp32_error"));
  }

  /// Two computations in fp32 that add in different orders: each is as far from the exact logits as PyTorch's, give or
  /// take what the largest of some thousand errors varies by.
  double tolerance() const { return 4 * fp32_error; }
};

/// Feeds the tokens in steps of `step` and returns the logits of the last ones.
std::vector<float> last_logits(trained_model& model, trained_cache& cache, const expectation& e, std::size_t step) {
  std::vector<float> all;
  const auto tokens = std::span(e.tokens).first(e.fed);
  for (std::size_t first = 0; first < tokens.size(); first += step) {
    const auto logits =
        model.forward(tokens.subspan(first, std::min(step, tokens.size() - first)), cache, logits_wanted::all_rows);
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return {all.end() - static_cast<std::ptrdiff_t>(e.logits.size()), all.end()};
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) out = std::max(out, std::fabs(double{a[i]} - double{b[i]}));
  return out;
}

/// Codes decoded and multiplied in fp32, as PyTorch does.
std::unique_ptr<trained_cache> exact_products(const char* name, trained_model& model) {
  return make_trained_cache(name, model.config(),
                            {.context = model.context(), .pool = &model.pool(), .fp32_products = true});
}

/// What is stored in 16 bit is compared as it is before it is stored: PyTorch in fp32 does not round it.
const char* format_of(const trained_model& model) {
  return model.config().bits < 16 ? "own" : "fp32";
}

/// The bytes of a file with this header and data.
std::vector<std::byte> file_bytes(const std::string& header, const std::string& data = "") {
  const std::uint64_t length = header.size();
  std::vector<std::byte> out(sizeof length + header.size() + data.size());
  std::memcpy(out.data(), &length, sizeof length);
  std::memcpy(out.data() + sizeof length, header.data(), header.size());
  std::memcpy(out.data() + sizeof length + header.size(), data.data(), data.size());
  return out;
}

std::vector<std::byte> read_bytes(const std::string& name) {
  std::ifstream file(path_of(name), std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const auto raw = std::as_bytes(std::span(content));
  return {raw.begin(), raw.end()};
}

/// A model's file with some of its header changed.
safetensors_file changed(const std::string& name, const std::function<void(json&)>& change) {
  const std::vector<std::byte> bytes = read_bytes(name);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  json header = json::parse(text + sizeof length, text + sizeof length + length);
  change(header);
  return safetensors_file::parse(file_bytes(header.dump(), {text + sizeof length + length, text + bytes.size()}));
}

safetensors_file with_config(const std::string& name, const char* key, const json& value) {
  return changed(name, [&](json& header) {
    json config = json::parse(header["__metadata__"]["config"].get<std::string>());
    config[key] = value;
    header["__metadata__"]["config"] = config.dump();
  });
}

}  // namespace

TEST_CASE("the tokenizer inside spells a text as the library that made it") {
  const expectation e("mha");
  const tokenizer words(read_trained_tokenizer(load("clla-int4")));
  CHECK(words.encode(e.text) == e.tokens);
  CHECK(words.decode(e.tokens) == e.text);
  CHECK(words.is_end(0));
  CHECK(words.encode("<|end|>").size() > 1);
  CHECK(words.prompt("<|end|>") == std::vector<token>{0});
}

TEST_CASE("absorbed attention through kvc gives PyTorch's logits from expanded keys and values") {
  for (const char* name : models) {
    CAPTURE(name);
    const expectation e(name);
    trained_model model(load(name), 2);
    for (const std::size_t step : {std::size_t{64}, std::size_t{7}, std::size_t{1}}) {
      CAPTURE(step);
      const auto cache = exact_products(format_of(model), model);
      CHECK(distance(last_logits(model, *cache, e, step), e.logits) <= e.tolerance());
    }
  }
}

TEST_CASE("that check sees a wrong cache and a forgotten row") {
  const expectation e("clla-int4");
  trained_model model(load("clla-int4"), 1);
  const auto unquantized = exact_products("fp32", model);
  CHECK(distance(last_logits(model, *unquantized, e, 64), e.logits) > 100 * e.tolerance());

  const auto forgetful = exact_products("own", model);
  const auto tokens = std::span(e.tokens).first(e.fed);
  model.forward(tokens.first(63), *forgetful, logits_wanted::none);
  for (float& x : forgetful->history(0)) x = 0;
  const auto logits = model.forward(tokens.last(1), *forgetful, logits_wanted::all_rows);
  const std::vector<float> last(e.logits.end() - static_cast<std::ptrdiff_t>(e.vocabulary), e.logits.end());
  CHECK(distance({logits.begin(), logits.end()}, last) > 100 * e.tolerance());
}

TEST_CASE("8-bit products add less than the 4-bit rows themselves") {
  const expectation e("clla-int4");
  trained_model model(load("clla-int4"), 1);
  const auto fast = make_trained_cache("own", model.config(), {.context = 128});
  const auto unquantized = exact_products("fp32", model);
  const double products = distance(last_logits(model, *fast, e, 64), e.logits);
  const double rows = distance(last_logits(model, *unquantized, e, 64), e.logits);
  CHECK(products < rows);
}

TEST_CASE("pages hold what training counted") {
  const auto bytes_of = [](const char* name, const char* format) {
    trained_model model(load(name), 1);
    const auto cache = make_trained_cache(format, model.config(), {.context = 128});
    const expectation e(name);
    last_logits(model, *cache, e, 64);
    return cache->bytes().pages;
  };
  // Per token: two slots of (64 + 2) bytes of latent and (8 + 2) of rotary key; 16 bit; and heads of four layers.
  CHECK(bytes_of("clla-int4", "own") == 64 * 2 * 76);
  CHECK(bytes_of("clla-key8", "own") == 64 * 2 * 76);
  CHECK(bytes_of("clla", "own") == 64 * 2 * 288);
  CHECK(bytes_of("mha", "own") == 64 * 4 * 2 * 2 * 64 * 2);
}

TEST_CASE("a sequence starts anew, and is not cut in the middle where the model looks back") {
  const expectation e("clla-int4");
  trained_model model(load("clla-int4"), 1);
  const auto cache = exact_products("own", model);
  const auto first = last_logits(model, *cache, e, 64);
  CHECK_THROWS_WITH(cache->truncate(10), doctest::Contains("cannot be taken back"));
  cache->truncate(0);
  CHECK(last_logits(model, *cache, e, 64) == first);

  trained_model plain(load("clla"), 1);
  const auto other = exact_products("fp32", plain);
  const expectation of_plain("clla");
  last_logits(plain, *other, of_plain, 64);
  other->truncate(40);
  const auto again = plain.forward(std::span(of_plain.tokens).subspan(40, 24), *other, logits_wanted::all_rows);
  CHECK(distance({again.begin(), again.end()}, of_plain.logits) <= of_plain.tolerance());
}

TEST_CASE("what a model and its cache refuse") {
  trained_model model(load("clla-int4"), 1);
  CHECK_THROWS_WITH(make_trained_cache("bf16", model.config(), {.context = 8}),
                    doctest::Contains("no cache 'bf16' for a trained model"));
  const auto cache = exact_products("own", model);
  const token beyond[] = {384};
  CHECK_THROWS_WITH(model.forward(beyond, *cache, logits_wanted::none),
                    doctest::Contains("outside the model's vocabulary"));

  const auto refuses = [](const safetensors_file& file, const char* words) {
    CAPTURE(words);
    CHECK_THROWS_WITH(trained_model(file, 1), doctest::Contains(words));
  };
  refuses(with_config("clla-int4", "reach", 2), "reach 2 is not served");
  refuses(with_config("clla-int4", "grid", "affine"), "grid \"affine\" is not served");
  refuses(with_config("mha", "token_table", true), "token_table true is not served");
  trained_model odd(with_config("clla-int4", "rotary_bits", 8), 1);
  CHECK_THROWS_WITH(make_trained_cache("own", odd.config(), {.context = 8}),
                    doctest::Contains("latents in 4 bits with rotary keys in 8 (4 with 4, 16 with 16)"));
  refuses(with_config("mha", "mix", true), "mix is not served");
  refuses(with_config("clla-int4", "squash", true), "squash is not served");
  refuses(with_config("mha", "block", "rwkv"), "the block 'rwkv' is not served");
  refuses(with_config("clla", "slots", "0111"), "slots '0111' are not served");
  refuses(with_config("clla", "layers", 0), "layers is 0, not from 1 to 64");
  refuses(with_config("clla", "rotary_base", -1.0), "rotary_base is not above 0");
  refuses(with_config("clla", "width", 33), "has the shape [384][32], not [384][33]");
  refuses(changed("mha", [](json& h) { h["norm.bias"] = h["norm.weight"]; }),
          "tensor 'norm.bias' is none that the engine");
  refuses(changed("mha", [](json& h) { h.erase("layers.2.attention.out.weight"); }),
          "no tensor 'layers.2.attention.out");
  refuses(changed("mha", [](json& h) { h["__metadata__"].erase("config"); }), "there are no metadata 'config'");
}

TEST_CASE("a damaged file is an error with a sentence") {
  const auto says = [](const std::vector<std::byte>& bytes, const char* words) {
    CAPTURE(words);
    CHECK_THROWS_WITH(safetensors_file::parse(bytes), doctest::Contains(words));
  };
  says({}, "the file ends before its header");
  says(std::vector<std::byte>(64, std::byte{255}), "ends inside its header");
  says(file_bytes("[1]"), "no JSON object");
  says(file_bytes("{\"a\":"), "no JSON object");
  says(file_bytes(R"({"a":{}})"), "lacks its type, shape or place");
  says(file_bytes(R"({"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}})", "x"),
       "of a type that is not known, 'Q9'");
  says(file_bytes(R"({"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}})", "x"), "larger than the file");
  says(file_bytes(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[5,6]}})", "x"), "lies outside the file");
  says(file_bytes(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,2]}})", "xy"), "not as many bytes as its shape");
  says(file_bytes(R"({"a":{"dtype":"I8","shape":[-1],"data_offsets":[0,1]}})", "x"), "no whole number");
  says(file_bytes(R"({"a":{"dtype":"I8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})"),
       "larger than the file");
  says(file_bytes(R"({"__metadata__":{"a":1}})"), "are no text");

  // Cut anywhere, a real file is refused or lacks a tensor; it never reads outside.
  const std::vector<std::byte> whole = read_bytes("mha");
  for (std::size_t size = 0; size < whole.size(); size += 997) {
    CHECK_THROWS(safetensors_file::parse({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)}));
  }
  CHECK_THROWS_WITH(safetensors_file::read("no-such.safetensors"),
                    doctest::Contains("'no-such.safetensors' cannot be read"));
}
