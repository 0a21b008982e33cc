// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_report_core

// The program as a whole, on a random model of two layers: what it refuses and how, and what its files hold.

#include "program.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "caches.hpp"
#include "tiny_files.hpp"

using namespace report_test;

namespace {

struct outcome {
  int status = 0;
  std::string printed, complained;
};

std::string take(std::FILE* file) {
  std::string out;
  std::rewind(file);
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) out += static_cast<char>(c);
  std::fclose(file);
  return out;
}

outcome run(const std::vector<std::string>& arguments) {
  std::FILE* out = std::tmpfile();
  std::FILE* err = std::tmpfile();
  REQUIRE(out != nullptr);
  REQUIRE(err != nullptr);
  const int status = report::run_program(arguments, out, err);
  return {status, take(out), take(err)};
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// One sentence, from the program itself.
void check_refusal(const std::vector<std::string>& arguments, int status, const std::string& part) {
  const outcome got = run(arguments);
  INFO(got.complained);
  CHECK(got.status == status);
  CHECK(got.printed.empty());
  CHECK(has(got.complained, part));
  CHECK(got.complained.starts_with("kvc_report: "));
  CHECK(std::count(got.complained.begin(), got.complained.end(), '\n') == 1);
}

}  // namespace

TEST_CASE("wrong use is refused in one sentence, with status 2") {
  const std::vector<std::string> right = {"--model", "m", "--text", "t"};
  const auto also = [&](std::vector<std::string> more) {
    more.insert(more.begin(), right.begin(), right.end());
    return more;
  };
  check_refusal({}, 2, "--model is missing");
  check_refusal({"--model", "m"}, 2, "--text is missing");
  check_refusal({"--model"}, 2, "--model needs a value");
  check_refusal(also({"--frobnicate"}), 2, "unknown option '--frobnicate'");
  check_refusal(also({"extra"}), 2, "unknown option 'extra'");
  check_refusal(also({"--window", "1"}), 2, "--window takes a number from 2");
  check_refusal(also({"--window", "-5"}), 2, "not '-5'");
  check_refusal(also({"--windows", "0"}), 2, "--windows takes a number from 1");
  check_refusal(also({"--skip-tokens", "12x"}), 2, "not '12x'");
  check_refusal(also({"--threads", "99999999999999999999"}), 2, "--threads takes a number from 1 to 1024");
  check_refusal(also({"--caches", "bf16,none-such"}), 2, "there is no cache 'none-such' (there are: exact, fp32");
  check_refusal(also({"--device", "gpu"}), 2, "--device takes host or cuda, not 'gpu'");
  check_refusal(also({"--caches", "bf16,,int8"}), 2, "there is no cache ''");
  check_refusal(also({"--caches", "bf16,int8,bf16"}), 2, "names 'bf16' twice");
}

TEST_CASE("help and the list of caches") {
  CHECK(run({"--help"}).status == 0);
  CHECK(has(run({"--help"}).printed, "usage: kvc_report --model FILE --text FILE"));
  const outcome list = run({"--list"});
  CHECK(list.status == 0);
  for (const auto& cache : engine::list_caches()) CHECK(has(list.printed, cache.name));
}

TEST_CASE("files that are missing, broken or too short are a failure, with status 1, and nothing is written") {
  const temporary_directory directory;
  const std::string model = directory.put("tiny.gguf", tiny_file(64));
  const std::string text = directory.put("text.txt", tiny_text(500));
  const std::string out = directory.path("out");
  const auto with = [&](const std::string& m, const std::string& t, std::vector<std::string> more) {
    more.insert(more.begin(), {"--model", m, "--text", t, "--out", out});
    return more;
  };
  check_refusal(with(directory.path("none"), text, {}), 1, "there is no file");
  check_refusal(with(model, directory.path("none"), {}), 1, "there is no file");
  check_refusal(with(model, directory.path(""), {}), 1, "is a directory");
  check_refusal(with(text, text, {}), 1, "this is no GGUF file");
  auto half = tiny_file(64);
  half.resize(half.size() / 2);
  check_refusal(with(directory.put("half.gguf", half), text, {}), 1, "kvc_report: ");
  check_refusal(with(model, text, {"--skip-tokens", "450", "--window", "64"}), 1, "the text is too short");
  check_refusal(with(model, text, {"--window", "65"}), 2, "more than the model's context of 64");
  check_refusal(with(model, text,
                     {"--skip-tokens", "10", "--window", "32", "--caches", "low-rank", "--sample-text",
                      directory.put("short.txt", tiny_text(20))}),
                1, "the sample text has");
  CHECK_FALSE(std::filesystem::exists(out + "/report.json"));
  CHECK_FALSE(std::filesystem::exists(out + "/report.html"));
  check_refusal(with(model, text, {"--device", "cuda"}), 1, "cannot run on a GPU");
  check_refusal({"--model", model, "--text", text, "--out", text + "/below"}, 1, "cannot write to the directory");
}

