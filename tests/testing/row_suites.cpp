// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The suites for wrappers, dims, rotary, layers, heads and tokens must find each of these defects by its property.
#include <doctest/doctest.h>

#include <kvc/quant/quant.hpp>
#include <kvc/testing/testing.hpp>

namespace {

void finds(const std::string& found, const char* property) {
  CAPTURE(property);
  CAPTURE(found);
  CHECK(found.find(std::string(": ") + property + ": ") != std::string::npos);
}

// ---- Wrappers: channels times a factor per channel, less a shift

enum class wrapper_defect {
  none,
  inverse_twice,
  fold_without_factor,
  constant_forgotten,
  mass_forgotten,
  unfold_like_fold,
  forward_beside,
  fold_depends_on_calls,
  initialise_beside,
};

template <wrapper_defect D>
struct faulty_wrapper {
  using axis = kvc::quant_axis;
  using inner_codec = kvc::quant::none<float>;
  static constexpr auto name = kvc::text("faulty");
  template <int Width>
  static constexpr int own_floats = 2 * Width;

  template <int Width>
  static void initialise(float* c) {
    for (int i = 0; i < Width; ++i) {
      c[i] = i % 2 == 0 ? 2.0f : 0.5f;
      c[Width + i] = 0.25f * static_cast<float>(i % 5);
    }
    if (D == wrapper_defect::initialise_beside) c[2 * Width] = 0;
  }
  template <int Width>
  static void forward(float* x, const float* c) {
    for (int i = 0; i < Width; ++i) x[i] = (x[i] - c[Width + i]) * c[i];
    if (D == wrapper_defect::forward_beside) x[Width] = 0;
  }
  template <int Width>
  static void inverse(float* x, const float* c) {
    for (int i = 0; i < Width; ++i)
      x[i] = x[i] / c[i] + (D == wrapper_defect::inverse_twice ? 2.0f : 1.0f) * c[Width + i];
  }
  template <int Width>
  static float fold_query(float* q, const float* c) {
    static float calls = 0;
    float constant = 0;
    for (int i = 0; i < Width; ++i) {
      constant += q[i] * c[Width + i];
      if (D != wrapper_defect::fold_without_factor) q[i] /= c[i];
    }
    if (D == wrapper_defect::constant_forgotten) return 0;
    return constant + (D == wrapper_defect::fold_depends_on_calls ? 1e-6f * ++calls : 0.0f);
  }
  template <int Width>
  static void unfold_output(float* o, float mass, const float* c) {
    for (int i = 0; i < Width; ++i) {
      o[i] = (D == wrapper_defect::unfold_like_fold ? o[i] * c[i] : o[i] / c[i]) +
             (D == wrapper_defect::mass_forgotten ? 1.0f : mass) * c[Width + i];
    }
  }
};

template <wrapper_defect D>
std::string wrapper_report() {
  return kvc::testing::wrapper_failures<faulty_wrapper<D>, 16>();
}

struct negative_ends : kvc::quant::exact_ends<0, 0, kvc::quant::none<>> {
  static constexpr int first_rows = -1, last_rows = -1;
};

// ---- Dims: the sum and difference of neighbours; the stored row keeps the sums

enum class dims_defect {
  none,
  fold_not_transposed,
  compress_scaled,
  expand_not_linear,
  expand_leaves_gaps,
  compress_beside,
  expand_beside,
  fold_beside,
  initialise_beside,
  false_identity,
  basis_transposed,
};

template <dims_defect D>
struct faulty_dims {
  using axis = kvc::dims_axis;
  static constexpr auto name = kvc::text("faulty");
  static constexpr bool is_identity = D == dims_defect::false_identity;
  template <int HeadDim>
  static constexpr int width = HeadDim / 2;
  template <int HeadDim>
  static constexpr int calibration_floats = 1;

