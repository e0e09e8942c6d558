#pragma once

// What every CUDA source needs from the runtime: error checks, the current-device guard, cached facts about devices.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "chitu/error.h"
#include "core/check.h"
#include "core/kernel.h"
#include "cuda/launch.h"

namespace chitu::cuda {

/// Throws CudaError naming the call.
void check(cudaError_t status, const char* what);
#define CHITU_CUDA(call) ::chitu::cuda::check((call), #call)

/// Makes a device current for a scope and restores the caller's, also on exceptions.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = -1;
};

/// Cached after the first question; the device must exist.
core::DeviceCaps device_caps(int device);
/// Dynamic shared memory one block may ask for.
std::int64_t max_shared_bytes(int device);

inline cudaStream_t stream_of(Stream s) { return static_cast<cudaStream_t>(s); }

/// launch_kernel, checked.
template <class... Params>
void launch(void (*kernel)(Params...), std::int64_t blocks, int threads, std::int64_t shared, cudaStream_t stream, std::type_identity_t<Params>... params) {
  CHITU_CUDA(launch_kernel(kernel, blocks, threads, shared, stream, params...));
}

constexpr std::int64_t kMaxBlocks = 0x7fffffff;  // of a one-dimensional grid

}  // namespace chitu::cuda
