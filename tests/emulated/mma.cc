#include "emulated/mma.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "core/codec.h"
#include "emulated/block.h"
#include "emulated/multiply.h"

namespace chitu::emulated {
namespace {

struct Matrices {
  std::uint32_t* r;
  int count;
  bool transposed;
  std::uint32_t address;
};

void load_matrices(void* const* operands) {
  const auto of = [&](int l) -> Matrices& { return *static_cast<Matrices*>(operands[l]); };
  const Matrices& any = of(0);
  for (int m = 0; m < any.count; ++m) {
    std::uint16_t rows[8][8];
    for (int r = 0; r < 8; ++r) std::memcpy(rows[r], shared_memory(of(m * 8 + r).address, 16, 16, "ldmatrix"), 16);
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = l % 4 * 2;
      const std::uint32_t low = any.transposed ? rows[t][g] : rows[g][t], high = any.transposed ? rows[t + 1][g] : rows[g][t + 1];
      of(l).r[m] = low | high << 16;
    }
  }
}

struct Product {
  void* d;
  const std::uint32_t* a;
  std::uint32_t b[2];
};

// Matrices of a fragment: a[i] of lane (g, t) is row g + 8 (i % 2), 32-bit word t + 4 (i / 2); b[i] is column g, word t + 4 i.
template <int kDepth, class Decode>
void gather(void* const* operands, float (&a)[16][kDepth], float (&b)[kDepth][8], const Decode& decode_a, const Decode& decode_b) {
  constexpr int kPerWord = kDepth / 8;
  for (int l = 0; l < 32; ++l) {
    const Product& p = *static_cast<Product*>(operands[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; ++i)
      for (int e = 0; e < kPerWord; ++e) a[g + 8 * (i % 2)][(t + 4 * (i / 2)) * kPerWord + e] = decode_a(p.a[i], e);
    for (int i = 0; i < 2; ++i)
      for (int e = 0; e < kPerWord; ++e) b[(t + 4 * i) * kPerWord + e][g] = decode_b(p.b[i], e);
  }
}

template <bool kBf16, bool kHalfSum>
void multiply_float(void* const* operands) {
  constexpr int kDepth = 16;
  alignas(64) float a[16][kDepth], b[kDepth][8], d[16][8];
  const float* values = f16_values();
  const auto decode = [values](std::uint32_t word, int e) {
    const auto bits = static_cast<std::uint16_t>(word >> 16 * e);
    return kBf16 ? core::bf16_to_f32(bits) : values[bits];
  };
  gather(operands, a, b, decode, decode);
  multiply(&a[0][0], kDepth, &b[0][0], 8, &d[0][0], 8, kDepth, 8);
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = l % 4 * 2;
    for (int h = 0; h < 2; ++h) {
      if constexpr (kHalfSum) {
        std::uint32_t& word = static_cast<std::uint32_t*>(static_cast<Product*>(operands[l])->d)[h];
        word = pack_f16(values[word & 0xffff] + d[g + 8 * h][t], values[word >> 16] + d[g + 8 * h][t + 1]);
      } else {
        float* to = static_cast<float*>(static_cast<Product*>(operands[l])->d) + 2 * h;
        to[0] += d[g + 8 * h][t];
        to[1] += d[g + 8 * h][t + 1];
      }
    }
  }
}

template <bool kUnsigned>
void multiply_int8(void* const* operands) {
  constexpr int kDepth = 32;
  alignas(64) float a[16][kDepth], b[kDepth][8], d[16][8];
  const auto decode = [](bool is_unsigned) {
    return [is_unsigned](std::uint32_t word, int e) {
      const auto byte = static_cast<std::uint8_t>(word >> 8 * e);
      return static_cast<float>(is_unsigned ? byte : static_cast<std::int8_t>(byte));
    };
  };
  gather(operands, a, b, decode(kUnsigned), decode(false));
  multiply(&a[0][0], kDepth, &b[0][0], 8, &d[0][0], 8, kDepth, 8);
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = l % 4 * 2;
    auto* to = static_cast<std::int32_t*>(static_cast<Product*>(operands[l])->d);
    for (int e = 0; e < 4; ++e) to[e] += static_cast<std::int32_t>(d[g + 8 * (e / 2)][t + e % 2]);
  }
}

}  // namespace

const float* f16_values() {
  static const std::vector<float> table = [] {
    std::vector<float> v(65536);
    for (std::uint32_t i = 0; i < 65536; ++i) v[i] = core::f16_to_f32(static_cast<std::uint16_t>(i));
    return v;
  }();
  return table.data();
}

const float* e4m3_values() {
  static const std::vector<float> table = [] {
    std::vector<float> v(256);
    for (std::uint32_t i = 0; i < 256; ++i) v[i] = core::e4m3_to_f32(static_cast<std::uint8_t>(i));
    return v;
  }();
  return table.data();
}

void ldmatrix(std::uint32_t* r, int matrices, bool transposed, std::uint32_t address) {
  Matrices mine{r, matrices, transposed, address};
  collective(transposed ? "ldmatrix.trans" : matrices == 4 ? "ldmatrix.x4" : "ldmatrix.x2", load_matrices, &mine);
}

void mma_float(Type type, float* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1) {
  Product mine{d, a, {b0, b1}};
  if (type == Type::bf16) {
    collective("mma.sync bf16", multiply_float<true, false>, &mine);
  } else {
    collective("mma.sync f16", multiply_float<false, false>, &mine);
  }
}

void mma_half(std::uint32_t* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1) {
  Product mine{d, a, {b0, b1}};
  collective("mma.sync f16, f16 sums", multiply_float<false, true>, &mine);
}

void mma_int8(Type a_type, std::int32_t* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1) {
  Product mine{d, a, {b0, b1}};
  if (a_type == Type::u8) {
    collective("mma.sync u8 s8", multiply_int8<true>, &mine);
  } else {
    collective("mma.sync s8 s8", multiply_int8<false>, &mine);
  }
}

float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;  // NaN stays
}

std::uint32_t pack_f16(float low, float high) { return core::f32_to_f16(low) | static_cast<std::uint32_t>(core::f32_to_f16(high)) << 16; }
std::uint32_t pack_bf16(float low, float high) { return core::f32_to_bf16(low) | static_cast<std::uint32_t>(core::f32_to_bf16(high)) << 16; }
std::uint32_t pack_e4m3(float low, float high) { return core::f32_to_e4m3(low) | static_cast<std::uint32_t>(core::f32_to_e4m3(high)) << 8; }
std::uint32_t unpack_e4m3(std::uint32_t pair) {
  const float* values = e4m3_values();
  return pack_f16(values[pair & 0xff], values[pair >> 8 & 0xff]);
}

}  // namespace chitu::emulated
