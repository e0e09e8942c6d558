#pragma once

// Every choice of size that is not forced by a layout, with its reason.

#include <algorithm>
#include <cstdint>

#include "core/kernel.h"
#include "cuda/params.h"

namespace chitu::cuda {

/// Keys of one call divided among blocks (flash-decoding).
struct SplitPlan {
  std::int64_t count, keys;
};

/// Boundaries depend on seqlen_k and whether the call is a decoding step, never on batch, heads or SM count: a row's bits do not depend on its neighbours.
/// Up to 16 query rows per head a block would otherwise walk all keys alone; 1024 keys keep it busy for about 10 us, 64 splits bound the partial results.
inline SplitPlan split_plan(const core::Problem& p) {
  constexpr std::int64_t kRows = 16, kKeys = 1024, kMaxSplits = 64;
  if (p.seqlen_q > kRows || p.seqlen_k <= kKeys) return {1, 0};
  const std::int64_t keys = kKeys * div_up(div_up(p.seqlen_k, kKeys), kMaxSplits);
  return {div_up(p.seqlen_k, keys), keys};
}

}  // namespace chitu::cuda