  template <int HeadDim>
  static void initialise(float* c) {
    c[0] = 0.5f;
    if (D == dims_defect::initialise_beside) c[1] = 0;
  }
  template <int HeadDim>
  static void compress(const float* row, float* z, const float* c) {
    for (int i = 0; i < HeadDim / 2; ++i) {
      z[i] = (row[2 * i] + row[2 * i + 1]) * (D == dims_defect::compress_scaled ? 0.49f : c[0]);
    }
    if (D == dims_defect::compress_beside) z[HeadDim / 2] = 0;
  }
  template <int HeadDim>
  static void expand(const float* z, float* row, const float* /*c*/) {
    for (int i = 0; i < HeadDim / 2; ++i) {
      row[2 * i] = D == dims_defect::expand_not_linear && z[i] < 0 ? -z[i] : z[i];
      if (D != dims_defect::expand_leaves_gaps) row[2 * i + 1] = z[i];
    }
    if (D == dims_defect::expand_beside) row[-1] = 0;
  }
  template <int HeadDim>
  static void fold_query(const float* q, float* folded, const float* c) {
    for (int i = 0; i < HeadDim / 2; ++i) {
      folded[i] = (q[2 * i] + q[2 * i + 1]) * (D == dims_defect::fold_not_transposed ? c[0] : 1.0f);
    }
    if (D == dims_defect::fold_beside) folded[HeadDim / 2] = 0;
  }
  template <int HeadDim>
  static float basis(int r, int c, const float* /*constants*/) requires(D == dims_defect::none ||
                                                                        D == dims_defect::basis_transposed) {
    return (D == dims_defect::none ? c / 2 == r : r / 2 == c) ? 1.0f : 0.0f;
  }
};

template <dims_defect D>
std::string dims_report() {
  return kvc::testing::dims_failures<faulty_dims<D>, 16>();
}

// ---- Rotary

enum class rotary_defect {
  none,
  not_orthogonal,
  reflects,
  turns_by_sign,
  turns_pair_twice,
  beside,
  turns_nothing,
  at_zero,
  too_many
};

template <rotary_defect D>
struct faulty_rotary {
  using axis = kvc::rotary_axis;
  static constexpr auto name = kvc::text("faulty");
  static constexpr bool is_deferred = true;
  template <int HeadDim>
  static constexpr int pair_count = D == rotary_defect::too_many ? 0 : HeadDim / 2;

  template <int HeadDim>
  static void rotate(float* k, const float* cos_sin) {
    for (int i = 0; i < pair_count<HeadDim> && D != rotary_defect::turns_nothing; ++i) {
      const float c = cos_sin[2 * i];
      const float s = cos_sin[2 * i + 1] * (D == rotary_defect::not_orthogonal ? 1.01f : 1.0f);
      const float x = k[2 * i];
      const float y = k[2 * i + 1];
      k[2 * i] = x * c - y * s;
      k[2 * i + 1] = x * s + y * c;
      if (D == rotary_defect::reflects && i == 3) {
        k[2 * i] = x * c + y * s;
        k[2 * i + 1] = x * s - y * c;
      }
      if (D == rotary_defect::turns_by_sign && s < 0) {
        k[2 * i] = x * c + y * s;
        k[2 * i + 1] = y * c - x * s;
      }
      if (D == rotary_defect::turns_pair_twice && i == 2) k[2 * i] = k[2 * i + 1] * s;
    }
    if (D == rotary_defect::beside) k[HeadDim] = 0;
    if (D == rotary_defect::at_zero) k[0] = -k[0];
  }
};

template <rotary_defect D>
std::string rotary_report() {
  return kvc::testing::rotary_failures<faulty_rotary<D>, 16>();
}

// ---- Placement

struct own_base {
  using axis = kvc::layers_axis;
  static constexpr auto name = kvc::text("faulty");
};
struct later_leader : own_base {
  static constexpr int leader(int layer, const kvc::int32*) { return layer == 0 ? 1 : layer; }
};
struct chain : own_base {
  static constexpr int leader(int layer, const kvc::int32*) { return layer == 0 ? 0 : layer - 1; }
};
struct outside : own_base {
  static constexpr int leader(int layer, const kvc::int32*) { return layer - 1; }
};
struct undecided : own_base {
  static int leader(int layer, const kvc::int32*) {
    static int calls = 0;
    return ++calls % 2 == 0 ? 0 : layer;
  }
};

template <class F>
struct heads_by : F {
  using axis = kvc::heads_axis;
  static constexpr auto name = kvc::text("faulty");
};
struct three_rows {
  static constexpr int stored(int, int) { return 3; }
};
struct no_row {
  static constexpr int stored(int, int) { return 0; }
};
struct minus_one {
  static constexpr int stored(int, int) { return -1; }
};
struct all_queries {
  static constexpr int stored(int query_heads, int) { return query_heads; }
};
struct latent_of_two {
  static constexpr bool is_latent = true;
  static constexpr int stored(int, int) { return 2; }
};

template <int Sinks, int Window>
struct faulty_tokens {
  using axis = kvc::tokens_axis;
  static constexpr auto name = kvc::text("faulty");
  static constexpr int sinks = Sinks;
  static constexpr int window = Window;
};

}  // namespace

