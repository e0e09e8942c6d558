#pragma once

// Sums in the fixed order that every backend reproduces bit for bit (docs/methods.md 1).

#include <algorithm>
#include <cstdint>
#include <vector>

#include "reference/scheme.h"

namespace chitu::ref {

/// Sum of n = 2^k slots per channel: x is [n, dim] and is destroyed; the sums are left in x[0].
inline void tree_sum(float* x, std::int64_t n, std::int64_t dim) {
  for (std::int64_t stride = n / 2; stride >= 1; stride /= 2)
    for (std::int64_t i = 0; i < stride; ++i)
      for (std::int64_t d = 0; d < dim; ++d) x[i * dim + d] = x[i * dim + d] + x[(i + stride) * dim + d];
}

/// Strided sum of m rows of `dim` values: lane l of 32 adds rows l, l + 32, .. in that order, then a tree over the lanes.
inline std::vector<float> strided_sum(const std::vector<float>& x, std::int64_t m, std::int64_t dim) {
  std::vector<float> lanes(static_cast<std::size_t>(32 * dim), 0.0f);
  for (std::int64_t i = 0; i < m; ++i) {
    float* lane = lanes.data() + (i % 32) * dim;
    for (std::int64_t d = 0; d < dim; ++d) lane[d] = lane[d] + x[static_cast<std::size_t>(i * dim + d)];
  }
  tree_sum(lanes.data(), 32, dim);
  lanes.resize(static_cast<std::size_t>(dim));
  return lanes;
}

/// Tree sum over `slots` slots of row * (1 / slots), rows [first, first + slots) of x as far as they exist. Dividing first keeps f32 rows of 1e37 finite.
void scaled_tile_sum(const HeadView& x, std::int64_t first, std::int64_t slots, float* sum);

/// Mean of rows [first, first + slots), not rounded to the inputs' type: the scaled sum times f32(slots / count).
std::vector<float> tile_mean(const HeadView& x, std::int64_t first, std::int64_t slots);

/// Mean of all rows: tiles of 128, strided sum over the tiles, times f32(128 / rows). rows >= 1.
std::vector<float> sequence_mean(const HeadView& x);

}  // namespace chitu::ref
