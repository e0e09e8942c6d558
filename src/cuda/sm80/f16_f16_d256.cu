#include "cuda/sm80/instantiate.cuh"

namespace chitu::cuda::sm80 {
AttentionKernel f16_f16_d256(Variant v) { return f16_f16<256>(v); }
}  // namespace chitu::cuda::sm80
