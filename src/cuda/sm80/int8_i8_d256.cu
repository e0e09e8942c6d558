#include "cuda/sm80/instantiate.cuh"

namespace chitu::cuda::sm80 {
AttentionKernel int8_i8_d256(Variant v) { return int8_i8<256>(v); }
}  // namespace chitu::cuda::sm80
