// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "compositions.hpp"

// The compositions are a covering set: each legal pair of policies of different axes meets in one of them.

using namespace kvc_test;

namespace {

// ---- what a policy is called here: an index on its axis

constexpr std::array layers_names = {"own", "shared", "mapped", "mapped<dynamic>"};
constexpr std::array heads_names = {"all", "grouped", "grouped, merging", "single", "latent"};
constexpr std::array rotary_names = {"applied", "deferred interleaved", "deferred half_split"};
constexpr std::array dims_names = {"full", "low_rank", "pruned", "latent", "split"};
constexpr std::array quant_names = {"none",    "integer per_token", "integer per_channel", "fp8",  "graded", "rotated",
                                    "centred", "exact_ends first",  "exact_ends last",     "split"};
constexpr std::array tokens_names = {"all", "sinks_and_window"};
constexpr std::array storage_names = {"16 tokens per page", "32 tokens per page", "64 tokens per page"};

// Codecs in all their variants: each meets each dims policy on one stream.
constexpr std::array codec_names = {"none<float>",       "none<bf16>",        "none<fp16>", "integer<8>",
                                    "integer<6>",        "integer<4>",        "integer<3>", "integer<2>",
                                    "per_channel 4 bit", "per_channel 2 bit", "fp8",        "graded"};

template <class P>
constexpr int layers_index = 0;
template <int S>
constexpr int layers_index<shared<S>> = 1;
template <int... L>
constexpr int layers_index<mapped<L...>> = 2;
template <>
constexpr int layers_index<mapped<dynamic>> = 3;

template <class Spec>
constexpr int heads_of() {
  using P = typename Spec::heads_policy;
  if constexpr (kvc::heads::is_latent<P>) return 4;
  if constexpr (requires { Spec::heads_policy::name; }) {
    if (P::name == kvc::heads::all::name) return 0;
    if (P::name == single::name) return 3;
  }
  return extents_of<Spec>().merged() > 1 ? 2 : 1;
}

template <class P>
constexpr int rotary_index = 0;
template <int N>
constexpr int rotary_index<interleaved<N>> = 1;
template <int N>
constexpr int rotary_index<half_split<N>> = 2;

template <class P>
constexpr int dims_index = 0;
template <int R>
constexpr int dims_index<low_rank<R>> = 1;
template <int N>
constexpr int dims_index<pruned<N>> = 2;

template <class P>
constexpr bool is_split = false;
template <class A, class B>
constexpr bool is_split<kvc::quant::split<A, B>> = true;
template <class A, class B>
constexpr bool is_split<kvc::dims::split<A, B>> = true;

template <class C>
struct codec_kind;
template <class T>
struct codec_kind<none<T>> {
  static constexpr int variant = std::is_same_v<T, float> ? 0 : (std::is_same_v<T, kvc::bf16> ? 1 : 2);
  static constexpr int policy = 0;
};
template <int B, int G, kvc::quant::grid Grid, scale_type S>
struct codec_kind<integer<B, G, Grid, per_token, S>> {
  static constexpr int variant = B == 8 ? 3 : B == 6 ? 4 : B == 4 ? 5 : B == 3 ? 6 : 7;
  static constexpr int policy = 1;
};
template <int B, int G, kvc::quant::grid Grid, scale_type S>
struct codec_kind<integer<B, G, Grid, per_channel, S>> {
  static constexpr int variant = B == 4 ? 8 : 9;
  static constexpr int policy = 2;
};
template <int G, scale_type S>
struct codec_kind<fp8_e4m3<G, S>> {
  static constexpr int variant = 10;
  static constexpr int policy = 3;
};
template <class... R>
struct codec_kind<graded<R...>> {
  static constexpr int variant = 11;
  static constexpr int policy = 4;
};

/// Policies of a quant stack, outermost first.
template <class Q>
constexpr unsigned quant_set() {
  if constexpr (kvc::quant::is_wrapper<Q>) {
    unsigned own = 0;
    if constexpr (requires { Q::first_rows; }) {
      own = (Q::first_rows > 0 ? 1u << 7 : 0u) | (Q::last_rows > 0 ? 1u << 8 : 0u);
    } else if constexpr (std::is_same_v<Q, rotated<typename Q::inner_codec>>) {
      own = 1u << 5;
    } else {
      own = 1u << 6;
    }
    return own | quant_set<typename Q::inner_codec>();
  } else {
    return 1u << codec_kind<Q>::policy;
  }
}

/// Policies of a composition: a bit set per axis, and the dims of each stream with the quant policies it meets there.
struct features {
  std::array<unsigned, 7> axis;  // layers, heads, rotary, dims, quant, tokens, storage
  struct {
    unsigned dims, quant, codec;
  } stream[2];
};

template <class Spec, class Stream>
constexpr unsigned dims_of_stream() {
  return Spec::is_latent ? 3u : unsigned{dims_index<typename Stream::dims_policy>};
}

template <class Spec>
features features_of() {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  constexpr unsigned quant_split = is_split<typename Spec::quant_policy> ? 1u << 9 : 0u;
  features f{};
  f.stream[0] = {dims_of_stream<Spec, first>(), quant_set<typename first::quant_policy>() | quant_split,
                 codec_kind<typename first::codec>::variant};
  f.stream[1] = {dims_of_stream<Spec, second>(), quant_set<typename second::quant_policy>() | quant_split,
                 codec_kind<typename second::codec>::variant};
  const unsigned dims_split = is_split<typename Spec::dims_policy> ? 1u << 4 : 0u;
  f.axis = {1u << layers_index<typename Spec::layers_policy>,
            1u << heads_of<Spec>(),
            1u << rotary_index<typename Spec::rotary_policy>,
            1u << f.stream[0].dims | 1u << f.stream[1].dims | dims_split,
            f.stream[0].quant | f.stream[1].quant,
            Spec::tokens_policy::window > 0 ? 2u : 1u,
            Spec::tokens_per_page == 16 ? 1u : (Spec::tokens_per_page == 32 ? 2u : 4u)};
  return f;
}

template <class... Specs>
std::vector<features> features_of_all(list<Specs...>) {
  return {features_of<Specs>()...};
}

enum { layers_at, heads_at, rotary_at, dims_at, quant_at, tokens_at, storage_at };

struct axis_names {
  const char* axis;
  const char* const* names;
  int count;
};
const std::array<axis_names, 7> axes = {{{"layers", layers_names.data(), layers_names.size()},
                                         {"heads", heads_names.data(), heads_names.size()},
                                         {"rotary", rotary_names.data(), rotary_names.size()},
                                         {"dims", dims_names.data(), dims_names.size()},
                                         {"quant", quant_names.data(), quant_names.size()},
                                         {"tokens", tokens_names.data(), tokens_names.size()},
                                         {"storage", storage_names.data(), storage_names.size()}}};

/// A latent goes with a latent, and with keys that are stored after their embedding.
bool is_legal(int axis_a, int a, int axis_b, int b) {
  const auto pair = [&](int x, int y) { return axis_a == x && axis_b == y; };
  if (pair(heads_at, dims_at)) return (a == 4) == (b == 3);
  if (pair(heads_at, rotary_at)) return a != 4 || b == 0;
  if (pair(rotary_at, dims_at)) return b != 3 || a == 0;
  return true;
}

/// Whether the pair meets in a composition; dims and quant must meet on one stream, or where either is a split, in one
/// composition.
bool meets(const features& f, int axis_a, int a, int axis_b, int b) {
  if (axis_a == dims_at && axis_b == quant_at && a != 4) {
    for (const auto& s : f.stream) {
      if (s.dims == static_cast<unsigned>(a) && (s.quant >> b & 1u) != 0) return true;
    }
    return false;
  }
  return (f.axis[axis_a] >> a & 1u) != 0 && (f.axis[axis_b] >> b & 1u) != 0;
}

std::vector<std::string> uncovered(const std::vector<features>& all, int& pairs) {
  std::vector<std::string> missing;
  pairs = 0;
  for (int x = 0; x < 7; ++x) {
    for (int y = x + 1; y < 7; ++y) {
      for (int a = 0; a < axes[x].count; ++a) {
        for (int b = 0; b < axes[y].count; ++b) {
          if (!is_legal(x, a, y, b)) continue;
          ++pairs;
          bool found = false;
          for (const features& f : all) found = found || meets(f, x, a, y, b);
          if (!found) missing.push_back(std::string(axes[x].names[a]) + " with " + axes[y].names[b]);
        }
      }
    }
  }
  return missing;
}

template <class... Specs>
std::set<int> head_dims_of(list<Specs...>) {
  return {Specs::shape_type::head_dim...};
}
template <class... Specs>
std::vector<std::string> names_of(list<Specs...>) {
  return {std::string(Specs::name().c_str())...};
}

}  // namespace

