#include "eval/random.h"

#include <bit>
#include <cmath>

#include "eval/threads.h"

namespace chitu::eval {
namespace {

constexpr double kTwoPow32 = 4294967296.0;
constexpr double kPi = 3.14159265358979323846;

double to_unit(std::uint32_t bits) { return (bits + 0.5) * (1.0 / kTwoPow32); }

/// ln u for u in (0, 1): u = m * 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)) by its series (next term below 1e-14).
double log_unit(double u) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(u);
  int e = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    e += 1;
  }
  const double s = (m - 1) / (m + 1), s2 = s * s;
  double sum = 0;
  for (int n = 17; n >= 1; n -= 2) sum = sum * s2 + 1.0 / n;
  return e * 0.69314718055994530942 + 2 * s * sum;
}

/// cos and sin of pi/2 * f for |f| <= 1/2, by Taylor's series.
std::array<double, 2> cos_sin_octant(double f) {
  const double x = f * (kPi / 2), x2 = x * x;
  const double c = 1 + x2 * (-1.0 / 2 + x2 * (1.0 / 24 + x2 * (-1.0 / 720 + x2 * (1.0 / 40320 + x2 * (-1.0 / 3628800 + x2 * (1.0 / 479001600))))));
  const double s = x * (1 + x2 * (-1.0 / 6 + x2 * (1.0 / 120 + x2 * (-1.0 / 5040 + x2 * (1.0 / 362880 + x2 * (-1.0 / 39916800))))));
  return {c, s};
}

std::array<double, 2> turn_by_quarters(std::array<double, 2> cs, unsigned quarters) {
  switch (quarters & 3) {
    case 0:
      return cs;
    case 1:
      return {-cs[1], cs[0]};
    case 2:
      return {-cs[0], -cs[1]};
    default:
      return {cs[1], -cs[0]};
  }
}

/// Box-Muller: two words give two normals. The angle's top two bits pick the quarter, the rest the position in it.
std::array<double, 2> box_muller(std::uint32_t radius_bits, std::uint32_t angle_bits) {
  const double r = std::sqrt(-2 * log_unit(to_unit(radius_bits)));
  const double f = ((angle_bits & 0x3fffffffu) + 0.5) * (1.0 / 1073741824.0) - 0.5;
  const auto cs = turn_by_quarters(cos_sin_octant(f), angle_bits >> 30);
  return {r * cs[0], r * cs[1]};
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c[0], b = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key[1],
         static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return c;
}

namespace {
std::array<std::uint32_t, 4> block(std::uint64_t seed, std::uint32_t stream, std::uint64_t i) {
  return philox({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), stream, 0},
                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}
}  // namespace

std::uint32_t Random::bits(std::uint64_t i) const { return block(seed_, stream_, i / 4)[i % 4]; }
double Random::uniform(std::uint64_t i) const { return to_unit(bits(i)); }
double Random::normal(std::uint64_t i) const { return normals4(i / 4)[i % 4]; }
std::array<double, 4> Random::normals4(std::uint64_t i) const {
  const auto w = block(seed_, stream_, i);
  const auto a = box_muller(w[0], w[1]), b = box_muller(w[2], w[3]);
  return {a[0], a[1], b[0], b[1]};
}
double Random::student_t3(std::uint64_t i) const {
  const auto z = normals4(i);
  return z[0] / std::sqrt(z[1] * z[1] + z[2] * z[2] + z[3] * z[3]);
}

void fill_normal(float* out, std::int64_t n, std::uint64_t seed, std::uint32_t stream, int threads) {
  const Random random(seed, stream);
  constexpr std::int64_t chunk = 1 << 16;
  parallel_for((n + chunk - 1) / chunk, threads, [&](std::int64_t c) {
    const std::int64_t end = std::min(n, (c + 1) * chunk);
    for (std::int64_t i = c * chunk; i < end; i += 4) {
      const auto z = random.normals4(static_cast<std::uint64_t>(i / 4));
      for (std::int64_t j = i; j < end && j < i + 4; ++j) out[j] = static_cast<float>(z[j - i]);
    }
  });
}

std::array<double, 2> cos_sin_turns(double turns) {
  const double quarters = (turns - std::floor(turns)) * 4;  // in [0, 4)
  const double nearest = std::floor(quarters + 0.5);
  return turn_by_quarters(cos_sin_octant(quarters - nearest), static_cast<unsigned>(nearest));
}

double exp2_exact_ops(double x) {
  const double n = std::floor(x + 0.5), f = (x - n) * 0.69314718055994530942;
  double sum = 1;
  for (int i = 16; i >= 1; --i) sum = 1 + sum * f / i;
  return std::ldexp(sum, static_cast<int>(n));
}

}  // namespace chitu::eval
