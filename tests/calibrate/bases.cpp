// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc::calibrate
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "kvc/calibrate/kept_channels.hpp"
#include "kvc/calibrate/low_rank.hpp"
#include "kvc/calibrate/moments.hpp"

namespace {

using namespace kvc;
using Eigen::MatrixXd;
using Eigen::VectorXd;

/// Rows with correlated channels and a mean, [rows][width].
MatrixXd correlated(int rows, int width, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  MatrixXd white(rows, width), mix(width, width);
  for (double& x : white.reshaped()) x = normal(generator);
  for (double& x : mix.reshaped()) x = normal(generator) / std::sqrt(width);
  for (int i = 0; i < width; ++i) mix.row(i) *= 4.0 / (1 + i);
  return (white * mix).rowwise() + VectorXd::LinSpaced(width, -1, 2).transpose();
}

calibrate::moments moments_of(const MatrixXd& rows) {
  calibrate::moments m(static_cast<int>(rows.cols()));
  for (Eigen::Index i = 0; i < rows.rows(); ++i) {
    const Eigen::VectorXf x = rows.row(i).transpose().cast<float>();
    m.add(x.data());
  }
  return m;
}

/// Mean over queries and rows of (q . (x - decode^T encode x))^2.
double score_error(const MatrixXd& rows, const MatrixXd& queries, const calibrate::basis& b) {
  const MatrixXd error = rows - rows * b.encode.transpose() * b.decode;
  return (queries * error.transpose()).squaredNorm() / static_cast<double>(rows.rows() * queries.rows());
}

}  // namespace

TEST_SUITE("calibrate") {
  TEST_CASE("moments are those of the rows, however they are split") {
    const MatrixXd rows = correlated(300, 12, 1).cast<float>().cast<double>();
    calibrate::moments first = moments_of(rows.topRows(100));
    first.add(moments_of(rows.bottomRows(200)));
    const VectorXd mean = rows.colwise().mean();
    const MatrixXd centred = rows.rowwise() - mean.transpose();
    CHECK(first.count() == 300);
    CHECK((first.mean() - mean).norm() < 1e-9);
    CHECK((first.second_moment() - rows.transpose() * rows / 300).norm() < 1e-9);
    CHECK((first.covariance() - centred.transpose() * centred / 300).norm() < 1e-9);
    CHECK(calibrate::moments(4).mean().isZero());
  }

  TEST_CASE("a full basis loses nothing, whatever the queries") {
    const MatrixXd rows = correlated(400, 16, 2);
    const MatrixXd queries = correlated(400, 16, 3);
    const auto b = calibrate::query_aware_basis(moments_of(rows).covariance(), moments_of(queries).second_moment(), 16);
    CHECK((b.encode.transpose() * b.decode - MatrixXd::Identity(16, 16)).norm() < 1e-6);
  }

  TEST_CASE("PCA: the error of the projection is what the discarded singular values say") {
    const MatrixXd rows = correlated(200, 10, 4).cast<float>().cast<double>();
    const Eigen::JacobiSVD<MatrixXd> svd(rows);
    for (int rank : {1, 3, 7, 10}) {
      const auto b = calibrate::principal_basis(moments_of(rows).second_moment(), rank);
      const double error = (rows - rows * b.encode.transpose() * b.decode).squaredNorm();
      const double discarded = svd.singularValues().tail(10 - rank).squaredNorm();
      CHECK(error == doctest::Approx(discarded).epsilon(1e-6));
      CHECK((b.encode - b.decode).norm() < 1e-9);  // orthonormal
      for (int r = 1; r < rank; ++r) CHECK(b.variances(r) <= b.variances(r - 1));
    }
  }

  TEST_CASE("the query-aware basis beats PCA on scores, and no perturbation of it does better") {
    const MatrixXd rows = correlated(500, 12, 5);
    MatrixXd queries = correlated(500, 12, 6);
    queries.leftCols(4) *= 0.05;  // the strongest channels of the rows are hardly looked at
    const MatrixXd k = moments_of(rows).second_moment();
    const MatrixXd c = moments_of(queries).second_moment();
    const auto aware = calibrate::query_aware_basis(k, c, 4);
    const double best = score_error(rows, queries, aware);
    CHECK(best < 0.7 * score_error(rows, queries, calibrate::principal_basis(k, 4)));

    std::mt19937 generator(7);
    std::normal_distribution<double> normal;
    for (int trial = 0; trial < 20; ++trial) {
      calibrate::basis other = aware;
      for (double& x : other.encode.reshaped()) x += 0.02 * normal(generator);
      for (double& x : other.decode.reshaped()) x += 0.02 * normal(generator);
      CHECK(score_error(rows, queries, other) > best);
    }
  }

  TEST_CASE("coordinates of a query-aware basis cost the same in scores") {
    const MatrixXd rows = correlated(500, 8, 8);
    const MatrixXd queries = correlated(500, 8, 9);
    const MatrixXd c = moments_of(queries).second_moment();
    const auto b = calibrate::query_aware_basis(moments_of(rows).covariance(), c, 8);
    // An error of 1 in coordinate r moves the row by decode[r]: its mean squared score is decode C decode^T = 1.
    const MatrixXd cost = b.decode * c * b.decode.transpose();
    CHECK((cost - MatrixXd::Identity(8, 8)).norm() < 1e-3);
  }

  TEST_CASE("averaging over rotary angles keeps a pair's energy and couples nothing") {
    const MatrixXd c = moments_of(correlated(300, 8, 10)).second_moment();
    for (const auto layout : {rotary::pairs::interleaved, rotary::pairs::half_split}) {
      const MatrixXd averaged = calibrate::average_over_rotary(c, layout);
      // By its definition: the mean of R C R^T over many angles, every pair at a speed of its own.
      MatrixXd sum = MatrixXd::Zero(8, 8);
      constexpr int angles = 20000;
      for (int n = 0; n < angles; ++n) {
        MatrixXd turn = MatrixXd::Identity(8, 8);
        for (int i = 0; i < 4; ++i) {
          const double a = n * (0.618033988749895 + 0.1370019 * i) * 6.283185307179586;
          const int x = layout == rotary::pairs::interleaved ? 2 * i : i;
          const int y = layout == rotary::pairs::interleaved ? 2 * i + 1 : i + 4;
          turn(x, x) = turn(y, y) = std::cos(a);
          turn(x, y) = -std::sin(a);
          turn(y, x) = std::sin(a);
        }
        sum += turn * c * turn.transpose();
      }
      CHECK((sum / angles - averaged).norm() < 2e-3 * c.norm());
    }
    const MatrixXd part = calibrate::average_over_rotary(c, rotary::pairs::interleaved, 4);
    CHECK((part.bottomRightCorner(4, 4) - c.bottomRightCorner(4, 4)).isZero());
    CHECK(part.topRightCorner(4, 4).isZero());
  }

  TEST_CASE("kept channels are those of the largest rank-one products") {
    const MatrixXd keys = correlated(200, 10, 11);
    const MatrixXd queries = correlated(150, 10, 12);
    std::vector<std::pair<double, int>> norms;
    for (int i = 0; i < 10; ++i) norms.push_back({-(queries.col(i) * keys.col(i).transpose()).norm(), i});
    std::sort(norms.begin(), norms.end());
    std::vector<int> expected;
    for (int i = 0; i < 6; ++i) expected.push_back(norms[static_cast<std::size_t>(i)].second);
    std::sort(expected.begin(), expected.end());
    CHECK(calibrate::kept_channels(moments_of(keys).second_moment(), moments_of(queries).second_moment(), 6) ==
          expected);
  }
}
