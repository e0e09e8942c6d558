#pragma once

// One stack per CUDA thread and the switch between them.

#include <cstddef>

namespace chitu::emulated {

/// Stacks with a guard page below each, made once and used again. Never more than kMaxThreads.
constexpr int kMaxThreads = 1024;
constexpr std::size_t kStackBytes = 128 * 1024;
char* stack_of(int thread);

/// Stack pointer of a fiber that enters `entry`, which must not return.
void* prepare_stack(int thread, void (*entry)());

/// Saves the callee-saved registers on the running stack and its pointer in *from, and continues at `to`.
extern "C" void chitu_emulated_switch(void** from, void* to);

}  // namespace chitu::emulated
