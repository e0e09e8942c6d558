#pragma once

// The functions that every instruction-set unit exports.

#include "cpu/device/params.h"

namespace chitu::cpu {

struct IsaTable {
  const char* name;
  bool bf16_dot;      // 16-bit dot products in hardware
  int rows_per_item, float_rows_per_item;  // rows of a work item of attend_lut and of attend_float
  std::int64_t (*dot_peak)(std::int64_t rounds);  // 8-bit dot products on registers; returns the operations done
  // pre-pass
  void (*quantize_tile)(const QuantizeArgs&, std::int64_t tile, void* scratch);
  void (*channel_weights)(const Rows& v, std::int64_t seqlen, int head_dim, int padded, float* c, float* inv);
  void (*key_residuals)(const Rows& k, int head_dim, int dk, float* residual, void* scratch);
  void (*tile_sum)(const Rows&, std::int64_t first, int count, int head_dim, int width, float* sum, void* scratch);
  std::int32_t (*absmax_rows)(const Rows&, std::int64_t first, std::int64_t count, std::int64_t step, int head_dim);
  void (*absmax_channels)(const Rows&, std::int64_t first, std::int64_t count, int head_dim, std::int32_t* bits);
  // attention
  std::int64_t (*lut_scratch_bytes)(int dk, int dv);
  void (*attend_lut)(const AttendArgs&, std::int64_t item, void* scratch);  // chitu_int8
  int decode_rows;  // up to so many rows of a sequence and KV head, chitu_int8 goes by chunks of keys instead of items of rows
  std::int64_t (*decode_floats)(int rows, int dv);  // size of a chunk's result
  void (*attend_decode)(const AttendArgs&, std::int64_t chunk, float* result, void* scratch);
  void (*finish_decode)(const AttendArgs&, std::int64_t chunks, const float* results, std::int64_t floats, void* scratch);  // floats: from result to result
  std::int64_t (*float_scratch_bytes)(int dk, int dv);
  void (*attend_float)(const AttendArgs&, std::int64_t item, void* scratch);  // every other method
};

const IsaTable& scalar_table();
const IsaTable& avx2_table();
const IsaTable& avx512vnni_table();
const IsaTable& avx512bf16_table();

}  // namespace chitu::cpu
