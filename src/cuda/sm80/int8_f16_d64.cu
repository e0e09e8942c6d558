#include "cuda/sm80/instantiate.cuh"

namespace chitu::cuda::sm80 {
AttentionKernel int8_f16_d64(Variant v) { return int8_f16<64>(v); }
}  // namespace chitu::cuda::sm80
