#pragma once

// In place of src/cuda/launch.h where a benchmark wants to know what each kernel takes: events around every launch of the library's own host code.

#define launch_kernel launch_kernel_untimed
#include "../../../../src/cuda/launch.h"
#undef launch_kernel

#include <vector>

namespace chitu::cuda {

struct TimedLaunch {
  const void* kernel;
  cudaEvent_t begin, end;
};
/// What has been launched since it was cleared; null: not wanted.
inline std::vector<TimedLaunch>* timed_launches = nullptr;

template <class... Params>
cudaError_t launch_kernel(void (*kernel)(Params...), std::int64_t blocks, int threads, std::int64_t shared, cudaStream_t stream,
                          std::type_identity_t<Params>... params) {
  if (timed_launches == nullptr) return launch_kernel_untimed(kernel, blocks, threads, shared, stream, params...);
  TimedLaunch t{reinterpret_cast<const void*>(kernel), nullptr, nullptr};
  cudaError_t e = cudaEventCreate(&t.begin);
  if (e == cudaSuccess) e = cudaEventCreate(&t.end);
  if (e == cudaSuccess) e = cudaEventRecord(t.begin, stream);
  if (e == cudaSuccess) e = launch_kernel_untimed(kernel, blocks, threads, shared, stream, params...);
  if (e == cudaSuccess) e = cudaEventRecord(t.end, stream);
  if (e == cudaSuccess) timed_launches->push_back(t);
  return e;
}

}  // namespace chitu::cuda
