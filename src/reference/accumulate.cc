#include "reference/accumulate.h"

#include <algorithm>
#include <vector>

#include "core/codec.h"

namespace chitu::ref {
namespace {

/// First term whose key lies in a later step than the term `i`.
std::int64_t step_end(const ProductTerms& t, std::int64_t i, std::int64_t step) {
  std::int64_t n = i + 1;
  while (n < t.count && t.index[n] / step == t.index[i] / step) ++n;
  return n;
}

}  // namespace

void accumulate_f32(const ProductTerms& t, float* acc) {
  std::int64_t i = 0;
  for (; i + 4 <= t.count; i += 4) {  // four keys at a time only to load and store acc less often; the order of additions is that of one
    const float *v0 = t.v + t.index[i] * t.dim, *v1 = t.v + t.index[i + 1] * t.dim, *v2 = t.v + t.index[i + 2] * t.dim, *v3 = t.v + t.index[i + 3] * t.dim;
    const float p0 = t.code[i], p1 = t.code[i + 1], p2 = t.code[i + 2], p3 = t.code[i + 3];
    for (std::int64_t d = 0; d < t.dim; ++d) acc[d] = (((acc[d] + p0 * v0[d]) + p1 * v1[d]) + p2 * v2[d]) + p3 * v3[d];
  }
  for (; i < t.count; ++i) {
    const float *v = t.v + t.index[i] * t.dim, p = t.code[i];
    for (std::int64_t d = 0; d < t.dim; ++d) acc[d] += p * v[d];
  }
}

void accumulate_f16(const ProductTerms& t, std::int64_t step, float* acc) {
  std::vector<float> sum(static_cast<std::size_t>(t.dim));
  for (std::int64_t i = 0; i < t.count;) {
    const std::int64_t end = step_end(t, i, step);
    std::fill(sum.begin(), sum.end(), 0.0f);
    accumulate_f32({t.code + i, t.index + i, end - i, t.v, t.dim}, sum.data());
    for (std::int64_t d = 0; d < t.dim; ++d) acc[d] = core::round_f16(acc[d] + sum[static_cast<std::size_t>(d)]);
    i = end;
  }
}

void accumulate_fp8(const ProductTerms& t, float* acc) {
  constexpr std::uint32_t kExponent = 0x7f800000u;
  std::vector<std::uint32_t> top(static_cast<std::size_t>(t.dim));
  // 0 where NaN or Inf, which are no int, is among the products: it is handed on. A mask and no branch: the loops are to be vector code.
  std::vector<std::uint32_t> keep(top.size());
  std::vector<float> grid(top.size()), sum(top.size());
  auto cut = [&](float x, std::size_t d) { return static_cast<float>(static_cast<std::int32_t>(core::bits_f32(core::f32_bits(x * grid[d]) & keep[d]))); };
  for (std::int64_t i = 0; i < t.count;) {
    const std::int64_t end = step_end(t, i, 32);
    for (std::size_t d = 0; d < top.size(); ++d) top[d] = core::f32_bits(acc[d]) & 0x7fffffffu;
    for (std::int64_t n = i; n < end; ++n) {
      const float *v = t.v + t.index[n] * t.dim, p = t.code[n];
      for (std::size_t d = 0; d < top.size(); ++d) top[d] = std::max(top[d], core::f32_bits(p * v[d]) & 0x7fffffffu);
    }
    // grid = 2^(largest exponent - 13); adding and subtracting 1.5 * 2^23 * grid would round, so cut by an integer conversion instead.
    for (std::size_t d = 0; d < top.size(); ++d) {
      const std::uint32_t e = std::min(std::max(top[d] & kExponent, 14u << 23), 240u << 23);
      grid[d] = core::bits_f32((254u << 23) - e + (13u << 23));  // 1 / grid
      keep[d] = top[d] < kExponent ? ~0u : 0u;
      sum[d] = cut(acc[d], d);
    }
    for (std::int64_t n = i; n < end; ++n) {
      const float *v = t.v + t.index[n] * t.dim, p = t.code[n];
      for (std::size_t d = 0; d < top.size(); ++d) sum[d] += cut(p * v[d], d);
    }
    for (std::size_t d = 0; d < top.size(); ++d) acc[d] = keep[d] != 0 ? sum[d] / grid[d] : core::bits_f32(0x7fc00000u);
    i = end;
  }
}

}  // namespace chitu::ref
