#include "cuda/sm80/instantiate.cuh"

namespace chitu::cuda::sm80 {
AttentionKernel int8_i8_d64(Variant v) { return int8_i8<64>(v); }
}  // namespace chitu::cuda::sm80
