#pragma once

namespace chitu::emulated {

/// d = a (16 x depth) b (depth x columns), sums in f32 in the order of depth; columns is a multiple of 8. 8-bit integers come out exact.
void multiply(const float* a, int a_stride, const float* b, int b_stride, float* d, int d_stride, int depth, int columns);

}  // namespace chitu::emulated
