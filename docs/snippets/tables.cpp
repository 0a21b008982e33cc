// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Prints the tables of the documentation in Markdown: kvc_docs_tables policies | quant | methods.
// The bytes are those of the types themselves.

#include <array>
#include <cstdio>
#include <cstring>
#include <string>

#include "kvc/kvc.hpp"

using namespace kvc;

// The example: 32 layers, 32 query heads, 8 KV heads of 128 channels, as in Llama 3 8B. 128 KiB per token in 16 bit.
using model = shape<32, 32, 8, 128>;

std::string with_commas(int64 n) {
  std::string digits = std::to_string(n);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<std::size_t>(at), ",");
  return digits;
}

template <class Spec>
std::string bytes_cells() {
  char percent[32];
  std::snprintf(percent, sizeof percent, "%.1f %%", 100 * Spec::ratio_to_model16);
  const std::string tail = Spec::tail_bytes_per_sequence == 0 ? "" : with_commas(Spec::tail_bytes_per_sequence);
  return with_commas(Spec::bytes_per_token) + " | " + percent + " | " + tail;
}

template <class... Policies>
void policy_row(const char* axis, const char* name, const char* what, const char* paper) {
  std::printf("| %s | `%s` | %s | %s | %s |\n", axis, name, what, bytes_cells<compose<model, Policies...>>().c_str(),
              paper);
}
#define POLICY(axis, what, paper, ...) policy_row<__VA_ARGS__>(axis, #__VA_ARGS__, what, paper)

void policies() {
  std::printf(
      "| axis | policy | what it does | bytes per token | of 16 bit | tail | source |\n"
      "|---|---|---|---:|---:|---:|---|\n");
  POLICY("layers", "every layer has its own slot (default)", "", layers::own);
  POLICY("layers", "pairs of layers read one slot", "[2405.12981](https://arxiv.org/abs/2405.12981)",
         layers::shared<2>);
  std::printf(
      "| layers | `layers::mapped<...>` | a table says which layer reads whose slot | by the table | | | "
      "[2410.18517](https://arxiv.org/abs/2410.18517) |\n");
  POLICY("heads", "one row per KV head of the model (default)", "", heads::all);
  POLICY("heads", "one row per 8 query heads", "[2305.13245](https://arxiv.org/abs/2305.13245)", heads::grouped<8>);
  POLICY("heads", "one row for all query heads", "[1911.02150](https://arxiv.org/abs/1911.02150)", heads::single);
  POLICY("heads, dims", "one joint latent and a rotary key for all heads",
         "[2405.04434](https://arxiv.org/abs/2405.04434)", heads::latent, dims::latent<512, 64>);
  POLICY("rotary", "keys are stored after their rotary embedding (default)", "", rotary::applied);
  POLICY("rotary", "keys are stored before it and turned on attend", "[2104.09864](https://arxiv.org/abs/2104.09864)",
         rotary::deferred<>);
  POLICY("dims", "all channels (default)", "", dims::full);
  POLICY("dims", "64 directions of 128", "[2407.21118](https://arxiv.org/abs/2407.21118)", dims::low_rank<64>);
  POLICY("dims", "64 channels of 128", "[2407.21018](https://arxiv.org/abs/2407.21018)", dims::pruned<64>);
  POLICY("dims", "one policy for keys, one for values", "", dims::split<dims::pruned<64>, dims::full>);
  POLICY("quant", "fp32; also fp16 and bf16 (default)", "", quant::none<float>);
  POLICY("quant", "8 bit, one scale per 64 channels of a token", "", quant::integer<8, 64, quant::symmetric>);
  POLICY("quant", "4 bit, scale and offset per 32 channels", "", quant::integer<4, 32>);
  POLICY("quant", "2 bit, scale and offset per channel and 32 tokens", "[2402.02750](https://arxiv.org/abs/2402.02750)",
         quant::integer<2, 32, quant::affine, quant::per_channel>);
  POLICY("quant", "OCP FP8 E4M3", "[2209.05433](https://arxiv.org/abs/2209.05433)", quant::fp8_e4m3<>);
  POLICY("quant", "bits by channel, for a calibrated basis", "",
         quant::graded<quant::run<32, 6>, quant::run<32, 4>, quant::run<64, 3>>);
  POLICY("quant", "the same under one scale", "",
         quant::tapered<quant::run<32, 6>, quant::run<32, 4>, quant::run<64, 3>>);
  POLICY("quant", "one policy for keys, one for values", "",
         quant::split<quant::integer<8, 64>, quant::integer<4, 32>>);
  POLICY("quant", "Hadamard rotation before the codec", "[2404.00456](https://arxiv.org/abs/2404.00456)",
         quant::rotated<quant::integer<4>>);
  POLICY("quant", "a mean per channel taken off before the codec", "", quant::centred<quant::integer<4>>);
  POLICY("quant", "the first 4 rows exact in bf16", "[2401.18079](https://arxiv.org/abs/2401.18079)",
         quant::exact_ends<4, 0, quant::integer<4>>);
  POLICY("tokens", "every row is kept (default)", "", tokens::all);
  POLICY("tokens", "the first 4 and the newest 1024 rows are kept", "[2309.17453](https://arxiv.org/abs/2309.17453)",
         tokens::sinks_and_window<4, 1024>);
}

