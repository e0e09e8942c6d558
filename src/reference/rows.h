#pragma once

// A method on selected rows only: what accuracy tables on long sequences can afford. K and V are quantized whole, Q in the units that hold a selected row.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "chitu/attention.h"
#include "core/scheme.h"

namespace chitu::ref {

struct SelectedRow {
  std::int64_t sequence, head, row;  ///< batch or packed sequence, query head, query index within the sequence
};
struct SelectedResult {
  std::vector<float> out;                     ///< [rows, head_dim_v]
  std::vector<float> lse;                     ///< [rows]
  std::int64_t tiles = 0, flagged_tiles = 0;  ///< s8_c3: V tiles of the heads that were visited
};
/// rows sorted by (sequence, head, row). args.out and args.lse are not used. Method::exact runs in fp64. threads: 0 = one per core.
SelectedResult attention_rows(const core::Scheme& scheme, const AttentionArgs& args, const Mask& mask, std::optional<float> softmax_scale,
                              std::span<const SelectedRow> rows, int threads = 0);

}  // namespace chitu::ref
