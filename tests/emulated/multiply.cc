#include "emulated/multiply.h"

namespace chitu::emulated {

// Where most of the time of an emulated attention goes.
__attribute__((target_clones("avx2", "default"), optimize("O3"))) void multiply(const float* a, int a_stride, const float* b, int b_stride, float* d,
                                                                                int d_stride, int depth, int columns) {
  for (int n = 0; n < columns; n += 8) {
    for (int r = 0; r < 16; r += 4) {
      float sum[4][8] = {};
      for (int k = 0; k < depth; ++k)
        for (int i = 0; i < 4; ++i)
          for (int c = 0; c < 8; ++c) sum[i][c] += a[(r + i) * a_stride + k] * b[k * b_stride + n + c];
      for (int i = 0; i < 4; ++i)
        for (int c = 0; c < 8; ++c) d[(r + i) * d_stride + n + c] = sum[i][c];
    }
  }
}

}  // namespace chitu::emulated
