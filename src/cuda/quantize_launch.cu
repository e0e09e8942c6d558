// Launches of the pre-pass kernels that live in several files, and the header of a blob.
#include <algorithm>

#include "cuda/prepass.h"

namespace chitu::cuda {

namespace {
RowDivisors divisors_of(const QuantizeRowsParams& p) {
  return {Divisor::of(div_up(p.is_q ? p.sequence.seqlen_q : p.sequence.seqlen_k, kTile)), Divisor::of(p.heads), Divisor::of(p.heads_per_kv)};
}
}  // namespace

void quantize_rows(QuantizePairParams p, cudaStream_t stream) {
  const QuantizeRowsParams& any = p.k_blocks > 0 ? p.k : p.q;
  const int dim = any.head_dim;
  p.aligned = dim % 8 == 0 && (p.k_blocks == 0 || p.k.x.aligned16) && (p.k_blocks == p.blocks || p.q.x.aligned16);
  p.by_k = divisors_of(p.k), p.by_q = divisors_of(p.q);
  const RowsKernel kernel = dim <= 64    ? quantize_rows_d64(any.x.dtype, dim == 64, p.aligned)
                            : dim <= 128 ? quantize_rows_d128(any.x.dtype, dim == 128, p.aligned)
                                         : quantize_rows_d256(any.x.dtype, dim == 256, p.aligned);
  int device = 0;
  CHITU_CUDA(cudaGetDevice(&device));
  const std::int64_t resident = std::int64_t{device_caps(device).sm_count} * kernel.blocks_per_sm;
  launch(kernel.kernel, std::min(p.blocks, resident), kernel.threads, kernel.shared, stream, p);
}

namespace {
__global__ void header_kernel(BlobHeader h, BlobHeader* to) { *to = h; }
}  // namespace

void write_header(const BlobHeader& h, void* blob, cudaStream_t stream) { launch(header_kernel, 1, 1, 0, stream, h, static_cast<BlobHeader*>(blob)); }

}  // namespace chitu::cuda
