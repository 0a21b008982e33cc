// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <Eigen/Core>

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1::calibrate {

/// First and second moments of rows, accumulated in double.
class moments {
 public:
  explicit moments(int width) : sum_(Eigen::VectorXd::Zero(width)), product_(Eigen::MatrixXd::Zero(width, width)) {}

  /// row: [width]
  void add(const float* row) {
    const Eigen::VectorXd x = Eigen::Map<const Eigen::VectorXf>(row, sum_.size()).cast<double>();
    sum_ += x;
    product_.selfadjointView<Eigen::Lower>().rankUpdate(x);
    ++count_;
  }
  /// rows: [count][width], `pitch` floats from one to the next.
  void add(const float* rows, int64 count, int64 pitch) {
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const Eigen::Map<const matrix, 0, Eigen::OuterStride<>> x(rows, count, sum_.size(), Eigen::OuterStride<>(pitch));
    const Eigen::MatrixXd turned = x.transpose().cast<double>();  // [width][count]
    sum_ += turned.rowwise().sum();
    product_.selfadjointView<Eigen::Lower>().rankUpdate(turned);
    count_ += count;
  }
  void add(const moments& other) {
    sum_ += other.sum_;
    product_ += other.product_;
    count_ += other.count_;
  }

  int width() const { return static_cast<int>(sum_.size()); }
  int64 count() const { return count_; }
  Eigen::VectorXd mean() const { return sum_ / divisor(); }
  /// E[x x^T]
  Eigen::MatrixXd second_moment() const {
    return Eigen::MatrixXd(product_.selfadjointView<Eigen::Lower>()) / divisor();
  }
  /// E[(x - mean)(x - mean)^T]
  Eigen::MatrixXd covariance() const { return second_moment() - mean() * mean().transpose(); }

 private:
  double divisor() const { return count_ == 0 ? 1.0 : static_cast<double>(count_); }

  Eigen::VectorXd sum_;
  Eigen::MatrixXd product_;
  int64 count_ = 0;
};

}  // namespace kvc::inline v0_1::calibrate
