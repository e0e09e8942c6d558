// Dynamic shared memory.
#pragma once

// The block's dynamic shared memory as an array in the scope of a kernel. A macro, because behind a function the compiler forgets that it is shared memory;
// here at all, because the emulator of tests/emulated has its own.
#define CHITU_DYNAMIC_SHARED(type, alignment, name) \
  extern __shared__ __align__(alignment)            \
  type name[]
