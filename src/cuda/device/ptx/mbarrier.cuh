// mbarrier: one PTX instruction per function (wait is the usual try_wait loop).
#pragma once
#include <cstdint>

namespace chitu::cuda::ptx {

__device__ __forceinline__ uint32_t smem_u32(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

// Expect `count` arrivals per phase.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_u32(barrier)), "r"(count) : "memory");
}

// Make freshly initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(smem_u32(barrier)) : "memory");
}

// Arrive and announce `bytes` of asynchronous copies that must land before the phase completes.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(smem_u32(barrier)), "r"(bytes) : "memory");
}

// Whether the phase with this parity has completed, after a wait that the hardware bounds.
__device__ __forceinline__ bool mbarrier_try(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n.reg .pred done;\nmbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\nselp.u32 %0, 1, 0, done;\n}"
               : "=r"(done)
               : "r"(smem_u32(barrier)), "r"(parity)
               : "memory");
  return done != 0;
}

// Spin until the phase with this parity has completed.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "wait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait;\n"
      "}\n" ::"r"(smem_u32(barrier)), "r"(parity) : "memory");
}

// The same for a warp whose work is not urgent: it leaves the scheduler's slots to the others.
__device__ __forceinline__ void mbarrier_wait_asleep(uint64_t* barrier, uint32_t parity) {
  while (!mbarrier_try(barrier, parity)) __nanosleep(400);
}

}  // namespace chitu::cuda::ptx
