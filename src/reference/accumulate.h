#pragma once

// The PV product of one row and one tile, with the accumulators that tensor cores have.

#include <cstdint>

#include "core/scheme.h"

namespace chitu::ref {

/// Visible keys of a tile: weight code[i] belongs to the key at position index[i], whose values are v + index[i] * dim.
struct ProductTerms {
  const float* code;
  const std::int32_t* index;
  std::int64_t count;
  const float* v;
  std::int64_t dim;
};

/// acc[d] += sum of code * v in f32. With integer codes it is exact: 255 * 127 * 256 keys < 2^24.
void accumulate_f32(const ProductTerms& t, float* acc);
/// An f16 accumulator: the products of each `step` consecutive keys are summed, added, and the result is rounded to f16.
void accumulate_f16(const ProductTerms& t, std::int64_t step, float* acc);
/// Hopper's FP8 accumulator as published (numerics of wgmma e4m3): per 32 keys, all products and the accumulator are aligned to the largest exponent and cut to
/// 13 fraction bits, toward zero.
void accumulate_fp8(const ProductTerms& t, float* acc);

}  // namespace chitu::ref
