#pragma once

// The 16-bit table exponential of the CPU's `chitu_int8` (Exponential::lut16), bit for bit. Normative: the reference backend and every ISA tier
// execute exactly this.
//
//   kLut[i] = rne(255 * 128 * 2^(-i/64)), i = 0..63               32640 = 2^0; the tie is never reached
//   index   = t >= 960 or t NaN ? 960 : rne(t)                    t >= 0: how far a key lies below its tile's level, in 1/64 octave
//   raw     = kLut[index & 63] >> (index >> 6)                    16 bits, truncated; index 960 gives 0
//   code    = (raw + 64) >> 7                                     the u8 P, 0..255
//
// Where t comes from, for row i and the keys of one tile (S: integer scores, c[g] = f32(f32(f32(|s|*L2E) * q_scale) * k_scale[g]), docs/methods.md 2):
//
//   plain tile without an additive mask
//     mx[g]    = largest S of group g over the keys that row i sees; a group without one has level -inf and takes no part
//     level[g] = f32(f32(mx[g]) * c[g]);  b = max_g level[g]      NaN wins
//     t[j]     = fma(f32(mx[g] - S[j]), f32(64*c[g]), f32(64*f32(b - level[g])))
//     The integer difference is taken first: it is exact and never negative, so nothing depends on the size of the scores.
//   flagged tile, or additive mask M (natural-log units)
//     x[j] = f32(f32(S[j]) * c[g]);  with a mask x[j] = f32(x[j] + f32(M[i,j]*L2E))
//     b = max x;  t[j] = f32(64*f32(b - x[j]))
//     flagged: y[j] = f32(f32(x[j] - b) + log2_f32(t_scale[j])), by = max y, and the codes' t[j] = f32(64*f32(by - y[j])); the codes' level is b + by.
//     The difference comes first here, too: at |x| of 2^20 the sum x + log2 t would lose the t.
//
// Sums of a row and tile:  R = sum of raw over the codes' indices, Q = sum of code, flagged also Rx = sum of raw over the indices of x. All exact
// integers, so r = R/32640 in docs/methods.md, and the correction's condition |r - Q/255| > r/64 is the integer test 64*|R - 128*Q| > R.
//
// The lse sum takes R/32640 (flagged: Rx/32640), except in *flat* rows: 2*R > 32640*n, n = keys of the tile that the row sees. There it takes
// the f32 sum of 2^(-t/64) with unrounded t.  Error of the lse that the table alone would cause:
//   - rounding of the index: at most ln2/128 = 5.4e-3 nat per key, uniform, so rms 3.1e-3 * sqrt(sum p^2). The rounding of 8-bit Q and K makes about
//     9e-3 * sigma * sqrt(sum p^2) (sigma: spread of the logits in nats); the table's error is below a third of six of those from sigma = 0.2 on,
//     and rows of smaller spread have a mean P above 1/2, which is what the flat rule catches. The limit of no spread at all is exact.
//   - truncation of raw: less than n/32640 <= 3.9e-3 of the tile's largest term, in the mean half of it; 1e-4 nat on N(0,1) tiles (R/32640 = 17),
//     2e-3 where one key dominates the tile, which takes a spread whose QK rounding is ten times that.
// A bar for |lse - lse of exact codes|: 6 * 3.1e-3 * sqrt(sum p^2) + n/32640 * (share of the tiles that are not flat) + 1e-6.

#include <cstdint>

namespace chitu::core {

constexpr std::uint32_t kLutOne = 32640;      // 255 * 128
constexpr std::uint32_t kLutLastIndex = 960;  // 15 octaves: raw is 0. Anything nearer would leave far keys a raw weight (768: 7/32640 each)
// a quarter octave per line
// clang-format off
constexpr std::uint16_t kLut[64] = {
    32640, 32288, 31941, 31597, 31256, 30919, 30586, 30257, 29931, 29609, 29290, 28974, 28662, 28353, 28048, 27746,
    27447, 27151, 26859, 26569, 26283, 26000, 25720, 25443, 25169, 24898, 24630, 24364, 24102, 23842, 23585, 23331,
    23080, 22831, 22585, 22342, 22101, 21863, 21628, 21395, 21164, 20936, 20711, 20488, 20267, 20049, 19833, 19619,
    19408, 19199, 18992, 18787, 18585, 18385, 18187, 17991, 17797, 17605, 17416, 17228, 17043, 16859, 16677, 16498,
};
// clang-format on

// Internal linkage on purpose: these are compiled in units with different instruction sets, and the linker must not merge the copies.
static inline std::uint32_t lut_raw(std::uint32_t index) { return static_cast<std::uint32_t>(kLut[index & 63]) >> (index >> 6); }
static inline std::uint32_t lut_code(std::uint32_t raw) { return (raw + 64) >> 7; }
static inline std::uint32_t lut_index(float t) {
  return t < 960.0f ? static_cast<std::uint32_t>(__builtin_lrintf(t)) : kLutLastIndex;  // NaN fails the comparison
}
/// The plain tile's index of a key: mx, level of its group; b of the row and tile; c = the group's factor.
static inline std::uint32_t lut_index_plain(std::int32_t mx, std::int32_t s, float c, float level, float b) {
  return lut_index(__builtin_fmaf(static_cast<float>(mx - s), 64.0f * c, 64.0f * (b - level)));
}
static inline bool lut_corrected(std::int64_t raw_sum, std::int64_t code_sum) {
  const std::int64_t d = raw_sum - 128 * code_sum;
  return 64 * (d < 0 ? -d : d) > raw_sum;
}
static inline bool lut_flat(std::int64_t raw_sum, std::int64_t keys) { return 2 * raw_sum > static_cast<std::int64_t>(kLutOne) * keys; }

/// log2 of a finite positive x, rounded to f32: the same bits everywhere, unlike a C library's log2f. Series of atanh around sqrt(1/2)..sqrt(2).
static inline float log2_f32(float x) {
  double d = x;  // a double holds f32's subnormals as normal numbers
  std::uint64_t u;
  __builtin_memcpy(&u, &d, 8);
  int e = static_cast<int>(u >> 52) - 1023;
  u = (u & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  __builtin_memcpy(&d, &u, 8);
  if (d > 1.4142135623730951) {
    d *= 0.5;
    ++e;
  }
  const double z = (d - 1.0) / (d + 1.0), z2 = z * z;
  double p = 1.0 / 13;
  p = __builtin_fma(p, z2, 1.0 / 11);
  p = __builtin_fma(p, z2, 1.0 / 9);
  p = __builtin_fma(p, z2, 1.0 / 7);
  p = __builtin_fma(p, z2, 1.0 / 5);
  p = __builtin_fma(p, z2, 1.0 / 3);
  p = __builtin_fma(p, z2, 1.0);
  return static_cast<float>(__builtin_fma(z * 2.8853900817779268, p, static_cast<double>(e)));
}

}  // namespace chitu::core
