// INT8 QK, e4m3 PV, head_dim 128.
#include "launch8.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_int8_f8_d128(const AttentionParams& p, cudaStream_t stream) { return launch8_any<Weights::e4m3_tile, kLogWords, 128, 2>(p, stream); }
cudaError_t launch_int8_f8_running_d128(const AttentionParams& p, cudaStream_t stream) { return launch8_any<Weights::e4m3_running, 0, 128, 3>(p, stream); }

}  // namespace chitu::cuda::sm90
