// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1::calibrate {

/// Two layers and how far their rows are apart.
struct layer_pair {
  int shallow = 0;
  int deep = 0;
  double distance = 0;
};

/// Pairs of layers by the mean Euclidean distance of their rows, the most different first (KVSharer, arXiv 2410.18517:
/// layers that differ share with less damage). rows[l]: [tokens * heads][width], the same tokens for all layers; keys
/// and values may be stacked.
inline std::vector<layer_pair> layers_by_distance(const std::vector<Eigen::MatrixXf>& rows) {
  std::vector<layer_pair> pairs;
  for (int deep = 0; deep < static_cast<int>(rows.size()); ++deep) {
    for (int shallow = 0; shallow < deep; ++shallow) {
      const auto& a = rows[static_cast<std::size_t>(shallow)];
      const auto& b = rows[static_cast<std::size_t>(deep)];
      pairs.push_back({shallow, deep, static_cast<double>((a - b).rowwise().norm().mean())});
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const layer_pair& a, const layer_pair& b) { return a.distance > b.distance; });
  return pairs;
}

/// A layer map for layers::mapped<kvc::dynamic>: goes through the pairs in order and lets the deeper layer read the
/// shallower one wherever `accept(leaders)` says that the model still works, until `count` layers have no slot of their
/// own. Returns leaders [layers], flattened: every entry names a layer that writes.
template <class Accept>
std::vector<int32> share_layers(const std::vector<layer_pair>& pairs, int layers, int count, const Accept& accept) {
  std::vector<int32> leaders(static_cast<std::size_t>(layers));
  for (int l = 0; l < layers; ++l) leaders[static_cast<std::size_t>(l)] = l;
  int shared = 0;
  for (const layer_pair& p : pairs) {
    if (shared >= count) break;
    if (leaders[static_cast<std::size_t>(p.deep)] != p.deep) continue;
    std::vector<int32> next = leaders;
    next[static_cast<std::size_t>(p.deep)] = p.shallow;
    for (std::size_t l = 0; l < next.size(); ++l) next[l] = next[static_cast<std::size_t>(next[l])];
    if (!accept(next)) continue;
    leaders = next;
    ++shared;
  }
  return leaders;
}

}  // namespace kvc::inline v0_1::calibrate
