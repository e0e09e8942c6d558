#pragma once

// The table of a unit; CHITU_ISA_TABLE names the function it defines and CHITU_ISA_NAME what `chitu info` prints.

#include "cpu/device/attend_lut-inl.h"
#include "cpu/device/quantize-inl.h"
#include "cpu/device/table.h"

namespace chitu::cpu {

const IsaTable& CHITU_ISA_TABLE() {
  static constexpr IsaTable table = {CHITU_ISA_NAME, Simd::kBf16Dot, kMq,         quantize_tile,     channel_weights,
                                     tile_sum,       absmax_rows,    absmax_channels, lut_scratch_bytes, attend_lut};
  return table;
}

}  // namespace chitu::cpu
