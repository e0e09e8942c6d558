#pragma once

// The table of a unit; CHITU_ISA_TABLE names the function it defines and CHITU_ISA_NAME what `chitu info` prints.

#include "cpu/device/quantize-inl.h"
#include "cpu/device/attend_lut-inl.h"
#include "cpu/device/attend_float-inl.h"
#include "cpu/device/decode-inl.h"
#include "cpu/device/peak-inl.h"
#include "cpu/device/table.h"

namespace chitu::cpu {

const IsaTable& CHITU_ISA_TABLE() {
  static constexpr IsaTable table = {
      .name = CHITU_ISA_NAME,
      .bf16_dot = Simd::kBf16Dot,
      .rows_per_item = kMq,
      .float_rows_per_item = kBlocks * kMq,
      .dot_peak = dot_peak,
      .quantize_tile = quantize_tile,
      .channel_weights = channel_weights,
      .key_residuals = key_residuals,
      .tile_sum = tile_sum,
      .absmax_rows = absmax_rows,
      .absmax_channels = absmax_channels,
      .lut_scratch_bytes = lut_scratch_bytes,
      .attend_lut = attend_lut,
      .decode_rows = kDecodeRows,
      .decode_floats = decode_floats,
      .attend_decode = attend_decode,
      .finish_decode = finish_decode,
      .float_scratch_bytes = float_scratch_bytes,
      .attend_float = attend_float,
  };
  return table;
}

}  // namespace chitu::cpu
