#pragma once

// Launchers of the pre-pass. Each checks its launch; none allocates or synchronises.

#include "cuda/params.h"
#include "cuda/runtime.h"

namespace chitu::cuda {

/// n / value for n < 2^31, by a multiplication: a thread of quantize_rows has few elements to pay a division with.
struct Divisor {
  std::uint32_t value, factor;
  int shift;

  static Divisor of(std::int64_t n) {
    int log2 = 0;
    while (std::int64_t{1} << log2 < n) ++log2;
    const auto d = static_cast<std::uint64_t>(n > 0 ? n : 1);
    return {static_cast<std::uint32_t>(d), static_cast<std::uint32_t>(((std::uint64_t{1} << (31 + log2)) + d - 1) / d), 31 + log2};
  }
  CHITU_HD std::uint32_t quotient(std::uint32_t n) const { return static_cast<std::uint32_t>(std::uint64_t{n} * factor >> shift); }
};

/// 128-row tiles of a sequence, heads, heads that share a KV head.
struct RowDivisors {
  Divisor tiles, heads, group;
};

struct QuantizePairParams {
  QuantizeRowsParams k, q;
  std::int64_t k_blocks;  ///< tiles of K; 0: no K (it came quantized)
  std::int64_t blocks;    ///< and blocks of 128 rows of Q
  bool aligned;           ///< set by quantize_rows, as the divisors: rows can be copied in pieces of 16 bytes
  RowDivisors by_k, by_q;
};

struct StatisticsPairParams {
  StatisticsParams k, v;
  std::int64_t k_blocks, k_heads;  ///< tiles of K, and (sequence, head)s; 0: no K
};

/// Codes of K and Q in one launch.
void quantize_rows(QuantizePairParams p, cudaStream_t stream);

/// Factors of the rotation, with weights of K's channels from the first tile of each sequence (core/key_weights.h).
void key_factors(const KeyFactorsParams& p, cudaStream_t stream);
/// Statistics of K and of V. Null: none.
void statistics(const StatisticsParams* k, const StatisticsParams* v, cudaStream_t stream);

/// copy: 16-bit V as it is; f16: a channel beyond f16 is scaled by a power of two; e4m3_tiles: in the layout of v8t.
enum class VCodes { copy, f16, e4m3_as_f16, e4m3, e4m3_tiles, s8_tensor, s8_c3 };
void quantize_v(const QuantizeVParams& p, VCodes codes, cudaStream_t stream);
/// e4m3 codes of a pre-quantized cache to the layout of v8t, for kernels with 8-bit PV.
struct CodeTilesParams {
  Sequence sequence;
  int heads, head_dim;
  const std::uint8_t* v8;
  std::int8_t* v8t;
};
void tile_codes(const CodeTilesParams& p, cudaStream_t stream);
/// The same codes to f16.
void unpack_v(const std::uint8_t* codes, std::uint16_t* v16, std::int64_t n, cudaStream_t stream);

void combine_splits(const CombineParams& p, cudaStream_t stream);
void merge_partials(const MergeParams& p, cudaStream_t stream);

// Kernels by head_dim bucket; whole: head_dim is the bucket's; staged: rows are copied in pieces of 16 bytes.
struct RowsKernel {
  void (*kernel)(QuantizePairParams);
  int threads;
  std::int64_t shared;
  int blocks_per_sm;
};
RowsKernel quantize_rows_d64(DType, bool whole, bool staged);
RowsKernel quantize_rows_d128(DType, bool whole, bool staged);
RowsKernel quantize_rows_d256(DType, bool whole, bool staged);

}  // namespace chitu::cuda
