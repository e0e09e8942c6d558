// INT8 QK, 16-bit PV of the peers' methods, head_dim 96.
#include "launch.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_int8_f16_peers_d96(const AttentionParams& p, cudaStream_t stream) { return launch_peers<96, 128, 2>(p, stream); }

}  // namespace chitu::cuda::sm90
