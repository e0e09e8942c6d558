#pragma once

// The 8-bit dot product alone, in the shape of the main loops: what "percent of peak" refers to. Included after an ops header.

#include <cstdint>

#include "cpu/device/common.h"

namespace chitu::cpu {
namespace {

/// Runs `rounds` rounds of independent dot products on registers; returns the operations (multiplications and additions) done.
inline std::int64_t dot_peak(std::int64_t rounds) {
  constexpr int kAcc = 2 * Simd::kTileRows;
  alignas(64) std::int32_t words[Simd::kLanes] = {1, 2, 3};
  const Simd::U8 u = Simd::load_u8(words);
  const Simd::S8 s = Simd::load_s8(words);
  Simd::I acc[kAcc];
  CHITU_UNROLL
  for (int r = 0; r < kAcc; ++r) acc[r] = Simd::zero_i();
  for (std::int64_t i = 0; i < rounds; ++i) {
    CHITU_UNROLL
    for (int r = 0; r < kAcc; ++r) Simd::dot(acc[r], u, s);
  }
  std::int32_t sink[Simd::kLanes];
  CHITU_UNROLL
  for (int r = 1; r < kAcc; ++r) acc[0] = Simd::add_i(acc[0], acc[r]);
  Simd::store_i(sink, acc[0]);
  return rounds * kAcc * Simd::kLanes * 8 + (sink[0] == 1 ? 1 : 0);  // the result must be used, or the loop is removed
}

}  // namespace
}  // namespace chitu::cpu
