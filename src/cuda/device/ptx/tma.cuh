// Bulk tensor copies (TMA). One PTX instruction per function.
#pragma once
#include "cuda/device/ptx/mbarrier.cuh"

namespace chitu::cuda::ptx {

// Box at (c0, c1, c2) of a rank-3 tensor to shared memory; completes on `barrier`. Out of range elements arrive as zeros.
__device__ __forceinline__ void tma_load_3d(void* destination, const void* map, uint64_t* barrier, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
                   smem_u32(destination)),
               "l"(reinterpret_cast<uint64_t>(map)), "r"(smem_u32(barrier)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}

// The same for rank 4.
__device__ __forceinline__ void tma_load_4d(void* destination, const void* map, uint64_t* barrier, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(
                   smem_u32(destination)),
               "l"(reinterpret_cast<uint64_t>(map)), "r"(smem_u32(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

// Order this thread's ordinary shared memory stores before later reads by wgmma and the copy engine.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace chitu::cuda::ptx
