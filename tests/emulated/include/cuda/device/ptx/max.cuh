// In place of src/cuda/device/ptx/max.cuh.
#pragma once
#include "emulated/device.h"

namespace chitu::cuda::ptx {

inline float max_nan(float a, float b) { return a != a || b != b ? __uint_as_float(0x7fffffffu) : fmaxf(a, b); }

}  // namespace chitu::cuda::ptx
