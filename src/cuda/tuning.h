#pragma once

// Every choice of size that is not forced by a layout, with its reason.

#include <algorithm>
#include <cstdint>

#include "core/kernel.h"
#include "cuda/params.h"

namespace chitu::cuda {

/// Query rows of a head up to which a call is a decoding step.
constexpr std::int64_t kDecodeRows = 16;
/// Query heads from which a decoding step from a cache with e4m3 V runs on wgmma, where a head is one block that walks all keys, after V has been turned into
/// tiles: 32 heads 0.40 ms against 0.66 ms of the kernel that splits the keys (H200, 32768 keys, head_dim 128). The batch does not count: a row's bits would
/// depend on what else is in it.
constexpr std::int64_t kHeadsWorthTiles = 32;
/// Splits of one call at most: what a merge of them reads and holds.
constexpr std::int64_t kMaxSplits = 64;

/// Keys of one call divided among blocks (flash-decoding).
struct SplitPlan {
  std::int64_t count, keys;
};

/// Boundaries depend on seqlen_k and whether the call is a decoding step, never on batch, heads or SM count: a row's bits do not depend on its neighbours.
/// In a decoding step a block would otherwise walk all keys alone; 1024 keys keep it busy for about 10 us, 64 splits bound the partial results. For the rows
/// of sm80/decode.cuh 1024 keys are two tiles for each warp, 256 KB at head_dim 128: 15 us at a block's half of an SM's share of HBM, against the 2 to 4 us
/// in which it starts and merges and the SM's other block has all of the bandwidth. 32K keys of 8 heads are 256 blocks, of 264 that 132 SMs hold.
inline SplitPlan split_plan(const core::Problem& p) {
  constexpr std::int64_t kKeys = 1024;
  if (p.seqlen_q > kDecodeRows || p.seqlen_k <= kKeys) return {1, 0};
  const std::int64_t keys = kKeys * div_up(div_up(p.seqlen_k, kKeys), kMaxSplits);
  return {div_up(p.seqlen_k, keys), keys};
}

}  // namespace chitu::cuda
