#pragma once

namespace chitu::emulated {

/// d = a (16 x depth) b (depth x columns), sums in f32 in the order of depth; columns is a multiple of 8. 8-bit integers come out exact.
void multiply(const float* a, int a_stride, const float* b, int b_stride, float* d, int d_stride, int depth, int columns);

/// d += a b as the FP8 tensor cores of sm_90 sum (docs/methods.md part 4): the products and d are aligned to the largest exponent among them and cut to 13
/// fraction bits, toward zero.
void multiply_fp8(const float* a, int a_stride, const float* b, int b_stride, float* d, int d_stride, int depth, int columns);

}  // namespace chitu::emulated
