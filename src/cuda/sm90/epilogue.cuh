// O / l to the caller's rows, lse.
#pragma once
#include "cuda/device/softmax.cuh"
#include "traits.cuh"
#include "work.cuh"

namespace chitu::cuda::sm90 {

// Four 8-column blocks of a row lie spread over a quad (lane q holds columns 2q, 2q + 1 of each); afterwards lane q holds block q.
__device__ __forceinline__ void quad_transpose(uint32_t (&x)[4], int q) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    bool high = q & step;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      uint32_t give = high ? x[i] : x[i + step];
      uint32_t got = __shfl_xor_sync(~0u, give, step);
      (high ? x[i] : x[i + step]) = got;
    }
  }
}

template <bool kBf16Out>
__device__ __forceinline__ uint32_t pack16(float a, float b) {
  return kBf16Out ? ptx::pack_bf16(a, b) : ptx::pack_f16(a, b);
}

// One row of this quad, 16-bit output.
template <bool kBf16Out, int kHeadDim, int kRow>
__device__ __forceinline__ void store_row16(uint16_t* to, const float (&o)[kHeadDim / 2], float factor, int q, bool valid, bool vectors) {
#pragma unroll
  for (int b = 0; b < kHeadDim / 32; ++b) {
    uint32_t x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int at = (b * 4 + i) * 4 + kRow * 2;
      x[i] = pack16<kBf16Out>(o[at] * factor, o[at + 1] * factor);
    }
    quad_transpose(x, q);
    if (!valid) continue;
    uint16_t* block = to + b * 32 + q * 8;
    if (vectors) {
      *reinterpret_cast<uint4*>(block) = make_uint4(x[0], x[1], x[2], x[3]);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) block[i] = static_cast<uint16_t>(x[i / 2] >> (i % 2 * 16));
    }
  }
}

template <int kHeadDim, int kRow>
__device__ __forceinline__ void store_row(const AttentionParams& p, const Place& at, int head, const float (&o)[kHeadDim / 2], int row, float factor, int q) {
  bool valid = row < at.q_len;
  int64_t offset = at.batch * p.out_batch_stride + (at.q_begin + row) * p.out_seq_stride + head * p.out_head_stride;
  if (p.output == Float::f32) {
    float* to = static_cast<float*>(p.out) + offset + q * 2;
    if (!valid) return;
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
      to[i * 8] = o[i * 4 + kRow * 2] * factor;
      to[i * 8 + 1] = o[i * 4 + kRow * 2 + 1] * factor;
    }
    return;
  }
  uint16_t* to = static_cast<uint16_t*>(p.out) + offset;
  // The whole quad shares a row, so this is uniform enough for its shuffles.
  bool vectors = reinterpret_cast<uint64_t>(to) % 16 == 0;
  if (p.output == Float::bf16) {
    store_row16<true, kHeadDim, kRow>(to, o, factor, q, valid, vectors);
  } else {
    store_row16<false, kHeadDim, kRow>(to, o, factor, q, valid, vectors);
  }
}

// Of a row in the caller's lse.
__device__ __forceinline__ int64_t lse_offset(const AttentionParams& p, const Place& at, int head, int row) {
  return at.batch * p.lse_batch_stride + head * p.lse_head_stride + (at.q_begin + row) * p.lse_seq_stride;
}

// O times the factor of its row and the scale of V's channel, in this order: O itself times the scale may pass f32.
template <int kHeadDim>
__device__ __forceinline__ void scale_channels(const AttentionParams& p, const Work& w, float (&o)[kHeadDim / 2], const float (&factor)[2],
                                               const bool (&empty)[2], int q) {
  const float* v_scale = p.v_scale + static_cast<int64_t>(w.sequence * p.num_heads_kv + w.head_kv) * kHeadDim + q * 2;
#pragma unroll
  for (int j = 0; j < kHeadDim / 8; ++j) {
    const float2 scale = __ldg(reinterpret_cast<const float2*>(v_scale + 8 * j));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float& x = o[4 * j + e];
      x = empty[e / 2] ? 0.f : x * factor[e / 2] * (e % 2 ? scale.y : scale.x);  // 0 * NaN of a hidden value must not reach the output
    }
  }
}

// softmax_scale * (q . mean of K), which a smoothed K has taken from the logits of row i.
__device__ __forceinline__ float mean_dot(const AttentionParams& p, const Place& at, int head, int i) {
  return p.mean_dot ? __ldg(p.mean_dot + (static_cast<int64_t>(at.batch) * p.num_heads_q + head) * p.seqlen_q_padded + at.q_begin + i) : 0.f;
}

// row: the thread's first row in the sequence; the second is row + 8. kSequence: statistics of the sequence stand beside the codes, its mean of K, scales of
// V's channels.
template <int kHeadDim, bool kSequence = false>
__device__ __forceinline__ void epilogue(const AttentionParams& p, const Work& w, float (&o)[kHeadDim / 2], const RowState& state, float offset, int row,
                                         int lane) {
  const Place at = place_of(p, w.sequence);
  int q = lane % 4;
  float factor[2];
  bool empty[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float l = quad_sum(state.l[r]);
    empty[r] = l == 0.f;
    factor[r] = empty[r] ? 0.f : 1.f / l;
    int i = row + r * 8;
    if (p.lse && q == 0 && i < at.q_len) {
      float lse = empty[r] ? -__builtin_huge_valf() : 0.6931471805599453f * (state.m[r] - offset + log2f(l));
      if (kSequence && !empty[r]) lse += mean_dot(p, at, w.head, i);
      p.lse[lse_offset(p, at, w.head, i)] = lse;
    }
    if (empty[r]) {  // 0 * NaN of a masked value must not reach the output
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) o[j * 4 + r * 2] = o[j * 4 + r * 2 + 1] = 0.f;
    }
  }
  if (kSequence && p.v_scale) {
    scale_channels<kHeadDim>(p, w, o, factor, empty, q);
    factor[0] = factor[1] = 1.f;
  }
  store_row<kHeadDim, 0>(p, at, w.head, o, row, factor[0], q);
  store_row<kHeadDim, 1>(p, at, w.head, o, row + 8, factor[1], q);
}

}  // namespace chitu::cuda::sm90
