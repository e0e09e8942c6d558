// Merging partial results: the splits of one call, and two results the caller holds (merge_states). Fixed order, f32.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/quantize.h"
#include "cuda/tuning.h"

namespace chitu::cuda {
namespace {

constexpr int kThreads = 128;
constexpr float kLn2 = 0.6931471805599453f;

__device__ __forceinline__ void store(void* out, DType t, std::int64_t at, float x) {
  if (t == DType::f32) {
    static_cast<float*>(out)[at] = x;
  } else if (t == DType::bf16) {
    static_cast<__nv_bfloat16*>(out)[at] = __float2bfloat16_rn(x);
  } else {
    static_cast<__half*>(out)[at] = __float2half_rn(x);
  }
}

__device__ __forceinline__ float max_nan(float a, float b) { return a != a || b != b ? a + b : fmaxf(a, b); }

// One block per row: the partial results lie in L2 and are few, so what counts is how many loads are on their way. Sums in the order of the splits.
__global__ void __launch_bounds__(kThreads) combine_kernel(const __grid_constant__ CombineParams p) {
  __shared__ float sum[kMaxSplits], true_sum[kMaxSplits];  // log2, then the weights
  const std::int64_t i = blockIdx.x % p.sequence.seqlen_q, head = blockIdx.x / p.sequence.seqlen_q % p.heads_q;
  const SequenceRange r = p.sequence.range(blockIdx.x / p.sequence.seqlen_q / p.heads_q);
  if (i >= r.q_len) return;
  const std::int64_t batches = p.sequence.packed ? 1 : p.sequence.batch;
  const std::int64_t split_rows = batches * p.heads_q * p.sequence.q_rows;
  const std::int64_t row = (r.tensor_batch * p.heads_q + head) * p.sequence.q_rows + r.q_begin + i;
  for (int s = threadIdx.x; s < p.splits; s += kThreads) {
    const float* sums = p.partial_sum + 2 * (s * split_rows + row);
    sum[s] = sums[0];
    true_sum[s] = sums[1];
  }
  __syncthreads();
  const float infinity = __int_as_float(0x7f800000);
  float m = -infinity, m_true = -infinity;
  for (int s = 0; s < p.splits; ++s) {
    m = max_nan(m, sum[s]);
    m_true = max_nan(m_true, true_sum[s]);
  }
  const float m0 = m == -infinity ? 0.0f : m, t0 = m_true == -infinity ? 0.0f : m_true;
  __syncthreads();
  for (int s = threadIdx.x; s < p.splits; s += kThreads) {
    sum[s] = exp2f(sum[s] - m0);
    true_sum[s] = exp2f(true_sum[s] - t0);
  }
  __syncthreads();
  float z = 0.0f, z_true = 0.0f;
  for (int s = 0; s < p.splits; ++s) {
    z += sum[s];
    z_true += true_sum[s];
  }
  const float inverse = z == 0.0f ? 0.0f : 1.0f / z;
  const std::int64_t out = r.tensor_batch * p.out_batch + (r.q_begin + i) * p.out_seq + head * p.out_head;
  for (int d = threadIdx.x; d < p.head_dim_v; d += kThreads) {
    const float* from = p.partial_out + row * p.head_dim_v + d;
    float o = 0.0f;
#pragma unroll 8
    for (int s = 0; s < p.splits; ++s) {
      const float x = from[s * split_rows * p.head_dim_v], weight = sum[s];
      o += weight == 0.0f ? 0.0f : weight * x;  // 0 * NaN of a split that does not count
    }
    store(p.out, p.out_dtype, out + d, o * inverse);
  }
  if (p.lse != nullptr && threadIdx.x == 0) {
    float lse = -infinity;
    if (z_true != 0.0f) {
      lse = kLn2 * (t0 + log2f(z_true));
      if (p.mean_dot != nullptr) lse += p.mean_dot[row];
    }
    p.lse[r.tensor_batch * p.lse_batch + head * p.lse_head + (r.q_begin + i) * p.lse_seq] = lse;
  }
}

// One warp per row: (out, lse) <- merge with (out_b, lse_b); an empty side (-inf) is not read.
__global__ void merge_kernel(const __grid_constant__ MergeParams p) {
  const std::int64_t index = blockIdx.x * (kThreads / 32ll) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t i = index % p.seqlen, head = index / p.seqlen % p.heads, b = index / p.seqlen / p.heads;
  if (b >= p.batch) return;
  const float infinity = __int_as_float(0x7f800000);
  float* lse = p.lse + b * p.lse_stride[0] + head * p.lse_stride[1] + i * p.lse_stride[2];
  const float la = *lse, lb = p.lse_b[b * p.lse_b_stride[0] + head * p.lse_b_stride[1] + i * p.lse_b_stride[2]];
  const float m = max_nan(la, lb), m0 = m == -infinity ? 0.0f : m;
  const float wa = expf(la - m0), wb = expf(lb - m0), z = wa + wb;
  float* out = p.out + b * p.out_stride[0] + i * p.out_stride[1] + head * p.out_stride[2];
  const float* out_b = p.out_b + b * p.out_b_stride[0] + i * p.out_b_stride[1] + head * p.out_b_stride[2];
  for (int d = lane; d < p.dim; d += 32) {
    float o = 0.0f;
    if (wa != 0.0f) o += wa * out[d];
    if (wb != 0.0f) o += wb * out_b[d];
    out[d] = z == 0.0f ? 0.0f : o / z;
  }
  __syncwarp();
  if (lane == 0) *lse = z == 0.0f ? -infinity : m0 + logf(z);
}

}  // namespace

void combine_splits(const CombineParams& p, cudaStream_t stream) {
  launch(combine_kernel, std::int64_t{p.sequence.batch} * p.heads_q * p.sequence.seqlen_q, kThreads, 0, stream, p);
}
void merge_partials(const MergeParams& p, cudaStream_t stream) {
  launch(merge_kernel, div_up(p.batch * p.heads * p.seqlen, kThreads / 32), kThreads, 0, stream, p);
}

}  // namespace chitu::cuda
