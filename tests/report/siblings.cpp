// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_report_core

// Trained models in the report: what is said of them, and what is refused. The models are random, of the engine's
// tests.

#include "siblings.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "program.hpp"
#include "tiny_files.hpp"

using namespace report_test;

namespace {

std::string model_file(const std::string& name) {
  return std::string(KVC_TEST_SOURCE_DIR) + "/engine/trained/" + name + ".safetensors";
}

/// A directory with the models of these names.
void copy_models(const temporary_directory& to, const std::vector<std::string>& names) {
  for (const std::string& name : names) std::filesystem::copy_file(model_file(name), to.path(name + ".safetensors"));
}

std::string some_text(int sentences) {
  std::string out;
  for (int i = 0; i < sentences; ++i) out += "Sentence " + std::to_string(i * 7919) + " says that a cache has rows. ";
  return out;
}

std::vector<report::sibling> read(const std::vector<std::string>& names, const std::string& text) {
  std::vector<std::string> paths;
  for (const std::string& name : names) paths.push_back(model_file(name));
  report::progress quiet(nullptr);
  return report::read_siblings(paths, text, 2, quiet);
}

}  // namespace

TEST_CASE("siblings are read through their own caches, the largest first") {
  const auto found = read({"clla-int4", "clla", "mha"}, some_text(200));
  REQUIRE(found.size() == 3);
  CHECK(found[0].name == "mha");
  CHECK(found[1].name == "clla");
  CHECK(found[2].block == "clla-int4");
  // 2 heads x 64: 512 bytes of 16-bit keys and values; two slots of 76 or 288 bytes for four layers.
  CHECK(found[0].bytes_per_token == 4 * 512);
  CHECK(found[0].share_of_mha == 1);
  CHECK(found[1].bytes_per_token == 2 * 288);
  CHECK(found[2].bytes_per_token == 2 * 76);
  CHECK(found[2].share_of_mha == doctest::Approx(38.0 / 512));
  for (const report::sibling& s : found) {
    CAPTURE(s.name);
    // A model that knows nothing is near the loss of guessing among 384 tokens, and copies nothing.
    CHECK(s.loss > 0.8 * std::log(384.0));
    CHECK(s.loss < 1.6 * std::log(384.0));
    CHECK(s.copied < 0.2);
    CHECK(s.passkeys == std::vector<bool>{false, false, false});
    CHECK(s.decode_attend_seconds > 0);
    CHECK(s.step_seconds > s.decode_attend_seconds);
    CHECK_FALSE(s.sample.empty());
    CHECK(report::sibling_table(found).find("\n" + s.name) != std::string::npos);
  }
  const auto again = read({"mha"}, some_text(200));
  CHECK(again[0].loss == found[0].loss);
  CHECK(again[0].sample == found[0].sample);
}

TEST_CASE("no models, a text that is too short and a damaged model are errors") {
  const temporary_directory empty;
  CHECK_THROWS_WITH(report::find_siblings(empty.path("")), doctest::Contains("there are no models (*.safetensors) in"));
  CHECK_THROWS_WITH(report::find_siblings(empty.path("nowhere")), doctest::Contains("there are no models"));
  CHECK_THROWS_WITH(read({"mha"}, "Short."), doctest::Contains("the text is too short for mha: it has"));
  CHECK_THROWS_WITH(read({"expected"}, some_text(200)), doctest::Contains("there are no metadata"));
}

TEST_CASE("the report's files have them") {
  const temporary_directory models, out;
  copy_models(models, {"mha", "clla-int4"});
  const std::string model = out.put("model.gguf", tiny_file(256));
  const std::string words = some_text(200);
  const std::string text = out.put("text.txt", words);
  std::FILE* printed = std::tmpfile();
  REQUIRE(printed != nullptr);
  const std::vector<std::string> arguments = {"--model",       model,      "--text", text,        "--siblings",
                                              models.path(""), "--caches", "bf16",   "--window",  "64",
                                              "--skip-tokens", "0",        "--out",  out.path("")};
  const int status = report::run_program(arguments, printed, printed);
  std::rewind(printed);
  std::string said;
  for (int c = std::fgetc(printed); c != EOF; c = std::fgetc(printed)) said += static_cast<char>(c);
  std::fclose(printed);
  INFO(said);
  REQUIRE(status == 0);
  // Before the caches' own table.
  CHECK(said.find("clla-int4 writes: When a process is killed, the kernel") < said.find("bf16 "));
  const auto json = nlohmann::json::parse(content_of(out.path("report.json")));
  REQUIRE(json["siblings"].size() == 2);
  CHECK(json["siblings"][0]["name"] == "mha");
  CHECK(json["siblings"][1]["bytes_per_token_per_layer"] == 38);
  CHECK(json["siblings"][1]["run"]["variant"] == "clla-int4");
  CHECK(json["siblings"][1]["passkey_found"].size() == 3);
  CHECK(json["sample_prompt"] == "When a process is killed, the kernel");
  CHECK(content_of(out.path("report.html")).find("Trained with their cache") != std::string::npos);
}
