#pragma once

// wgmma: products that run when they are waited for, no sooner. Until then the accumulators hold poison, and A and B are still where the program left them:
// reading a result or giving up an operand too early shows.

#include <cstdint>

#include "emulated/mma.h"

namespace chitu::emulated {

struct Wgmma {
  Type type;  // of B; A's too, except that u8 is multiplied by s8
  Type a_type;
  int columns;             // of B and D
  const std::uint32_t* a;  // registers; null: a_descriptor
  std::uint64_t a_descriptor, b_descriptor;
  bool b_columns_inner;  // B is MN-major
  bool accumulate;
};

void wgmma_fence();
void wgmma_issue(void* d, const Wgmma& product);
void wgmma_commit();
void wgmma_wait(int pending);

}  // namespace chitu::emulated