TEST_CASE("a run on a tiny model: every cache, the files and the figures") {
  const temporary_directory directory;
  const std::string model = directory.put("tiny.gguf", tiny_file(256));
  const std::string text = directory.put("text.txt", tiny_text(1000));
  const std::string sample = directory.put("sample.txt", tiny_text(3000).substr(1500));
  const std::string out = directory.path("a/b");
  std::string all;
  for (const auto& cache : engine::list_caches()) {
    if (cache.name != "exact") all += (all.empty() ? "" : ",") + cache.name;
  }
  const outcome got = run({"--model", model, "--text", text, "--sample-text", sample, "--skip-tokens", "100",
                           "--window", "200", "--windows", "2", "--threads", "2", "--out", out, "--caches", all});
  INFO(got.complained);
  REQUIRE(got.status == 0);
  CHECK(has(got.complained, "bf16, window 2 of 2: perplexity"));  // no terminal: a line for each piece of work

  const auto json = nlohmann::json::parse(content_of(out + "/report.json"));
  CHECK(json.at("model").at("name") == "tiny.gguf");
  CHECK(json.at("model").at("bytes_per_token_16_bit") == 2 * 2 * 2 * 2 * 64);
  CHECK(json.at("text").at("name") == "text.txt");
  CHECK(json.at("text").at("windows") == 2);
  CHECK(json.at("text").at("window_positions") == nlohmann::json({100, 300}));
  CHECK(json.at("machine").at("threads") == 2);
  CHECK(json.at("machine").at("gpu").is_null());
  CHECK(json.at("calibration").at("text") == "sample.txt");
  CHECK(json.at("passkeys").is_null());  // they do not fit into 256 tokens

  const std::string html = content_of(out + "/report.html");
  for (const char* link : {"http:", "https:", "src=", "href=", "url(", "@import"}) CHECK_FALSE(has(html, link));
  CHECK_FALSE(has(html, "/*data*/"));
  CHECK_FALSE(has(html, "/*script*/"));
  CHECK_FALSE(has(html, "/*style*/"));

  REQUIRE(json.at("caches").size() == engine::list_caches().size() - 1);
  for (const auto& cache : json.at("caches")) {
    const std::string name = cache.at("name");
    INFO(name);
    CHECK(name != "exact");
    CHECK(has(got.printed, name));
    CHECK(has(html, "\"" + name + "\""));
    const double bits = cache.at("bits_per_value"), bytes = cache.at("bytes_per_token"), ratio = cache.at("ratio");
    CHECK(bits == doctest::Approx(16 / ratio));
    CHECK(bytes == doctest::Approx(1024 / ratio));
    const double allocated = cache.at("page_bytes").get<double>() + cache.at("tail_bytes").get<double>();
    CHECK(bytes * 200 == doctest::Approx(allocated).epsilon(1e-12));
    CHECK(cache.at("perplexity").get<double>() > 1);
    CHECK(cache.at("kl").get<double>() > -1e-6);
    CHECK(cache.at("top1").get<double>() >= 0);
    CHECK(cache.at("top1").get<double>() <= 1);
    CHECK(cache.at("passkey").is_null());
    CHECK(cache.at("windows").size() == 2);
    CHECK(cache.at("by_position").at("loss_change").size() + 1 == json.at("position_bins").size());
    CHECK(cache.at("speed").at("decode_attend_microseconds").get<double>() > 0);
    if (name == "fp32") {
      CHECK(cache.at("kl") == 0);
      CHECK(cache.at("top1") == 1);
      CHECK(cache.at("perplexity_change") == 0);
      CHECK(bits >= 32);
    }
    if (name == "bf16") CHECK(cache.at("kl").get<double>() < 1e-3);
    if (name == "bf16") CHECK(cache.at("kl").get<double>() > 0);
  }
}

TEST_CASE("without --caches the report has the default ones, in the order of the list") {
  const temporary_directory directory;
  const std::string text = directory.put("text.txt", tiny_text(1000));
  const std::string out = directory.path("out");
  const outcome got = run({"--model", directory.put("tiny.gguf", tiny_file(64)), "--text", text, "--sample-text", text,
                           "--skip-tokens", "0", "--window", "32", "--threads", "1", "--out", out});
  INFO(got.complained);
  REQUIRE(got.status == 0);
  std::vector<std::string> names, expected;
  const auto json = nlohmann::json::parse(content_of(out + "/report.json"));
  for (const auto& cache : json.at("caches")) names.push_back(cache.at("name"));
  for (const auto& cache : engine::list_caches()) {
    if (cache.is_default) expected.push_back(cache.name);
  }
  CHECK(names == expected);
  CHECK(expected.size() + 3 == engine::list_caches().size());  // exact, mixture-3, pruned-keys
}

TEST_CASE("only the caches that were asked for, in that order; the reference is always there") {
  const temporary_directory directory;
  const std::string model = directory.put("tiny.gguf", tiny_file(64)), text = directory.put("text.txt", tiny_text(200));
  const outcome got = run({"--model", model, "--text", text, "--skip-tokens", "0", "--window", "64", "--caches",
                           "int8,exact", "--out", directory.path("")});
  REQUIRE(got.status == 0);
  const auto json = nlohmann::json::parse(content_of(directory.path("report.json")));
  REQUIRE(json.at("caches").size() == 2);
  CHECK(json.at("caches")[0].at("name") == "int8");
  CHECK(json.at("caches")[1].at("name") == "exact");
  CHECK(json.at("reference").at("name") == "fp32");
  CHECK(json.at("calibration").is_null());
  // kvc's fp32 cache and the one that was written without kvc.
  CHECK(std::abs(json.at("caches")[1].at("kl").get<double>()) < 1e-6);
  CHECK(json.at("caches")[1].at("perplexity").get<double>() ==
        doctest::Approx(json.at("reference").at("perplexity").get<double>()).epsilon(1e-5));
}
