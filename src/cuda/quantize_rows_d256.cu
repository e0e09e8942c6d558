#include "cuda/quantize_rows.cuh"

namespace chitu::cuda {
RowsKernel quantize_rows_d256(DType t, bool whole) { return whole ? rows_kernel<256, true>(t) : rows_kernel<256, false>(t); }
KeyFactorsKernel key_factors_d256(DType t) { return key_factors_kernel_of<256>(t); }
}  // namespace chitu::cuda
