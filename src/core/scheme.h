#pragma once

// A method is a Scheme row: what is rounded, where, and with which scale granularity. The reference backend runs any Scheme; a kernel states
// the Scheme it executes, and is tested against the reference running the same one.

#include <cstdint>
#include <string>

#include "chitu/attention.h"
#include "chitu/method.h"

namespace chitu::core {

/// Rows (tokens of one sequence and head) that share a scale: row r belongs to group (r / block, (r % 8) / (8 / groups)).
/// block 0: not quantized; kWholeSequence: one block.
struct Grain {
  std::int64_t block = 0;
  int groups = 1;
  bool quantized() const { return block != 0; }
  std::int64_t count(std::int64_t rows) const { return (rows + block - 1) / block * groups; }
  std::int64_t group(std::int64_t row) const { return row / block * groups + (groups == 1 ? 0 : (row % 8) / (8 / groups)); }
  friend bool operator==(const Grain&, const Grain&) = default;
};
constexpr std::int64_t kWholeSequence = std::int64_t{1} << 60;

enum class Center : std::uint8_t { none, sequence_mean, tile_mean };
enum class PFormat : std::uint8_t { f32, f16, bf16, u8, s8, e4m3 };
/// What P is measured against when it is rounded: the running maximum, the tile's own, or a running one that lags by up to lazy_octaves.
enum class PReference : std::uint8_t { running, tile, lazy };
/// Normaliser of out: raw sum of P, sum of the rounded P, or chitu_int8's corrected sum (docs/methods.md 2).
enum class PSum : std::uint8_t { raw, quantized, corrected };
/// input: as it came (f32 stays f32 where P is f32). c3: int8 with channel weights and a scale per tile or token.
enum class VFormat : std::uint8_t { input, f16, bf16, e4m3_channel, s8_tensor, s8_channel, s8_channel_tile, s8_c3 };
/// f32: one f32 sum. tile_f32: fresh f32 accumulator per tile, added in f32. tile_f16: fresh f16 accumulator per tile, then f32. f16: f16 for the whole row.
/// tile_s32: exact integers per tile, then f32. fp8_direct / fp8_tile: Hopper's 13-fraction-bit accumulator (docs/methods.md 4), whole row / per tile.
enum class Accumulate : std::uint8_t { f32, tile_f32, tile_f16, f16, tile_s32, fp8_direct, fp8_tile };
/// f32: 2^x in f32. lut16: the CPU's 16-bit table (core/lut_exp.h). log_code: e4m3 bits straight from x for the words that log_code_mask selects.
enum class Exponential : std::uint8_t { f32, lut16, log_code };

struct Scheme {
  Method method = Method::exact;
  bool rotate = false;
  Center k_center = Center::none;
  bool k_weights = false;  ///< powers of two per channel move size from K to Q before the rotation (core/key_weights.h)
  bool smooth_q = false, smooth_v = false;
  Grain q_grain, k_grain;
  PFormat p = PFormat::f32;
  float p_range = 1.0f;  ///< P is scaled so that 1 becomes p_range before rounding
  PReference p_ref = PReference::running;
  PSum p_sum = PSum::raw;
  float lazy_octaves = 0.0f;
  VFormat v = VFormat::input;
  float v_range = 0.0f;     ///< largest code of e4m3 V: 448 or 2.25
  float flag_ratio = 4.0f;  ///< s8_c3: a tile is flagged when its largest token scale exceeds flag_ratio times its smallest
  Accumulate accumulate = Accumulate::f32;
  Exponential exponential = Exponential::f32;
  std::uint32_t log_code_mask = 0;  ///< bit w set: word w (4 keys, in a thread's order) of a tile takes its exponentials as log-code
  std::int64_t tile_n = 128;        ///< keys per tile
  bool reverse = false;             ///< tiles are visited last to first
  friend bool operator==(const Scheme&, const Scheme&) = default;
};

/// The default scheme of a method for inputs of this dtype (16-bit P follows the inputs in chitu).
Scheme default_scheme(Method method, DType input);
/// The default scheme with a user's departures; throws InvalidArgument for one the method does not take.
Scheme resolve_scheme(Method method, DType input, const SchemeOptions& options);
/// Empty when equal, else the name of the first field in which a differs from b ("q_grain", "p_ref", ..).
std::string first_difference(const Scheme& a, const Scheme& b);

}  // namespace chitu::core
