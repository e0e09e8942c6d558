#include "cuda/quantize_rows.cuh"

namespace chitu::cuda {
RowsKernel quantize_rows_d64(DType t, bool whole) { return whole ? rows_kernel<64, true>(t) : rows_kernel<64, false>(t); }
KeyFactorsKernel key_factors_d64(DType t) { return key_factors_kernel_of<64>(t); }
}  // namespace chitu::cuda
