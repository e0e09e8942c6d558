// Rounding of one value, exhaustively where the type is small: against definitions in fp64 that share no code with the codec.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/codec.h"
#include "core/rotation.h"

namespace chitu::test {
namespace {

using namespace core;

/// Value of the bits of a small float: sign, exponent bits, mantissa bits, without specials.
double decode(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, e = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const std::uint32_t m = bits & ((1u << mantissa_bits) - 1);
  const double sign = (bits >> (exponent_bits + mantissa_bits)) & 1 ? -1.0 : 1.0;
  return sign * (e == 0 ? std::ldexp(m, 1 - bias - mantissa_bits) : std::ldexp((1u << mantissa_bits) + m, e - bias - mantissa_bits));
}

TEST(Codec, F16DecodesExactly) {
  for (std::uint32_t h = 0; h < 65536; ++h) {
    const float x = f16_to_f32(static_cast<std::uint16_t>(h));
    if ((h & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(x));
    } else if ((h & 0x7fff) == 0x7c00) {
      EXPECT_EQ(x, h & 0x8000 ? -INFINITY : INFINITY);
    } else {
      ASSERT_EQ(static_cast<double>(x), decode(h, 5, 10)) << h;
      ASSERT_EQ(std::signbit(x), (h & 0x8000) != 0);
      ASSERT_EQ(f32_to_f16(x), h);
    }
  }
}

/// Between neighbours a < b of a format: below, at and above the middle, ties go to the even code.
template <class Encode>
void check_rounding(const std::vector<double>& values, const std::vector<std::uint32_t>& codes, const Encode& encode) {
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    const double middle = (values[i] + values[i + 1]) / 2;
    const auto tie = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(tie), middle);
    ASSERT_EQ(encode(tie), codes[i] % 2 == 0 ? codes[i] : codes[i + 1]) << middle;
    ASSERT_EQ(encode(std::nextafterf(tie, -INFINITY)), codes[i]) << middle;
    ASSERT_EQ(encode(std::nextafterf(tie, INFINITY)), codes[i + 1]) << middle;
  }
}

TEST(Codec, F16RoundsToNearestEven) {
  std::vector<double> values;
  std::vector<std::uint32_t> codes;
  for (std::uint32_t h = 0; h < 0x7c00; ++h) values.push_back(decode(h, 5, 10)), codes.push_back(h);
  check_rounding(values, codes, [](float x) { return static_cast<std::uint32_t>(f32_to_f16(x)); });
  check_rounding(values, codes, [](float x) { return static_cast<std::uint32_t>(f32_to_f16(-x)) & 0x7fff; });
  EXPECT_EQ(f32_to_f16(65519.99f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(1e30f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-INFINITY), 0xfc00);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(NAN))));
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
  EXPECT_EQ(f32_to_f16(1e-40f), 0);
}

TEST(Codec, Bf16RoundsToNearestEven) {
  for (std::uint32_t h = 0; h < 0x7f80; ++h) {
    const float a = bits_f32(h << 16), tie = bits_f32((h << 16) + 0x8000);
    ASSERT_EQ(bf16_to_f32(static_cast<std::uint16_t>(h)), a);
    ASSERT_EQ(f32_to_bf16(a), h);
    ASSERT_EQ(f32_to_bf16(tie), h % 2 == 0 ? h : h + 1);
    ASSERT_EQ(f32_to_bf16(bits_f32(f32_bits(tie) - 1)), h);
    ASSERT_EQ(f32_to_bf16(bits_f32(f32_bits(tie) + 1)), h + 1);
    ASSERT_EQ(f32_to_bf16(-tie), 0x8000u + (h % 2 == 0 ? h : h + 1));
  }
  EXPECT_EQ(f32_to_bf16(INFINITY), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(NAN))));
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(bits_f32(0x7f800001u))))) << "a NaN whose payload is in the low half must stay one";
}

TEST(Codec, E4m3) {
  std::vector<double> values;
  std::vector<std::uint32_t> codes;
  for (std::uint32_t c = 0; c < 0x7f; ++c) {
    values.push_back(decode(c, 4, 3));
    codes.push_back(c);
    ASSERT_EQ(static_cast<double>(e4m3_to_f32(static_cast<std::uint8_t>(c))), values.back());
    ASSERT_EQ(static_cast<double>(e4m3_to_f32(static_cast<std::uint8_t>(c | 0x80))), -values.back());
    ASSERT_EQ(f32_to_e4m3(static_cast<float>(values.back())), c);
    ASSERT_EQ(f32_to_e4m3(static_cast<float>(-values.back())), c | 0x80);
  }
  EXPECT_EQ(values.back(), 448.0);
  check_rounding(values, codes, [](float x) { return static_cast<std::uint32_t>(f32_to_e4m3(x)); });
  for (float big : {448.0f, 449.0f, 463.9f, 464.0f, 480.0f, 1e9f, INFINITY}) {
    EXPECT_EQ(f32_to_e4m3(big), 0x7e) << big;
    EXPECT_EQ(f32_to_e4m3(-big), 0xfe) << big;
  }
  EXPECT_EQ(f32_to_e4m3(NAN) & 0x7f, 0x7f);
  EXPECT_TRUE(std::isnan(e4m3_to_f32(0x7f)) && std::isnan(e4m3_to_f32(0xff)));
}

