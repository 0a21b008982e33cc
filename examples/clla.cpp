// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Two layers of Cross-Layer Latent Attention over one 4-bit latent: the second layer reads the rows of the first, and
// attention on the compressed rows ("absorbed") equals attention on the keys and values that they expand to.

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kvc/kvc.hpp"
#include "kvc/reference/attention.hpp"

constexpr int heads = 16, dim = 128, rank = 512, rotary = 64, tokens = 256;
using clla = kvc::clla_cache<kvc::shape<2, heads, heads, dim>>;

std::vector<float> random(int count, float deviation = 1) {
  static std::mt19937 generator(2410);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> x(count);
  for (float& v : x) v = normal(generator);
  return x;
}

double dot(const float* a, const float* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

int main() {
  kvc::host::cache<clla> cache({.capacity = tokens, .max_step_rows = tokens});
  // In fp32, so that the two forms can be compared: by default, packed codes are attended with 8-bit products.
  const kvc::attend_params params{.scale = 1 / std::sqrt(float{dim + rotary}), .fp32_products = true};
  const int sequence = cache.add_sequence();

  // A prompt, then one token: only the leader, layer 0, appends its (latent | rotary key) rows.
  cache.reserve(sequence, tokens - 1);
  cache.append(0, random((tokens - 1) * (rank + rotary)).data());
  cache.commit();
  cache.reserve(sequence, 1);
  cache.append(0, random(rank + rotary).data());

  // Both layers attend with weights of their own: the query moves into the latent space by W_UK.
  std::vector<float> w_uk[2], w_uv[2], query[2], z[2];
  for (int layer : {0, 1}) {
    w_uk[layer] = random(heads * rank * dim, 0.05f);  // [head][rank][dim]
    w_uv[layer] = random(heads * dim * rank, 0.05f);  // [head][dim][rank]
    query[layer] = random(heads * (dim + rotary));
    z[layer].resize(heads * rank);
    std::vector<float> absorbed;  // [head][rank | rotary]
    for (int h = 0; h < heads; ++h) {
      const float* q = &query[layer][h * (dim + rotary)];
      for (int c = 0; c < rank; ++c) absorbed.push_back(float(dot(q, &w_uk[layer][(h * rank + c) * dim], dim)));
      absorbed.insert(absorbed.end(), q + dim, q + dim + rotary);
    }
    cache.attend(layer, absorbed.data(), z[layer].data(), nullptr, params);
  }
  cache.commit();

  // The check: keys and values of every head, expanded from the decoded rows, through attention by its definition.
  std::vector<float> latent(tokens * rank), rotary_key(tokens * rotary);
  cache.gather(sequence, 1, 0, tokens, latent.data(), rotary_key.data());
  for (int layer : {0, 1}) {
    double worst = 0, largest = 0;
    for (int h = 0; h < heads; ++h) {
      kvc::reference::attention_input in;
      in.scale = params.scale;
      in.query.assign(&query[layer][h * (dim + rotary)], &query[layer][h * (dim + rotary)] + dim + rotary);
      for (int t = 0; t < tokens; ++t) {
        std::vector<double> k(dim), v(dim);
        for (int c = 0; c < rank; ++c) {
          for (int i = 0; i < dim; ++i) k[i] += double{w_uk[layer][(h * rank + c) * dim + i]} * latent[t * rank + c];
        }
        for (int i = 0; i < dim; ++i) v[i] = dot(&w_uv[layer][(h * dim + i) * rank], &latent[t * rank], rank);
        k.insert(k.end(), &rotary_key[t * rotary], &rotary_key[t * rotary] + rotary);
        in.keys.push_back(k);
        in.values.push_back(v);
      }
      const auto expanded = kvc::reference::attention(in);
      for (int i = 0; i < dim; ++i) {
        const double out = dot(&w_uv[layer][(h * dim + i) * rank], &z[layer][h * rank], rank);
        worst = std::fmax(worst, std::fabs(out - expanded.out[i]));
        largest = std::fmax(largest, std::fabs(out));
      }
    }
    std::printf("layer %d reads slot %d: absorbed and expanded differ by %.0e of %.2f\n", layer,
                cache.model().slot(layer), worst, largest);
    if (worst > 1e-4 * largest) return 1;
  }

  const double bytes = double(cache.memory().pages_in_use) / tokens;
  std::printf("%.0f bytes per token in one slot of 4-bit rows: %.0f per token and layer, %.2f %% of 16-bit MHA\n",
              bytes, bytes / 2, 100 * bytes / 2 / (4 * heads * dim));
}
