// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <Eigen/Eigenvalues>
#include <algorithm>

#include "kvc/calibrate/moments.hpp"
#include "kvc/core/math.hpp"
#include "kvc/rotary/deferred.hpp"

namespace kvc::inline v0_1::calibrate {

/// z = encode x, x ~ decode^T z; rows in order of falling variance of z.
struct basis {
  Eigen::MatrixXd encode;     ///< [rank][width]
  Eigen::MatrixXd decode;     ///< [rank][width]
  Eigen::VectorXd variances;  ///< [rank], of the coordinates z
};

/// The query-aware principal basis. An error e of a key costs (q . e)^2 in the score of query q, on average
/// e^T C e with C the queries' second moment. With C = A^T A the error is Euclidean for y = A x; the principal axes U
/// of y give z = U^T A x: every coordinate's error costs the same, and the first coordinates carry most. Rank smaller
/// than the width is then the best low-rank approximation of the scores (Eckart and Young), and quantization may spend
/// bits by variance alone.
///
/// rows: second moment or covariance of the rows, [width][width]; queries: second moment of the queries that score
/// them, or the identity for an orthonormal basis (PCA). Directions that no query uses are kept above `floor` of the
/// mean query energy, so that A can be inverted.
inline basis query_aware_basis(const Eigen::MatrixXd& rows, const Eigen::MatrixXd& queries, int rank,
                               double floor = 1e-3) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> of_queries(queries);
  const double lowest = max_of(of_queries.eigenvalues().mean() * floor, 1e-30);
  const Eigen::VectorXd root = of_queries.eigenvalues().cwiseMax(lowest).cwiseSqrt();
  const Eigen::MatrixXd& v = of_queries.eigenvectors();
  const Eigen::MatrixXd a = v * root.asDiagonal() * v.transpose();
  const Eigen::MatrixXd a_inverse = v * root.cwiseInverse().asDiagonal() * v.transpose();

  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> of_rows(a * rows * a);
  // Ascending from Eigen; the last `rank` axes are the strongest.
  const Eigen::MatrixXd axes = of_rows.eigenvectors().rightCols(rank).rowwise().reverse();
  return {axes.transpose() * a, axes.transpose() * a_inverse, of_rows.eigenvalues().tail(rank).reverse()};
}

/// PCA: the orthonormal basis of the strongest directions.
inline basis principal_basis(const Eigen::MatrixXd& rows, int rank) {
  return query_aware_basis(rows, Eigen::MatrixXd::Identity(rows.rows(), rows.cols()), rank);
}

/// The second moment of queries as keys before their rotary embedding meet them: turned by every relative angle. Pairs
/// of channels decouple, and both channels of a pair get the pair's mean energy; channels that do not turn stay.
/// dims: channels that turn (0: all).
inline Eigen::MatrixXd average_over_rotary(const Eigen::MatrixXd& queries, rotary::pairs layout, int dims = 0) {
  const Eigen::Index turning = dims == 0 ? queries.rows() : dims;
  Eigen::MatrixXd c = queries;
  c.topRows(turning).setZero();
  c.leftCols(turning).setZero();
  for (Eigen::Index i = 0; i < turning / 2; ++i) {
    const Eigen::Index a = layout == rotary::pairs::interleaved ? 2 * i : i;
    const Eigen::Index b = layout == rotary::pairs::interleaved ? 2 * i + 1 : i + turning / 2;
    c(a, a) = c(b, b) = 0.5 * (queries(a, a) + queries(b, b));
  }
  return c;
}

}  // namespace kvc::inline v0_1::calibrate
