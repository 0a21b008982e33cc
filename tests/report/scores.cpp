// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_report_core

// Sums over rows of logits, against the same in double precision as the textbook writes them.

#include "scores.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

using namespace report;

namespace {

using logits = std::vector<float>;

std::vector<double> log_softmax(const logits& row) {
  double largest = -1e300, sum = 0;
  for (const float x : row) largest = std::max(largest, static_cast<double>(x));
  for (const float x : row) sum += std::exp(x - largest);
  std::vector<double> out;
  for (const float x : row) out.push_back(x - largest - std::log(sum));
  return out;
}

double divergence_in_double(const logits& p, const logits& q) {
  const auto a = log_softmax(p), b = log_softmax(q);
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) out += std::exp(a[i]) * (a[i] - b[i]);
  return out;
}

logits random_row(std::mt19937& random, std::size_t size, float mean, float deviation) {
  std::normal_distribution<float> normal(mean, deviation);
  logits out(size);
  for (float& x : out) x = normal(random);
  return out;
}

}  // namespace

TEST_CASE("the log of the sum and the most likely token") {
  std::mt19937 random(1);
  for (const std::size_t size : {1u, 2u, 7u, 1023u, 1024u, 1025u, 49152u}) {
    for (const float mean : {0.0f, -40.0f, 500.0f}) {
      const logits row = random_row(random, size, mean, 4);
      const row_summary summary = summarise(row);
      CHECK(summary.log_sum == doctest::Approx(row[0] - log_softmax(row)[0]).epsilon(1e-7));
      for (const float x : row) CHECK_FALSE(x > row[static_cast<std::size_t>(summary.top)]);
    }
  }
  CHECK(summarise(logits{1, 3, 2, 3}).top == 1);  // the first of equals
}

TEST_CASE("the divergence is that of the definition, from tiny to huge") {
  std::mt19937 random(2);
  for (const std::size_t size : {2u, 100u, 5000u, 49152u}) {
    for (const float noise : {1e-4f, 1e-2f, 0.3f, 5.0f}) {
      const logits p = random_row(random, size, 3, 5);
      logits q = random_row(random, size, 0, noise);
      for (std::size_t i = 0; i < size; ++i) q[i] += p[i] + 2.5f;  // a shift changes no distribution
      const double expected = divergence_in_double(p, q);
      CHECK(std::abs(divergence(p, summarise(p), q, summarise(q)) - expected) < 1e-6 + 1e-6 * expected);
      CHECK(std::abs(divergence(p, summarise(p), p, summarise(p))) < 1e-12);
    }
  }
}

TEST_CASE("a sure thing that was wrong") {
  logits p(1000, -50.0f), q(1000, -50.0f);
  p[3] = 50;
  q[4] = 50;
  CHECK(divergence(p, summarise(p), q, summarise(q)) == doctest::Approx(100).epsilon(1e-6));
}

TEST_CASE("windows are scored the same in any steps and by any number of threads") {
  constexpr std::size_t tokens = 9, vocabulary = 300;
  std::mt19937 random(3);
  const std::vector<token> window = {5, 0, 299, 17, 17, 42, 100, 250, 7};
  const logits p = random_row(random, tokens * vocabulary, 0, 3), q = random_row(random, tokens * vocabulary, 0, 3);
  const auto row = [](const logits& all, std::size_t at) {
    return logits(all.begin() + static_cast<std::ptrdiff_t>(at * vocabulary),
                  all.begin() + static_cast<std::ptrdiff_t>((at + 1) * vocabulary));
  };
  for (const int threads : {1, 3}) {
    for (const std::size_t step : {1u, 4u, 9u}) {
      engine::thread_pool pool(threads);
      reference_logits expected(window, vocabulary);
      position_scores scores = expected.empty_scores();
      for (std::size_t first = 0; first < tokens; first += step) {
        const std::size_t size = std::min(step, tokens - first) * vocabulary;
        expected.record(first, std::span(p).subspan(first * vocabulary, size), pool);
        expected.compare(first, std::span(q).subspan(first * vocabulary, size), pool, scores);
      }
      REQUIRE(scores.loss.size() == tokens - 1);
      REQUIRE(scores.kl.size() == tokens);
      for (std::size_t i = 0; i < tokens; ++i) {
        CHECK(scores.kl[i] == doctest::Approx(divergence_in_double(row(p, i), row(q, i))).epsilon(1e-5));
        CHECK(expected.own_scores().kl[i] == 0);
        CHECK(static_cast<bool>(scores.agrees[i]) == (summarise(row(p, i)).top == summarise(row(q, i)).top));
        if (i + 1 == tokens) continue;
        const auto next = static_cast<std::size_t>(window[i + 1]);
        CHECK(scores.loss[i] == doctest::Approx(-log_softmax(row(q, i))[next]).epsilon(1e-6));
        CHECK(expected.own_scores().loss[i] == doctest::Approx(-log_softmax(row(p, i))[next]).epsilon(1e-6));
      }
    }
  }
}
