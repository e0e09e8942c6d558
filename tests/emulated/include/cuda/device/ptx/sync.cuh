// In place of src/cuda/device/ptx/sync.cuh.
#pragma once
#include "emulated/block.h"

namespace chitu::cuda::ptx {

inline void bar_sync(int id, int threads) { emulated::barrier_sync(id, threads); }

template <int kRegisters>
inline void setmaxnreg_inc() {}
template <int kRegisters>
inline void setmaxnreg_dec() {}

}  // namespace chitu::cuda::ptx
