// Maxima that let NaN through. One PTX instruction per function.
#pragma once

namespace chitu::cuda::ptx {

// Larger of two, NaN when either is.
__device__ __forceinline__ float max_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

}  // namespace chitu::cuda::ptx
