#include "cuda/sm80/decode.cuh"

namespace chitu::cuda::sm80 {
AttentionKernel decode_int8_i8_d64(int halves) { return decode_int8_i8<64>(halves); }
}  // namespace chitu::cuda::sm80
