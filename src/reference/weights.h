#pragma once

// From the scores of one row in one tile to the rounded weights P (docs/methods.md 2 and 3).

#include <cstdint>
#include <vector>

#include "core/scheme.h"

namespace chitu::ref {

/// The visible keys of one row in one tile, compacted.
struct TileScores {
  std::vector<std::int32_t> index;  ///< position in the tile
  std::vector<float> x;             ///< log2 units, without the tile's bias, with an additive mask
  std::vector<std::int32_t> s;      ///< integer score; empty without codes
  std::vector<float> factor;        ///< f32(f32(f32(|s|*L2E) * q_scale) * k_scale): x = f32(s) * factor when there is no mask
  std::vector<std::int32_t> group;  ///< K group of the key: keys of one group have one factor
  bool masked = false;              ///< an additive mask is in x
};

/// NaN-propagating maximum: what plain fmax would drop stays. -inf when there is no key.
float nan_max(const std::vector<float>& x);

struct TileWeights {
  std::vector<float> code;  ///< P * p_range after rounding, one per visible key
  double code_sum = 0;      ///< sum of codes / p_range
  double raw_sum = 0;       ///< sum of P before rounding, relative to the same reference as the codes
  double lse_sum = 0;       ///< sum of P that the lse takes (flagged tiles: relative to the level of x)
  float code_level = 0;     ///< log2 level of the codes' reference, without bias: 2^0 of P
  bool lossy = false;       ///< |raw_sum - code_sum| > raw_sum / 64: rounding moved the row's sum (chitu_int8 then corrects it)
};

/// Weights against the reference `reference` (log2 level without bias: the tile's own maximum, or the running one minus the bias).
void tile_weights(const core::Scheme& scheme, const TileScores& t, float reference, TileWeights& out);
/// A flagged tile of C3: y = x + log2 t takes the place of x; lse_sum stays that of x against its own maximum.
void flagged_weights(const core::Scheme& scheme, const TileScores& t, const float* token_scale, float level, TileWeights& out);

}  // namespace chitu::ref
