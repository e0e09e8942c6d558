// Launches of the pre-pass kernels that live in several files, and the header of a blob.
#include "cuda/prepass.h"

namespace chitu::cuda {

void quantize_rows(const QuantizePairParams& p, std::int64_t blocks, cudaStream_t stream) {
  const QuantizeRowsParams& any = p.k_blocks > 0 ? p.k : p.q;
  const int dim = any.head_dim;
  const RowsKernel kernel = dim <= 64    ? quantize_rows_d64(any.x.dtype, dim == 64)
                            : dim <= 128 ? quantize_rows_d128(any.x.dtype, dim == 128)
                                         : quantize_rows_d256(any.x.dtype, dim == 256);
  launch(kernel, blocks, 512, 0, stream, p);
}

void key_factors(const KeyFactorsParams& p, cudaStream_t stream) {
  const KeyFactorsKernel kernel = p.head_dim <= 64 ? key_factors_d64(p.x.dtype) : p.head_dim <= 128 ? key_factors_d128(p.x.dtype) : key_factors_d256(p.x.dtype);
  launch(kernel, std::int64_t{p.sequence.batch} * p.heads, 512, 0, stream, p);
}

namespace {
__global__ void header_kernel(BlobHeader h, BlobHeader* to) { *to = h; }
}  // namespace

void write_header(const BlobHeader& h, void* blob, cudaStream_t stream) { launch(header_kernel, 1, 1, 0, stream, h, static_cast<BlobHeader*>(blob)); }

}  // namespace chitu::cuda
