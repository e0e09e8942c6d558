#include "cuda/quantize_rows.cuh"

namespace chitu::cuda {
RowsKernel quantize_rows_d256(DType t, bool whole, bool staged) { return rows_kernel<256>(t, whole, staged); }
}  // namespace chitu::cuda
