#pragma once

// Seeded random calls: everything the interface offers, in small sizes, mixed.

#include <algorithm>
#include <cstdint>
#include <random>

#include "common/call.h"

namespace chitu::test {

/// Case number n of a seed: the same on every machine (only integer draws of a standard generator).
inline CallSpec random_spec(std::uint64_t seed, std::uint64_t n) {
  std::mt19937_64 random(seed * 1000003 + n);
  auto below = [&random](std::int64_t k) { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(k)); };
  auto chance = [&below](int percent) { return below(100) < percent; };
  auto pick = [&below](auto list) { return *(list.begin() + below(static_cast<std::int64_t>(list.size()))); };
  CallSpec s;
  s.seed = random() % 100000 + 1;
  s.batch = 1 + below(2);
  s.heads_kv = 1 + below(2);
  s.heads_q = s.heads_kv * pick(std::initializer_list<std::int64_t>{1, 1, 1, 2, 3, 5});
  s.seqlen_q = chance(30) ? 1 + below(3) : chance(80) ? 1 + below(40) : 1 + below(140);
  s.seqlen_k = chance(5) ? 0 : chance(60) ? 1 + below(140) : 1 + below(300);
  s.head_dim = chance(50) ? pick(std::initializer_list<std::int64_t>{16, 32, 64, 64, 80, 96, 128, 128}) : chance(70) ? 1 + below(80) : 1 + below(256);
  s.head_dim_v = chance(75) ? s.head_dim : 1 + below(140);
  s.dtype = pick(std::initializer_list<DType>{DType::f16, DType::f16, DType::bf16, DType::f32});
  s.out_dtype = chance(50) ? s.dtype : DType::f32;
  s.layout = pick(std::initializer_list<Layout>{Layout::bshd, Layout::bhsd, Layout::fused, Layout::gaps, Layout::odd});
  s.lse = !chance(20);
  if (chance(35)) s.mask = Mask::causal();
  if (chance(15)) s.mask = Mask::window(below(80) - 5, below(60) - 5);
  if (chance(10)) s.mask.diagonal = below(160) - 80;
  if (chance(10)) s.softmax_scale = static_cast<float>(below(33) - 16) / 64.0f;
  if (chance(12)) {
    s.dense = pick(std::initializer_list<DenseKind>{DenseKind::boolean, DenseKind::additive_f32, DenseKind::additive_same});
    s.dense_broadcast = chance(50);
  } else if (chance(15)) {
    for (std::int64_t b = 0; b < 1 + s.batch; ++b) {
      s.lens_q.push_back(static_cast<std::int32_t>(below(s.seqlen_q + 1)));
      s.lens_k.push_back(static_cast<std::int32_t>(below(s.seqlen_k + 1)));
    }
  }
  if (s.lens_q.empty() && chance(12)) {
    for (std::int64_t b = 0; b < s.batch; ++b) s.lens_k.push_back(static_cast<std::int32_t>(below(s.seqlen_k + 1)));
  }
  s.input_set = pick(std::initializer_list<const char*>{"1", "1",  "1",  "1",  "2",  "3",  "4",  "5",       "6",       "7",
                                                        "9", "10", "11", "12", "13", "14", "15", "16-gap6", "17-zero", "zero-rows"});
  // In [0, 1) bf16 has a grid as coarse as the int8 codes: roundings come out alike instead of at random, and no error model holds.
  if (s.dtype == DType::bf16 && *s.input_set == '2') s.input_set = "1";
  return s;
}

}  // namespace chitu::test
