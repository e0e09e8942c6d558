#include "cuda/sm80/instantiate.cuh"

namespace chitu::cuda::sm80 {
AttentionKernel int8_f16_d128(Variant v) { return int8_f16<128>(v); }
}  // namespace chitu::cuda::sm80
