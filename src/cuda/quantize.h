#pragma once

// Launchers of the pre-pass. Each checks its launch; none allocates or synchronises.

#include "cuda/params.h"
#include "cuda/runtime.h"

namespace chitu::cuda {

struct QuantizePairParams {
  QuantizeRowsParams k, q;
  std::int64_t k_blocks;  ///< 0: no K (it came quantized)
};

struct StatisticsPairParams {
  StatisticsParams k, v;
  std::int64_t k_blocks, k_heads;  ///< tiles of K, and (sequence, head)s; 0: no K
};

/// Codes of K and Q in one launch.
void quantize_rows(const QuantizePairParams& p, std::int64_t blocks, cudaStream_t stream);

/// Factors of the rotation, with weights of K's channels from the first tile of each sequence (core/key_weights.h).
void key_factors(const KeyFactorsParams& p, cudaStream_t stream);
/// Statistics of K and of V. Null: none.
void statistics(const StatisticsParams* k, const StatisticsParams* v, cudaStream_t stream);

/// copy: 16-bit V as it is; f16: a channel beyond f16 is scaled by a power of two; e4m3_tiles: in the layout of v8t.
enum class VCodes { copy, f16, e4m3_as_f16, e4m3, e4m3_tiles, s8_tensor, s8_c3 };
void quantize_v(const QuantizeVParams& p, VCodes codes, cudaStream_t stream);
/// e4m3 codes of a pre-quantized cache to f16.
void unpack_v(const std::uint8_t* codes, std::uint16_t* v16, std::int64_t n, cudaStream_t stream);

void combine_splits(const CombineParams& p, cudaStream_t stream);
void merge_partials(const MergeParams& p, cudaStream_t stream);

// Kernels by head_dim bucket; whole: head_dim is the bucket's.
using RowsKernel = void (*)(QuantizePairParams);
using KeyFactorsKernel = void (*)(KeyFactorsParams);
RowsKernel quantize_rows_d64(DType, bool whole);
RowsKernel quantize_rows_d128(DType, bool whole);
RowsKernel quantize_rows_d256(DType, bool whole);
KeyFactorsKernel key_factors_d64(DType);
KeyFactorsKernel key_factors_d128(DType);
KeyFactorsKernel key_factors_d256(DType);

}  // namespace chitu::cuda
