// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/dims/dims.hpp>
#include <kvc/testing/dims.hpp>

namespace {

using namespace kvc::dims;
using kvc::testing::dims_failures;

/// Rank orthonormal rows of length HeadDim (Gram-Schmidt on random rows).
std::vector<float> orthonormal(int rank, int head_dim) {
  kvc::testing::random_source r(21);
  std::vector<std::vector<double>> rows;
  for (int k = 0; k < rank; ++k) {
    std::vector<double> v;
    for (int i = 0; i < head_dim; ++i) v.push_back(static_cast<double>(r.normal()));
    for (const std::vector<double>& u : rows) {
      double product = 0;
      for (std::size_t i = 0; i < v.size(); ++i) product += u[i] * v[i];
      for (std::size_t i = 0; i < v.size(); ++i) v[i] -= product * u[i];
    }
    double norm = 0;
    for (const double x : v) norm += x * x;
    for (double& x : v) x /= std::sqrt(norm);
    rows.push_back(v);
  }
  std::vector<float> flat;
  for (const std::vector<double>& u : rows) {
    for (const double x : u) flat.push_back(static_cast<float>(x));
  }
  return flat;
}

template <int Rank, int HeadDim>
void check_low_rank() {
  CAPTURE(Rank);
  CHECK(dims_failures<low_rank<Rank>, HeadDim>() == "");
  // An orthonormal basis, E = D; then E != D with E D^T = 1: channels of D weighted, of E by the inverse.
  const std::vector<float> basis = orthonormal(Rank, HeadDim);
  std::vector<float> both(basis);
  both.insert(both.end(), basis.begin(), basis.end());
  CHECK(dims_failures<low_rank<Rank>, HeadDim>(both) == "");
  for (std::size_t i = 0; i < basis.size(); ++i) {
    const float weight = i / HeadDim % 2 == 0 ? 2.0f : 0.75f;
    both[i] = basis[i] / weight;
    both[basis.size() + i] = basis[i] * weight;
  }
  CHECK(dims_failures<low_rank<Rank>, HeadDim>(both) == "");
}

}  // namespace

TEST_CASE("the dims policies satisfy the suite for users' own") {
  CHECK(dims_failures<full, 64>() == "");
  CHECK(dims_failures<full, 128>() == "");
  CHECK(dims_failures<latent<512, 64>, 128>() == "");
  CHECK(dims_failures<pruned<40>, 64>() == "");
  CHECK(dims_failures<pruned<128>, 128>() == "");
  check_low_rank<16, 64>();
  check_low_rank<48, 64>();
  check_low_rank<64, 64>();
  check_low_rank<32, 128>();
}

TEST_CASE("pruned keeps the channels that its calibration names, and the others read as zero") {
  const std::vector<float> kept{6, 1, 3};
  CHECK(dims_failures<pruned<3>, 8>(kept) == "");
  const float row[] = {10, 11, 12, 13, 14, 15, 16, 17};
  float stored[3], back[8];
  pruned<3>::compress<8>(row, stored, kept.data());
  CHECK(std::vector<float>(stored, stored + 3) == std::vector<float>{16, 11, 13});
  pruned<3>::expand<8>(stored, back, kept.data());
  CHECK(std::vector<float>(back, back + 8) == std::vector<float>{0, 11, 0, 13, 0, 0, 16, 0});
}

TEST_CASE("pruned rows expand in place: the stored row and the model row may share memory") {
  const std::vector<float> kept{6, 1, 3};
  float x[8] = {1, 2, 3};
  pruned<3>::expand<8>(x, x, kept.data());
  CHECK(std::vector<float>(x, x + 8) == std::vector<float>{0, 2, 0, 3, 0, 0, 1, 0});
}

TEST_CASE("without a calibration low_rank and pruned keep the leading channels") {
  float constants[2 * 2 * 8], stored[2];
  const float row[] = {5, 7, 9, 1, 1, 1, 1, 1};
  low_rank<2>::initialise<8>(constants);
  low_rank<2>::compress<8>(row, stored, constants);
  CHECK(stored[0] == 5);
  CHECK(stored[1] == 7);
  pruned<2>::initialise<8>(constants);
  pruned<2>::compress<8>(row, stored, constants);
  CHECK(stored[0] == 5);
  CHECK(stored[1] == 7);
}

TEST_CASE("low_rank projects: what lies in the basis is kept, what is orthogonal to it is dropped") {
  constexpr int rank = 8, head_dim = 32;
  const std::vector<float> basis = orthonormal(rank, head_dim);
  std::vector<float> both(basis);
  both.insert(both.end(), basis.begin(), basis.end());
  kvc::testing::random_source r(22);
  std::vector<float> x(head_dim), once(head_dim), twice(head_dim), z(rank);
  for (float& v : x) v = r.normal();
  low_rank<rank>::compress<head_dim>(x.data(), z.data(), both.data());
  low_rank<rank>::expand<head_dim>(z.data(), once.data(), both.data());
  low_rank<rank>::compress<head_dim>(once.data(), z.data(), both.data());
  low_rank<rank>::expand<head_dim>(z.data(), twice.data(), both.data());
  double dropped_dot_kept = 0;
  for (std::size_t i = 0; i < head_dim; ++i) {
    CHECK(once[i] == doctest::Approx(twice[i]).epsilon(1e-5));
    dropped_dot_kept += static_cast<double>((x[i] - once[i]) * once[i]);
  }
  CHECK(std::fabs(dropped_dot_kept) < 1e-5);
}
