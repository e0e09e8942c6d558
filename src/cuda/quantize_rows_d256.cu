#include "cuda/quantize_rows.cuh"

namespace chitu::cuda {
RowsKernel quantize_rows_d256(DType t, bool whole) { return whole ? rows_kernel<256, true>(t) : rows_kernel<256, false>(t); }
}  // namespace chitu::cuda
