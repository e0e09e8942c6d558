// INT8 QK, 8-bit integer P and V, head_dim 64.
#include "launch8.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_int8_i8_d64(const AttentionParams& p, cudaStream_t stream) { return launch8_any<Weights::u8_tile, 0, 64, 3>(p, stream); }
cudaError_t launch_int8_i8_running_d64(const AttentionParams& p, cudaStream_t stream) { return launch8_any<Weights::s8_running, 0, 64, 3>(p, stream); }

}  // namespace chitu::cuda::sm90
