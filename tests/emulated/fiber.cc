#include "emulated/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace chitu::emulated {

// System V x86-64: what a function must preserve. The floating-point control words stay as they are: no kernel changes them.
asm(R"(
.text
.globl chitu_emulated_switch
.type chitu_emulated_switch, @function
chitu_emulated_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size chitu_emulated_switch, . - chitu_emulated_switch
)");

char* stack_of(int thread) {
  constexpr std::size_t kGuard = 4096, kEach = kStackBytes + kGuard;
  static char* const all = [] {
    void* p = mmap(nullptr, kEach * kMaxThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    for (int i = 0; i < kMaxThreads; ++i) mprotect(static_cast<char*>(p) + kEach * static_cast<std::size_t>(i), kGuard, PROT_NONE);
    return static_cast<char*>(p);
  }();
  return all + kEach * static_cast<std::size_t>(thread) + kGuard;
}

void* prepare_stack(int thread, void (*entry)()) {
  // Stacks of a warp would otherwise share their cache sets: their pages lie a multiple of 4 KiB apart.
  const std::size_t colour = static_cast<std::size_t>(thread) % 32 * 192;
  auto* top = reinterpret_cast<std::uint64_t*>(stack_of(thread) + kStackBytes - 64 - colour);
  *--top = 0;  // where a function expects its return address: entry starts with rsp = 8 mod 16
  *--top = reinterpret_cast<std::uint64_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  return top;
}

}  // namespace chitu::emulated
