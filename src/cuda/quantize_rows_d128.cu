#include "cuda/quantize_rows.cuh"

namespace chitu::cuda {
RowsKernel quantize_rows_d128(DType t, bool whole) { return whole ? rows_kernel<128, true>(t) : rows_kernel<128, false>(t); }
KeyFactorsKernel key_factors_d128(DType t) { return key_factors_kernel_of<128>(t); }
}  // namespace chitu::cuda