template <class Codec>
void quant_row(const char* name) {
  using inner = typename quant::innermost<Codec>::type;
  using rows = typename compose<shape<1, 1, 1, 128>, Codec>::first_stream;
  const double bits = 8.0 * static_cast<double>(rows::segment_bytes) / rows::tokens_per_page / 128;
  std::printf("| `%s` | %d | %d per %d | %.3f | %d + %d |\n", name, rows::row_bytes, rows::group_bytes,
              inner::tokens_per_group, bits, rows::first_rows, rows::ring_rows);
}
#define CODEC(...) quant_row<quant::__VA_ARGS__>(#__VA_ARGS__)

void quant_rows() {
  using namespace kvc::quant;
  std::printf(
      "| codec or wrapper | bytes of codes | bytes of constants per tokens | bits per value | exact rows: first + tail "
      "|\n"
      "|---|---:|---:|---:|---:|\n");
  CODEC(none<float>);
  CODEC(none<bf16>);
  CODEC(none<fp16>);
  CODEC(integer<8, 64, symmetric>);
  CODEC(integer<4, 32>);
  CODEC(integer<4, 64, midrise>);
  CODEC(integer<4>);
  CODEC(integer<3, 32>);
  CODEC(integer<2, 32, affine, per_token, scale_type::fp32>);
  CODEC(integer<4, 32, affine, per_channel>);
  CODEC(integer<2, 64, affine, per_channel>);
  CODEC(fp8_e4m3<>);
  CODEC(fp8_e4m3<64>);
  CODEC(graded<run<32, 6>, run<32, 4>, run<64, 3>>);
  CODEC(tapered<run<32, 6>, run<32, 4>, run<64, 3>>);
  CODEC(rotated<integer<4>>);
  CODEC(centred<rotated<integer<4>>>);
  CODEC(exact_ends<4, 16, integer<4>>);
}

template <class Spec>
void method_row(const char* alias, const char* method, const char* paper) {
  std::printf("| %s | `%s` | %s | [%s](https://arxiv.org/abs/%s) |\n", method, alias, bytes_cells<Spec>().c_str(),
              paper, paper);
}
#define METHOD(method, paper, ...) method_row<__VA_ARGS__>(#__VA_ARGS__, method, paper)

// KVSharer's table is known at run time: here four of 32 layers read another one's slot.
void kvsharer_row() {
  using spec = methods::kvsharer<shape<dynamic, 32, 8, 128>>;
  std::array<int32, 32> leaders{};
  for (int l = 0; l < 32; ++l) leaders[static_cast<std::size_t>(l)] = l;
  for (const int l : {20, 22, 24, 26}) leaders[static_cast<std::size_t>(l)] = l / 4;
  extents<spec> e;
  e.layers = 32;
  e.leaders = leaders.data();
  const int64 bytes = bytes_per_token(e);
  std::printf(
      "| KVSharer, 4 layers shared | `methods::kvsharer<model>` | %s | %.1f %% |  | "
      "[2410.18517](https://arxiv.org/abs/2410.18517) |\n",
      with_commas(bytes).c_str(), 100.0 * static_cast<double>(bytes) / (32 * 8 * 128 * 4));
}

void methods_rows() {
  std::printf(
      "| method | alias | bytes per token | of 16 bit | tail | paper |\n"
      "|---|---|---:|---:|---:|---|\n");
  METHOD("Multi-Query Attention", "1911.02150", methods::mqa<model>);
  METHOD("Grouped-Query Attention", "2305.13245", methods::gqa<model, 8>);
  METHOD("Multi-head Latent Attention", "2405.04434", methods::mla<model>);
  METHOD("Cross-Layer Attention", "2405.12981", methods::cla<model>);
  METHOD("Cross-Layer Latent Attention, 4 bit", "2410.15252", clla_cache<model>);
  kvsharer_row();
  METHOD("KIVI, 2 bit", "2402.02750", methods::kivi<model>);
  METHOD("QuaRot's cache, 4 bit", "2404.00456", methods::quarot<model>);
  METHOD("ThinK, 64 of 128 channels", "2407.21018", methods::think<model, 64>);
  METHOD("StreamingLLM", "2309.17453", methods::streaming_llm<model>);
  METHOD("Palu, rank 64", "2407.21118", methods::palu<model, 64>);
}

int main(int argc, char** argv) {
  const char* table = argc == 2 ? argv[1] : "";
  if (std::strcmp(table, "policies") == 0) return policies(), 0;
  if (std::strcmp(table, "quant") == 0) return quant_rows(), 0;
  if (std::strcmp(table, "methods") == 0) return methods_rows(), 0;
  std::fputs("usage: kvc_docs_tables policies | quant | methods\n", stderr);
  return 2;
}