TEST_CASE("the wrapper suite finds each defect") {
  using d = wrapper_defect;
  CHECK(wrapper_report<d::none>() == "");
  finds(wrapper_report<d::inverse_twice>(), "inverse(forward(x)) is x");
  finds(wrapper_report<d::fold_without_factor>(), "<q, x> is <fold_query(q), forward(x)> + constant");
  finds(wrapper_report<d::constant_forgotten>(), "<q, x> is <fold_query(q), forward(x)> + constant");
  finds(wrapper_report<d::mass_forgotten>(), "unfold_output of a weighted sum of stored rows is the sum of the rows");
  finds(wrapper_report<d::unfold_like_fold>(), "unfold_output of a weighted sum of stored rows is the sum of the rows");
  finds(wrapper_report<d::forward_beside>(), "forward writes its row and no more");
  finds(wrapper_report<d::fold_depends_on_calls>(), "the constant of fold_query is the same for all rows");
  finds(wrapper_report<d::initialise_beside>(), "initialise writes own_floats constants and no more");
  finds(kvc::testing::wrapper_failures<negative_ends, 16>(), "first_rows is not negative");
  finds(kvc::testing::wrapper_failures<negative_ends, 16>(), "last_rows is not negative");
  const std::vector<float> too_few(3, 1.0f);
  finds(kvc::testing::wrapper_failures<faulty_wrapper<d::none>, 16>(too_few), "own_floats constants are given");
}

TEST_CASE("the dims suite finds each defect") {
  using d = dims_defect;
  CHECK(dims_report<d::none>() == "");
  finds(dims_report<d::fold_not_transposed>(), "<fold_query(q), z> is <q, expand(z)>");
  finds(dims_report<d::compress_scaled>(), "compress(expand(z)) is z");
  finds(dims_report<d::expand_not_linear>(), "expand is linear");
  finds(dims_report<d::expand_leaves_gaps>(), "<fold_query(q), z> is <q, expand(z)>");
  finds(dims_report<d::compress_beside>(), "compress writes width channels and no more");
  finds(dims_report<d::expand_beside>(), "expand writes HeadDim channels and no more");
  finds(dims_report<d::fold_beside>(), "fold_query writes width channels and no more");
  finds(dims_report<d::initialise_beside>(), "initialise writes calibration_floats constants and no more");
  finds(dims_report<d::basis_transposed>(), "basis is what expand multiplies with");
  finds(dims_report<d::false_identity>(), "a policy with is_identity keeps rows as they are");
}

TEST_CASE("the rotary suite finds each defect") {
  using d = rotary_defect;
  CHECK(rotary_report<d::none>() == "");
  finds(rotary_report<d::not_orthogonal>(), "the norm is kept");
  finds(rotary_report<d::reflects>(), "position 0 turns nothing");
  finds(rotary_report<d::turns_by_sign>(), "a score depends on the difference of the positions alone");
  finds(rotary_report<d::turns_pair_twice>(), "the norm is kept");
  finds(rotary_report<d::beside>(), "rotate writes HeadDim channels and no more");
  finds(rotary_report<d::turns_nothing>(), "other positions turn something");
  finds(rotary_report<d::at_zero>(), "position 0 turns nothing");
  finds(rotary_report<d::too_many>(), "pair_count is positive and fits into the head");
}

TEST_CASE("the suites for placements find each defect") {
  using namespace kvc::testing;
  finds(layers_failures<later_leader>(4), "a writer precedes its readers");
  finds(layers_failures<chain>(4), "a leader reads itself");
  finds(layers_failures<outside>(4), "a leader is a layer of the model");
  finds(layers_failures<undecided>(4), "leader is deterministic");
  finds(heads_failures<heads_by<three_rows>>(), "the rows divide the query heads");
  finds(heads_failures<heads_by<three_rows>>(), "the rows divide the KV heads");
  finds(heads_failures<heads_by<no_row>>(), "some model has heads that fit");
  finds(heads_failures<heads_by<minus_one>>(), "stored is not negative");
  finds(heads_failures<heads_by<all_queries>>(), "a slot stores no more rows than the model has KV heads");
  finds(heads_failures<heads_by<latent_of_two>>(), "a latent is one row");
  finds(tokens_failures<faulty_tokens<-1, 16>>(), "sinks is not negative");
  finds(tokens_failures<faulty_tokens<0, -1>>(), "window is not negative");
  finds(tokens_failures<faulty_tokens<4, 0>>(), "sinks stand beside a window");
}