TEST_CASE("each legal pair of policies of different axes meets") {
  const std::vector<features> all = features_of_all(all_compositions{});
  int pairs = 0;
  for (const std::string& pair : uncovered(all, pairs)) FAIL_CHECK("no composition has ", pair);
  MESSAGE(all.size(), " compositions, ", pairs, " pairs");
  CHECK(pairs > 350);
}

TEST_CASE("each codec meets each dims policy on one stream") {
  const std::vector<features> all = features_of_all(all_compositions{});
  for (std::size_t codec = 0; codec < codec_names.size(); ++codec) {
    for (unsigned dims = 0; dims < 4; ++dims) {
      bool found = false;
      for (const features& f : all) {
        for (const auto& s : f.stream) found = found || (s.codec == codec && s.dims == dims);
      }
      CHECK_MESSAGE(found, codec_names[codec], " with ", dims_names[dims]);
    }
  }
}

TEST_CASE("a pair that does not meet is found") {
  std::vector<features> all = features_of_all(all_compositions{});
  int pairs = 0;
  for (features& f : all) {
    if ((f.axis[heads_at] & 8u) != 0) f.axis[tokens_at] &= ~2u;  // single heads without a window
  }
  const std::vector<std::string> missing = uncovered(all, pairs);
  REQUIRE(missing.size() == 1);
  CHECK(missing[0] == "single with sinks_and_window");
}

TEST_CASE("the head dims of models in practice occur") {
  const std::set<int> head_dims = head_dims_of(all_compositions{});
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    CAPTURE(head_dim);
    CHECK(head_dims.count(head_dim) == 1);
  }
}

TEST_CASE("names are whole and different") {
  const std::vector<std::string> names = names_of(all_compositions{});
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
  for (const std::string& name : names) {
    CAPTURE(name);
    CHECK(name.rfind("kvc<", 0) == 0);
    CHECK(name.back() == '>');
    CHECK(std::count(name.begin(), name.end(), '<') == std::count(name.begin(), name.end(), '>'));
  }
}
