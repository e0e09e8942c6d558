#pragma once

#define CHITU_INLINE __attribute__((always_inline)) inline
#if defined(__clang__)
#define CHITU_UNROLL _Pragma("unroll")
#else
#define CHITU_UNROLL _Pragma("GCC unroll 16")
#endif
