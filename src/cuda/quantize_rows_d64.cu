#include "cuda/quantize_rows.cuh"

namespace chitu::cuda {
RowsKernel quantize_rows_d64(DType t, bool whole, bool staged) { return rows_kernel<64>(t, whole, staged); }
}  // namespace chitu::cuda
