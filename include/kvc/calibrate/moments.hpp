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
