#pragma once

#include <bit>
#include <cstdint>

namespace chitu::ref {

/// 2^x rounded to f32 (all but correctly: the polynomial is 1e-9 off before rounding). Branch-free, so that loops over it vectorise.
inline float exp2_f32(float x) {
  constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
  const double d = x < -200.0f ? -200.0 : (x > 200.0f ? 200.0 : x);
  const double t = d + magic, f = (d - (t - magic)) * 0.69314718055994530942;
  const double p = 1 + f * (1 + f * (1.0 / 2 + f * (1.0 / 6 + f * (1.0 / 24 + f * (1.0 / 120 + f * (1.0 / 720 + f * (1.0 / 5040 + f * (1.0 / 40320))))))));
  const double power = std::bit_cast<double>((std::bit_cast<std::uint64_t>(t) + 1023) << 52);
  return static_cast<float>(p * power);  // NaN stays NaN through p
}

}  // namespace chitu::ref
