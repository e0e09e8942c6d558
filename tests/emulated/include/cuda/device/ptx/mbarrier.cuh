// In place of src/cuda/device/ptx/mbarrier.cuh.
#pragma once
#include <cstdint>

#include "emulated/block.h"
#include "emulated/tma.h"

namespace chitu::cuda::ptx {

inline std::uint32_t smem_u32(const void* p) { return emulated::shared_address(p); }

inline void mbarrier_init(std::uint64_t* barrier, std::uint32_t count) { emulated::mbarrier_init(barrier, count); }
inline void fence_barrier_init() { emulated::fence_mbarrier_init(); }
inline void mbarrier_arrive(std::uint64_t* barrier) { emulated::mbarrier_arrive(barrier, 0); }
inline void mbarrier_arrive_expect_tx(std::uint64_t* barrier, std::uint32_t bytes) { emulated::mbarrier_arrive(barrier, bytes); }
inline bool mbarrier_try(std::uint64_t* barrier, std::uint32_t parity) { return emulated::mbarrier_try(barrier, parity); }
inline void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity) { emulated::mbarrier_wait(barrier, parity); }
inline void mbarrier_wait_asleep(std::uint64_t* barrier, std::uint32_t parity) { emulated::mbarrier_wait(barrier, parity); }

}  // namespace chitu::cuda::ptx
