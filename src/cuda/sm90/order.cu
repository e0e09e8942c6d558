// Order of the work of packed sequences, whose lengths the host does not know.
#include "cuda/launch.h"
#include "params.h"

namespace chitu::cuda::sm90 {
namespace {

constexpr int kThreads = 128;

// One warp per sequence: it counts those before its own, and their pieces, so that none needs another's result.
__global__ void order_kernel(const __grid_constant__ AttentionParams p, int tile_m) {
  const int b = static_cast<int>(blockIdx.x * (kThreads / 32) + threadIdx.x / 32), lane = threadIdx.x % 32;
  if (b >= p.batch) return;
  const Sequence s = p.sequence();
  const SequenceRange own = s.range(b);
  const auto pieces_of = [&](const SequenceRange& r) { return static_cast<int>(div_up(r.q_len, tile_m)) * p.num_heads_q; };
  int rank = 0, pieces = 0;
  for (int other = lane; other < p.batch; other += 32) {
    const SequenceRange r = s.range(other);
    if (r.k_len < own.k_len || (r.k_len == own.k_len && other >= b)) continue;
    ++rank;
    pieces += pieces_of(r);
  }
  for (int step = 16; step > 0; step /= 2) {
    rank += __shfl_xor_sync(~0u, rank, step);
    pieces += __shfl_xor_sync(~0u, pieces, step);
  }
  if (lane != 0) return;
  p.order.sequence[rank] = b;
  p.order.first_piece[rank] = pieces;
  if (rank == p.batch - 1) p.order.first_piece[p.batch] = pieces + pieces_of(own);
  if (b == 0) *p.work_counter = 0;
}

}  // namespace

cudaError_t order_pieces(const AttentionParams& p, int tile_m, cudaStream_t stream) {
  return launch_kernel(order_kernel, div_up(p.batch, kThreads / 32), kThreads, 0, stream, p, tile_m);
}

}  // namespace chitu::cuda::sm90