TEST(Codec, RneSmall) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> any(-300.0f, 300.0f);
  for (int i = 0; i < 100000; ++i) {
    const float x = any(random);
    ASSERT_EQ(rne_small(x), std::nearbyintf(x));
  }
  for (float x : {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f}) EXPECT_EQ(rne_small(x), std::nearbyintf(x));
}

TEST(Codec, GroupsOfInt8) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 500; ++round) {
    std::vector<float> x(33);
    float a = 0;
    const float size = std::ldexp(1.0f, static_cast<int>(random() % 60) - 30);
    for (float& y : x) y = normal(random) * size, a = absmax_nan(a, y);
    const GroupScale g = group_scale(a, 127.0f);
    int largest = 0;
    for (float y : x) {
      const int code = int8_code(y, g.inv);
      largest = std::max(largest, std::abs(code));
      ASSERT_EQ(int8_code(-y, g.inv), -code);
      ASSERT_LE(std::fabs(static_cast<double>(y) - static_cast<double>(code) * g.scale), 0.5000002 * g.scale);
      ASSERT_EQ(int8_code(static_cast<float>(code) * g.scale, g.inv), code) << "a dequantized value keeps its code";
    }
    ASSERT_EQ(largest, 127) << "the absmax itself gets the largest code";
  }
}

TEST(Codec, GroupsWithoutANumber) {
  EXPECT_EQ(group_scale(0.0f, 127.0f).scale, 0.0f);
  EXPECT_EQ(group_scale(0.0f, 127.0f).inv, 0.0f);
  EXPECT_EQ(group_scale(kZeroGroup / 2, 127.0f).scale, 0.0f);
  EXPECT_GT(group_scale(kZeroGroup, 127.0f).scale, 0.0f);
  EXPECT_TRUE(std::isfinite(group_scale(kZeroGroup, 448.0f).inv));
  EXPECT_TRUE(std::isfinite(group_scale(std::numeric_limits<float>::max(), 127.0f).scale));
  for (float bad : {NAN, INFINITY}) {
    EXPECT_TRUE(std::isnan(group_scale(bad, 127.0f).scale));
    EXPECT_EQ(group_scale(bad, 127.0f).inv, 0.0f);
  }
  for (float x : {1.0f, INFINITY, NAN}) EXPECT_EQ(int8_code(x, 0.0f), 0);
  for (float x : {1.0f, INFINITY, NAN}) EXPECT_EQ(e4m3_code(x, 0.0f), 0);
}

TEST(Codec, AbsmaxKeepsNan) {
  EXPECT_TRUE(std::isnan(absmax_nan(NAN, 1.0f)));
  EXPECT_TRUE(std::isnan(absmax_nan(1.0f, -NAN)));
  EXPECT_TRUE(std::isnan(absmax_nan(INFINITY, NAN)));
  EXPECT_EQ(absmax_nan(-3.0f, 2.0f), 3.0f);
  EXPECT_EQ(absmax_nan(0.0f, -0.0f), 0.0f);
}

TEST(Rotation, IsOrthonormalForEveryHeadDim) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int d = 1; d <= 256; ++d) {
    std::vector<float> x(static_cast<std::size_t>(d)), y(x.size());
    for (float& v : x) v = normal(random);
    for (float& v : y) v = normal(random);
    double before = 0, after = 0, xx = 0, yy = 0;
    for (int i = 0; i < d; ++i) before += double(x[i]) * y[i], xx += double(x[i]) * x[i], yy += double(y[i]) * y[i];
    rotate_row(x.data(), d);
    rotate_row(y.data(), d);
    for (int i = 0; i < d; ++i) after += double(x[i]) * y[i];
    // 8 butterfly stages and a scaling of f32, each relative 2^-24 of the norm
    ASSERT_NEAR(before, after, 20 * std::ldexp(1.0, -24) * std::sqrt(xx * yy)) << d;
  }
}

TEST(Rotation, IsTheSignedHadamardMatrix) {
  for (int d : {1, 2, 4, 8, 64, 128, 256})
    for (int column : {0, d / 3, d - 1}) {
      std::vector<float> x(static_cast<std::size_t>(d), 0.0f);
      x[static_cast<std::size_t>(column)] = 1.0f;
      rotate_row(x.data(), d);
      for (int row = 0; row < d; ++row) {
        const int parity = __builtin_popcount(static_cast<unsigned>(row & column)) & 1;
        const double sign = (parity != 0) != rotation_sign(column) ? -1.0 : 1.0;
        ASSERT_NEAR(x[static_cast<std::size_t>(row)], sign / std::sqrt(static_cast<double>(d)), 1e-7) << d << " " << row << " " << column;
      }
    }
}

}  // namespace
}  // namespace chitu::test
