// INT8 QK, 16-bit PV, head_dim 256.
#include "launch.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_int8_f16_d256(const AttentionParams& p, cudaStream_t stream) {
  return p.input == Float::bf16 ? launch<Traits<true, true, 256, 64, 2>>(p, stream) : launch<Traits<true, false, 256, 64, 2>>(p, stream);
}

}  // namespace chitu::cuda::sm90
