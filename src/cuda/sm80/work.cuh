// Which rows and keys one block covers, and the mask of its two rows per thread.
#pragma once
#include "cuda/sm80/traits.cuh"

namespace chitu::cuda::sm80 {

struct Work {
  int batch, head, head_kv, split;
  int i0;  // first query row of the block, in the sequence
  int q_len, k_len;
  std::int64_t tensor_batch, q_begin, k_begin;
  std::int64_t q_row0;  // row of the sequence's first query in the codes, scales and partial results of its head
  std::int64_t tile0;   // its first tile of 128 keys in the codes of its head
  int n_begin, n_end;   // tiles of kTileN keys to visit
  std::int64_t left, right, diagonal;

  __device__ __forceinline__ core::KeyRange keys(int i) const { return band().keys(i); }
  __device__ __forceinline__ bool full(int first_row, int first_key, int count) const {
    return band().full(first_row, first_row + 16, first_key, first_key + count);
  }
  __device__ __forceinline__ core::Band band() const {
    core::MaskParams m;
    m.left = left, m.right = right, m.diagonal = diagonal, m.bottom_right = false;
    return core::Band(m, q_len, k_len);
  }
};

// One of the two rows of Q that a thread has in a fragment.
struct RowPlace {
  int row, head;  // query of the sequence; one behind its end is never written
};

// The sequence of the block, and the tiles that its rows [i0, i1) see of its split. No rows when i0 >= q_len.
template <class T>
__device__ __forceinline__ void locate(const AttentionParams& p, int i0, int i1, Work& w) {
  const SequenceRange r = p.sequence.range(w.batch);
  w.i0 = i0;
  w.q_len = static_cast<int>(r.q_len);
  w.k_len = static_cast<int>(r.k_len);
  if (w.i0 >= w.q_len) return;
  w.tensor_batch = r.tensor_batch;
  w.q_begin = r.q_begin;
  w.k_begin = r.k_begin;
  w.q_row0 = r.q_begin;
  w.tile0 = p.sequence.first_tile(r, w.batch);
  const core::Band band(p.mask, r.q_len, r.k_len);
  w.left = band.left;
  w.right = band.right;
  w.diagonal = band.diagonal;
  core::KeyRange keys = band.keys(w.i0, min(i1, w.q_len));
  if (p.splits > 1) {
    const std::int64_t first = w.split * p.split_keys, last = first + p.split_keys;
    keys.begin = keys.begin < first ? first : keys.begin;
    keys.end = keys.end > last ? last : keys.end;
  }
  w.n_begin = static_cast<int>(keys.begin / T::kTileN);
  w.n_end = keys.end > keys.begin ? static_cast<int>(div_up(keys.end, T::kTileN)) : w.n_begin;
}

template <class T>
__device__ __forceinline__ void decode_work(const AttentionParams& p, Work& w) {
  int rest = blockIdx.x;
  const int q_tile = p.q_tiles - 1 - rest % p.q_tiles;  // last rows first: under a causal mask they see most keys
  rest /= p.q_tiles;
  w.split = rest % p.splits;
  rest /= p.splits;
  w.head = rest % p.heads_q;
  w.batch = rest / p.heads_q;
  w.head_kv = w.head / (p.heads_q / p.heads_kv);
  locate<T>(p, q_tile * kTileM, q_tile * kTileM + kTileM, w);
}

// Element (batch, row, head, 0) of a tensor of 16-bit or 32-bit elements.
template <class Element>
__device__ __forceinline__ const Element* row_of(const View& v, std::int64_t batch, std::int64_t row, std::int64_t head) {
  return static_cast<const Element*>(v.data) + batch * v.batch + row * v.seq + head * v.head;
}

}  // namespace chitu::cuda::sm80
