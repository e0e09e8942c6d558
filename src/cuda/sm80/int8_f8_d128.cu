#include "cuda/sm80/instantiate.cuh"

namespace chitu::cuda::sm80 {
AttentionKernel int8_f8_d128(Variant v) { return int8_f8<128>(v); }
}  // namespace chitu::cuda::sm80
