#pragma once

// The kernels of this folder by row and head_dim bucket (64, 128, 256). One function per instantiation file.

#include "cuda/params.h"
#include "cuda/runtime.h"

namespace chitu::cuda::sm80 {

/// A compiled kernel; null kernel: not built.
struct AttentionKernel {
  void (*kernel)(AttentionParams) = nullptr;
  int threads = 0, stages = 0, stage_bytes = 0;  ///< stages: as many as it uses; one does where they do not fit
};

enum class Variant { f16, bf16, int8_f16, int8_bf16, int8_f16_f16, int8_e4m3, int8_e4m3_64, int8_u8, int8_s8 };

AttentionKernel f16_f16_d64(Variant);
AttentionKernel f16_f16_d128(Variant);
AttentionKernel f16_f16_d256(Variant);
AttentionKernel int8_f16_d64(Variant);
AttentionKernel int8_f16_d128(Variant);
AttentionKernel int8_f16_d256(Variant);
AttentionKernel int8_f8_d64(Variant);
AttentionKernel int8_f8_d128(Variant);
AttentionKernel int8_f8_d256(Variant);
AttentionKernel int8_i8_d64(Variant);
AttentionKernel int8_i8_d128(Variant);
AttentionKernel int8_i8_d256(Variant);
/// Few rows, int8_u8. halves: 8 rows of a block, or twice as many.
AttentionKernel decode_int8_i8_d64(int halves);
AttentionKernel decode_int8_i8_d128(int halves);
AttentionKernel decode_int8_i8_d256(int halves);

}  // namespace chitu::cuda::sm80
