#include "cuda/quantize_rows.cuh"

namespace chitu::cuda {
RowsKernel quantize_rows_d128(DType t, bool whole, bool staged) { return rows_kernel<128>(t, whole, staged); }
}  // namespace chitu::cuda
