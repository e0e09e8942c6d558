#pragma once

// The one place where a kernel is launched. Apart from runtime.h because the emulator of tests/emulated has its own.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <type_traits>

namespace chitu::cuda {

/// kernel<<<blocks, threads, shared, stream>>>(params ..). Raises the kernel's shared memory limit where that may be needed (48 KB with static arrays).
template <class... Params>
cudaError_t launch_kernel(void (*kernel)(Params...), std::int64_t blocks, int threads, std::int64_t shared, cudaStream_t stream,
                          std::type_identity_t<Params>... params) {
  const void* entry = reinterpret_cast<const void*>(kernel);
  if (blocks == 0) return cudaSuccess;
  if (shared > 32 * 1024) {
    const cudaError_t e = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (e != cudaSuccess) return e;
  }
  void* arguments[] = {&params...};
  return cudaLaunchKernel(entry, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), arguments, static_cast<std::size_t>(shared),
                          stream);
}

}  // namespace chitu::cuda
