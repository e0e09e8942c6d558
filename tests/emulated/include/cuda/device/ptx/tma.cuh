// In place of src/cuda/device/ptx/tma.cuh.
#pragma once
#include "cuda/device/ptx/mbarrier.cuh"

namespace chitu::cuda::ptx {

inline void tma_load_3d(void* destination, const void* map, std::uint64_t* barrier, int c0, int c1, int c2) {
  const int position[] = {c0, c1, c2};
  emulated::tensor_load(destination, map, barrier, 3, position);
}
inline void tma_load_4d(void* destination, const void* map, std::uint64_t* barrier, int c0, int c1, int c2, int c3) {
  const int position[] = {c0, c1, c2, c3};
  emulated::tensor_load(destination, map, barrier, 4, position);
}
inline void fence_proxy_async() { emulated::fence_proxy_async(); }

}  // namespace chitu::cuda::ptx
