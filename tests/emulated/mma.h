#pragma once

// mma.sync and ldmatrix: the fragments of PTX, multiplied for a whole warp at once.

#include <cstdint>

namespace chitu::emulated {

enum class Type { f16, bf16, s8, u8, e4m3 };

void ldmatrix(std::uint32_t* r, int matrices, bool transposed, std::uint32_t address);

/// d += a b of m16n8k16 with f32 sums.
void mma_float(Type type, float* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1);
/// The same, everything f16: the 16 products in f32, then one rounding of the sum.
void mma_half(std::uint32_t* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1);
/// d += a b of m16n8k32; b is s8.
void mma_int8(Type a_type, std::int32_t* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1);

float exp2_approx(float x);
std::uint32_t pack_f16(float low, float high);
std::uint32_t pack_bf16(float low, float high);
std::uint32_t pack_e4m3(float low, float high);
/// Two e4m3 bytes to two f16.
std::uint32_t unpack_e4m3(std::uint32_t pair);

/// Values of all 16-bit codes.
const float* f16_values();
const float* e4m3_values();

}  // namespace chitu::emulated
