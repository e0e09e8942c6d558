#pragma once

// mbarriers and bulk tensor copies (TMA). A copy lands when no thread can run any more, oldest or newest first by the order of the launch.

#include <cstdint>

namespace chitu::emulated {

void mbarrier_init(std::uint64_t* barrier, std::uint32_t count);
/// Until this, the copy engine does not know the barriers.
void fence_mbarrier_init();
/// Announces `bytes`, then arrives.
void mbarrier_arrive(std::uint64_t* barrier, std::uint32_t bytes);
/// Until the phase with this parity has completed.
void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity);

/// Whether it has.
bool mbarrier_try(std::uint64_t* barrier, std::uint32_t parity);

void tensor_load(void* to, const void* map, std::uint64_t* barrier, int rank, const int* position);

/// Bits 4.. of an address in shared memory, changed as a swizzle of `width` bytes does.
inline std::uint32_t swizzled(std::uint32_t address, std::uint32_t width) { return address ^ ((address >> 7 & (width / 16 - 1)) << 4); }

/// What wgmma sees of shared memory: copies at once, ordinary stores only after fence.proxy.async.
const char* async_view();
void fence_proxy_async();

}  // namespace chitu::emulated
