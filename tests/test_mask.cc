// The band mask and the sequence ranges, against their definitions.

#include <gtest/gtest.h>

#include <random>

#include "core/kernel.h"
#include "core/mask.h"

namespace chitu::test {
namespace {

using core::Band;
using core::kNoLimit;
using core::MaskParams;

/// The definition of include/chitu/attention.h, word for word.
bool visible(const Mask& m, std::int64_t seqlen_q, std::int64_t seqlen_k, std::int64_t i, std::int64_t j) {
  const std::int64_t diagonal = m.diagonal.value_or(seqlen_k - seqlen_q);
  if (j < 0 || j >= seqlen_k) return false;
  if (m.left && j < i + diagonal - *m.left) return false;
  if (m.right && j > i + diagonal + *m.right) return false;
  return true;
}

MaskParams params(const Mask& m) {
  MaskParams p;
  p.left = m.left.value_or(kNoLimit);
  p.right = m.right.value_or(kNoLimit);
  p.diagonal = m.diagonal.value_or(0);
  p.bottom_right = !m.diagonal;
  return p;
}

std::vector<Mask> masks() {
  std::vector<Mask> list = {{}, Mask::causal(), Mask::causal_top_left()};
  for (std::int64_t left : {-3, 0, 1, 4})
    for (std::int64_t right : {-2, 0, 3}) {
      list.push_back(Mask::window(left, right));
      list.push_back({left, right, 2});
      list.push_back({left, std::nullopt, -3});
    }
  return list;
}

TEST(Mask, KeysOfOneQuery) {
  for (const Mask& m : masks())
    for (std::int64_t seqlen_q : {1, 2, 5, 9})
      for (std::int64_t seqlen_k : {0, 1, 4, 9, 12})
        for (std::int64_t i = 0; i < seqlen_q; ++i) {
          const auto range = Band(params(m), seqlen_q, seqlen_k).keys(i);
          for (std::int64_t j = -2; j < seqlen_k + 2; ++j) {
            ASSERT_EQ(visible(m, seqlen_q, seqlen_k, i, j), j >= range.begin && j < range.end)
                << "i " << i << " j " << j << " of " << seqlen_q << " x " << seqlen_k;
          }
        }
}

TEST(Mask, KeysOfABlockAndFullTiles) {
  for (const Mask& m : masks())
    for (std::int64_t seqlen_q : {1, 5, 7})
      for (std::int64_t seqlen_k : {0, 3, 7, 10})
        for (std::int64_t i0 = 0; i0 < seqlen_q; ++i0)
          for (std::int64_t i1 = i0 + 1; i1 <= seqlen_q; ++i1) {
            const Band band(params(m), seqlen_q, seqlen_k);
            const auto range = band.keys(i0, i1);
            for (std::int64_t i = i0; i < i1; ++i)
              for (std::int64_t j = 0; j < seqlen_k; ++j) {
                ASSERT_TRUE(!visible(m, seqlen_q, seqlen_k, i, j) || (j >= range.begin && j < range.end)) << i << "," << j;
              }
            ASSERT_GE(range.begin, 0);
            ASSERT_GE(range.end, range.begin);
            ASSERT_LE(range.end, seqlen_k) << "callers turn it into tile numbers, also when it is empty";
            for (std::int64_t j0 = 0; j0 < seqlen_k; ++j0)
              for (std::int64_t j1 = j0 + 1; j1 <= seqlen_k + 1; ++j1) {
                bool all = true;
                for (std::int64_t i = i0; i < i1; ++i)
                  for (std::int64_t j = j0; j < j1; ++j) all = all && visible(m, seqlen_q, seqlen_k, i, j);
                ASSERT_EQ(band.full(i0, i1, j0, j1), all) << i0 << ".." << i1 << " x " << j0 << ".." << j1;
              }
          }
}

TEST(Mask, LimitsNeverOverflow) {
  for (std::int64_t extreme : {(std::int64_t{1} << 59) - 1, -(std::int64_t{1} << 59) + 1})
    for (std::int64_t seqlen : {std::int64_t{1}, std::int64_t{1} << 40}) {
      const Band band(params({extreme, extreme, extreme}), seqlen, seqlen);
      const auto range = band.keys(0, seqlen);
      EXPECT_GE(range.begin, 0);
      EXPECT_GE(range.end, range.begin);
    }
}

TEST(Mask, SequenceRangesStayInsideTheTensors) {
  std::mt19937 random(4);
  for (int round = 0; round < 20000; ++round) {
    auto any = [&](int bound) { return static_cast<std::int32_t>(random() % static_cast<unsigned>(2 * bound)) - bound; };
    core::Problem p;
    p.packed = true;
    p.batch = 2;
    p.total_q = random() % 20;
    p.total_k = random() % 20;
    p.seqlen_q = std::min<std::int64_t>(p.total_q, random() % 20);
    p.seqlen_k = std::min<std::int64_t>(p.total_k, random() % 20);
    const std::int32_t cu_q[3] = {any(40), any(40), any(40)}, cu_k[3] = {any(40), any(40), any(40)};  // what a kernel may find in device memory
    const Sequences s{cu_q, cu_k, nullptr, 2, p.seqlen_q, p.seqlen_k};
    for (std::int64_t b = 0; b < 2; ++b) {
      const auto r = core::sequence_range(p, s, b);
      ASSERT_TRUE(r.q_begin >= 0 && r.q_len >= 0 && r.q_len <= p.seqlen_q && r.q_begin + r.q_len <= p.total_q);
      ASSERT_TRUE(r.k_begin >= 0 && r.k_len >= 0 && r.k_len <= p.seqlen_k && r.k_begin + r.k_len <= p.total_k);
      ASSERT_EQ(r.tensor_batch, 0);
    }
  }
}

TEST(Mask, SequenceRangesOfLegalArrays) {
  core::Problem p;
  p.packed = true;
  p.batch = 3;
  p.total_q = 9;
  p.total_k = 12;
  p.seqlen_q = p.seqlen_k = 6;
  const std::int32_t cu_q[] = {1, 4, 4, 9}, cu_k[] = {0, 6, 7, 12}, lengths[] = {2, 0};
  const Sequences s{cu_q, cu_k, nullptr, 3, 6, 6};
  for (std::int64_t b = 0; b < 3; ++b) {
    const auto r = core::sequence_range(p, s, b);
    EXPECT_EQ(r.q_begin, cu_q[b]);
    EXPECT_EQ(r.q_len, cu_q[b + 1] - cu_q[b]);
    EXPECT_EQ(r.k_begin, cu_k[b]);
    EXPECT_EQ(r.k_len, cu_k[b + 1] - cu_k[b]);
  }
  p.packed = false;
  const Sequences padded{nullptr, nullptr, lengths, 0, 0, 0};
  const auto r = core::sequence_range(p, padded, 0);
  EXPECT_EQ(r.k_len, 2);
  EXPECT_EQ(r.q_len, 6);
  EXPECT_EQ(core::sequence_range(p, padded, 1).k_len, 0);
  EXPECT_EQ(core::sequence_range(p, {}, 1).tensor_batch, 1);
}

}  // namespace
}  // namespace chitu::test
