#pragma once

// Marks functions that device code may call too; they use nothing but arithmetic.
#if defined(__CUDACC__)
#define CHITU_HD __host__ __device__
#else
#define CHITU_HD
#endif
