// INT8 QK, 16-bit PV, head_dim 128.
#include "launch.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_int8_f16_d128(const AttentionParams& p, cudaStream_t stream) {
  return p.input == Float::bf16 ? launch<Traits<true, true, 128, 128, 2>>(p, stream) : launch<Traits<true, false, 128, 128, 2>>(p, stream);
}

}  // namespace chitu::cuda::sm90
