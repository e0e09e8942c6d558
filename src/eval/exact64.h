#pragma once

// The definition of attention, in fp64, for selected rows:
//   s_j = softmax_scale * q.k_j (+ mask_j);  p = softmax over the visible keys;  out = sum_j p_j v_j;  lse = ln sum_j e^(s_j)
// Keys that are not visible do not exist. No visible key: out = 0, lse = -inf. Host tensors only.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "chitu/attention.h"

namespace chitu::eval {

/// One output row: sequence (batch or packed), query head, query index within the sequence.
struct RowIndex {
  std::int64_t sequence, head, row;
};

struct ExactRows {
  std::int64_t head_dim_v = 0;
  std::vector<double> out;  ///< [rows, head_dim_v]
  std::vector<double> lse;  ///< [rows]
};

/// args.out and args.lse are not used and may be empty. threads: 0 = one per core. Cost: rows * seqlen_k * (head_dim + head_dim_v) multiply-adds.
ExactRows exact64(const AttentionArgs& args, const Mask& mask, std::optional<float> softmax_scale, std::span<const RowIndex> rows, int threads = 0);

/// Up to `count` rows of [batch, num_heads, seqlen_q]: the first, then one at a seeded position in each of `count` equal stretches; sorted.
/// count <= 0 or more than there are: all rows.
std::vector<RowIndex> sample_rows(std::int64_t batch, std::int64_t num_heads, std::int64_t seqlen_q, std::int64_t count, std::uint64_t seed = 1);

}  // namespace chitu::eval
