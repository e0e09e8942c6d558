#pragma once

// A block of CUDA threads on one host thread: fibers, scheduled until each waits for something, and the barriers of a block.
//
// A warp runs until all of its lanes wait; then the next warp that can. So a warp runs as far ahead of the others as its barriers allow, and a missing one
// shows. Half of the launches go through warps and lanes in the opposite order. Nothing here is thread-safe: one launch at a time, by a lock in launch().

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace chitu::emulated {

extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;

/// The GPU that CHITU_EMULATED_GPU names: sm90 (the default), or sm86, where two tiles of head_dim 256 do not fit into shared memory.
struct Gpu {
  int capability;
  std::int64_t shared_bytes;  // that a block may ask for
};
const Gpu& gpu();

/// Runs body(argument) as every thread of every block. A fault ends the launch: cudaErrorLaunchFailure, and last_fault() says why.
cudaError_t launch(std::int64_t blocks, int threads, std::int64_t shared, void (*body)(void*), void* argument);
const std::string& last_fault();

/// What the hardware would not define, or would hang on. Called by a thread; it and its block end here.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fault(const char* format, ...);

inline int thread() { return static_cast<int>(thread_index.x); }
inline int lane() { return thread() % 32; }
inline int warp() { return thread() / 32; }
/// How this launch goes: last warp, lane and copy first; and after giving something up let others go first instead of running ahead.
bool reversed();
bool modest();

/// bar.sync. threads 0: all that have not ended (__syncthreads).
void barrier_sync(int id, int threads);

/// Blocks the running thread until wake(). `what` and `detail` tell of it in a report of a deadlock.
void wait_for(const char* what, std::uint64_t detail);
void wake(int thread);
/// Another warp goes first, if one can.
void let_others_run();

/// A warp-wide operation: the last lane to arrive calls execute() with the operands of all, which lie on the lanes' stacks.
using Execute = void (*)(void* const* operands);
void collective(const char* name, Execute execute, void* operand);

// Shared memory. Addresses are those of a window in which the dynamic part begins at kDynamicShared, a multiple of 128 but not of 1024.
constexpr std::uint32_t kSharedWindow = 256 * 1024, kDynamicShared = 1024 + 128;
char* dynamic_shared();
std::uint32_t shared_address(const void* p);
/// Host address of `bytes` of dynamic shared memory; a fault if they are not inside, or not aligned.
char* shared_memory(std::uint32_t address, std::uint32_t bytes, std::uint32_t alignment, const char* instruction);
/// What bytes of shared memory hold before they are written, and while a copy is on its way to them.
unsigned char poison();

/// Called when no thread can run. Returns false when nothing is on its way.
using Progress = bool (*)();
/// Parts of the emulator with state of their own: cleared before a block; asked to move; asked after a thread's end whether it left something behind.
struct Unit {
  void (*reset)();
  Progress progress;      // null: never
  void (*thread_ends)();  // null: nothing to say
};
void add_unit(const Unit& unit);

}  // namespace chitu::emulated
