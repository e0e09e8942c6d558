// Which rows and keys one piece of work covers. The producer finds it out for all roles of a CTA: divisions and the lengths of a sequence are latency, and
// between two pieces nothing hides it.
#pragma once
#include "params.h"
#include "traits.cuh"

namespace chitu::cuda::sm90 {

// Numbers prepared on the host, 32-bit where the kernel wants them so.
struct WorkShape {
  int num_tiles;          // total tickets
  int num_m_blocks;       // per head
  int heads_per_group;    // heads walked together so that their keys stay in L2
  int num_heads_total;    // batch * num_heads_q
  int gqa_group;          // num_heads_q / num_heads_kv
  int left, right;        // window, clamped to +-2^30
  int diagonal;
};

// Where the rows and keys of a sequence lie. Rows, keys and tiles of a Work count from there.
struct Place {
  int batch;           // into the tensors
  int q_begin, q_len;  // rows of q, its codes, out and lse
  int k_begin, k_len;  // rows of k and v
  int tile;            // first tile of the codes of k and v
};

// The epilogue asks again: what is only needed there would cost the tile loop registers.
__device__ __forceinline__ Place place_of(const AttentionParams& p, int sequence) {
  const Sequence s = p.sequence();
  const SequenceRange r = s.range(sequence);
  auto number = [](int64_t x) { return static_cast<int>(x); };
  return {number(r.tensor_batch), number(r.q_begin), number(r.q_len), number(r.k_begin), number(r.k_len), number(s.first_tile(r, sequence))};
}

struct alignas(16) Work {
  bool none;  // behind the last piece; the rest is not set
  int row0, sequence, head, head_kv;
  Place at;
  int lo, hi;             // row i sees keys max(0, i + lo) .. min(k_len - 1, i + hi)
  int n_begin, n_end;     // key tiles of tile_n, walked from n_end - 1 down
  int n_full_begin, n_full_end;  // of these, tiles that need no mask
  bool zeros_behind;             // the copy engine writes zeros behind the last key
};

struct Barriers {
  uint64_t q_full, q_empty, q16_full;
  uint64_t k_full[2], k_empty[2], v_full[2], v_empty[2];
  uint64_t bias_full[2], bias_empty[2];
  uint64_t work_full[2], work_empty[2];
  Work work[2];
};
static_assert(sizeof(Barriers) <= kBarrierBytes);

constexpr int kFar = 1 << 30;

template <int kTileM, int kTileN>
__device__ __forceinline__ Work decode_work(const AttentionParams& p, const WorkShape& s, int ticket) {
  Work w;
  w.none = false;
  // Longest first: the last rows of a causal problem see most keys.
  int group_tiles = s.heads_per_group * s.num_m_blocks;
  int group = ticket / group_tiles;
  int rest = ticket - group * group_tiles;
  int first_head = group * s.heads_per_group;
  int heads = min(s.heads_per_group, s.num_heads_total - first_head);
  int m_block = s.num_m_blocks - 1 - rest / heads;
  int head_linear = first_head + rest % heads;
  w.sequence = head_linear / p.num_heads_q;
  w.head = head_linear - w.sequence * p.num_heads_q;
  w.head_kv = w.head / s.gqa_group;
  w.row0 = m_block * kTileM;
  w.at = place_of(p, w.sequence);
  w.zeros_behind = !p.packed && w.at.k_len >= p.seqlen_k;
  int diagonal = p.diagonal_from_length ? w.at.k_len - w.at.q_len : s.diagonal;
  w.lo = s.left >= kFar ? -kFar : max(-kFar, diagonal - s.left);
  w.hi = s.right >= kFar ? kFar : min(kFar, diagonal + s.right);
  int row_last = min(w.row0 + kTileM, w.at.q_len) - 1;
  // Rows and offsets are below 2^30 in magnitude, so the sums cannot wrap.
  int last = min(w.at.k_len - 1, row_last + w.hi);
  int first = max(0, w.row0 + w.lo);
  w.n_begin = first / kTileN;
  w.n_end = last >= first ? last / kTileN + 1 : w.n_begin;
  int full_last = min(w.at.k_len - 1, w.row0 + w.hi);  // seen by every row from full_first on
  int full_first = max(0, row_last + w.lo);
  w.n_full_begin = (full_first + kTileN - 1) / kTileN;
  w.n_full_end = full_last >= 0 ? (full_last + 1) / kTileN : 0;
  w.n_full_begin = min(max(w.n_full_begin, w.n_begin), w.n_end);
  w.n_full_end = min(max(w.n_full_end, w.n_full_begin), w.n_end);
  return w;
}

// Ticket of a piece of packed sequences: the pieces of p.order, counted without those that the longest sequence alone would have. Asked for in ascending order.
struct PackedTickets {
  int rank = 0;

  __device__ __forceinline__ int of(const AttentionParams& p, const WorkShape& s, int piece) {
    while (rank < p.batch && piece >= p.order.first_piece[rank + 1]) ++rank;
    if (rank == p.batch) return s.num_tiles;
    const int first = p.order.first_piece[rank], blocks = (p.order.first_piece[rank + 1] - first) / p.num_heads_q;
    const int head = (piece - first) / blocks, block = (piece - first) % blocks;
    return (p.order.sequence[rank] * p.num_heads_q + head) * s.num_m_blocks + s.num_m_blocks - blocks + block;
  }
};

}  // namespace chitu::cuda::sm90
