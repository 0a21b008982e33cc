// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

namespace kvc_bench {

/// The products of attention alone, by Eigen, for `queries` queries on `rows` rows of 64 channels: scores = q k^T and
/// out = scores v, without mask, scale or soft-max. Row-major; the scores of 192 queries and 1024 rows at a time, which
/// was the fastest of 24 such sizes where it was tried. Returns the operations done.
double eigen_products(const float* q, int queries, const float* k, const float* v, int rows, float* out);

}  // namespace kvc_bench
