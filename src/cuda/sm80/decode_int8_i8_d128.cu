#include "cuda/sm80/decode.cuh"

namespace chitu::cuda::sm80 {
AttentionKernel decode_int8_i8_d128(int halves) { return decode_int8_i8<128>(halves); }
}  // namespace chitu::cuda::sm80
