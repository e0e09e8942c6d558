#pragma once

// In place of src/cuda/launch.h: the blocks run one after another, before the call returns.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <type_traits>

#include "emulated/block.h"

namespace chitu::cuda {

template <class... Params>
cudaError_t launch_kernel(void (*kernel)(Params...), std::int64_t blocks, int threads, std::int64_t shared, cudaStream_t,
                          std::type_identity_t<Params>... params) {
  if (blocks == 0) return cudaSuccess;
  auto thread = [&] { kernel(params...); };
  return emulated::launch(
      blocks, threads, shared, [](void* body) { (*static_cast<decltype(thread)*>(body))(); }, &thread);
}

}  // namespace chitu::cuda
