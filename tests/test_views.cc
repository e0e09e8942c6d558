// Strided views: what they span, whether they overlap. Against brute force over small random shapes.

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <set>

#include "chitu/tensor.h"
#include "core/views.h"

namespace chitu::test {
namespace {

using core::last_offset;

std::vector<std::int64_t> all_offsets(const ConstTensorView& v) {
  std::vector<std::int64_t> list;
  for (std::int64_t a = 0; a < v.shape[0]; ++a)
    for (std::int64_t b = 0; b < v.shape[1]; ++b)
      for (std::int64_t c = 0; c < v.shape[2]; ++c)
        for (std::int64_t d = 0; d < v.shape[3]; ++d) list.push_back(a * v.stride[0] + b * v.stride[1] + c * v.stride[2] + d * v.stride[3]);
  return list;
}

template <class Body>
bool throws(const Body& body) {
  try {
    body();
    return false;
  } catch (const InvalidArgument&) {
    return true;
  }
}

TEST(Views, ContiguousViewCountsElementsInOrder) {
  const auto v = contiguous_view<const void*, 4>(nullptr, DType::f16, {2, 3, 4, 5});
  const auto offsets = all_offsets(v);
  for (std::size_t i = 0; i < offsets.size(); ++i) EXPECT_EQ(offsets[i], static_cast<std::int64_t>(i));
}

TEST(Views, FromBhsdReadsTheSameMemory) {
  const auto v = from_bhsd(contiguous_view<const void*, 4>(nullptr, DType::f16, {2, 4, 3, 5}));  // [batch, heads, seqlen, dim]
  EXPECT_EQ(v.shape, (std::array<std::int64_t, 4>{2, 3, 4, 5}));
  EXPECT_EQ(v.stride, (std::array<std::int64_t, 4>{60, 5, 15, 1}));
}

TEST(Views, LastOffset) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 2000; ++round) {
    ConstTensorView v;
    for (int i = 0; i < 4; ++i) v.shape[i] = static_cast<std::int64_t>(random() % 4), v.stride[i] = static_cast<std::int64_t>(random() % 9);
    std::int64_t want = -1;
    for (auto o : all_offsets(v)) want = std::max(want, o);
    EXPECT_EQ(last_offset("v", v), want) << core::shape_text(v);
  }
}

TEST(Views, LastOffsetRefusesWhatItCannotAddress) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  ConstTensorView v;
  v.shape = {2, 2, 2, 2};
  v.stride = {std::int64_t{1} << 60, 0, 0, 0};
  EXPECT_EQ(last_offset("v", v), std::int64_t{1} << 60);
  v.stride = {std::int64_t{1} << 60, 1, 0, 0};
  EXPECT_TRUE(throws([&] { last_offset("v", v); }));
  v.shape = {most, most, most, most};
  v.stride = {most, most, most, most};
  EXPECT_TRUE(throws([&] { last_offset("v", v); }));
  v.shape = {1, 1, 1, 1};
  EXPECT_EQ(last_offset("v", v), 0) << "a stride that is never used may be anything";
  v.shape = {most, 0, most, most};
  EXPECT_EQ(last_offset("v", v), -1);
}

TEST(Views, NoSelfOverlapIsNeverAcceptedWrongly) {
  std::mt19937_64 random(2);
  int accepted = 0, refused = 0;
  for (int round = 0; round < 20000; ++round) {
    ConstTensorView v;
    for (int i = 0; i < 4; ++i) v.shape[i] = static_cast<std::int64_t>(1 + random() % 3), v.stride[i] = static_cast<std::int64_t>(random() % 30);
    const auto offsets = all_offsets(v);
    const bool distinct = std::set<std::int64_t>(offsets.begin(), offsets.end()).size() == offsets.size();
    if (throws([&] { core::check_no_self_overlap("v", v); })) {
      ++refused;
    } else {
      ++accepted;
      ASSERT_TRUE(distinct) << core::shape_text(v) << " stride " << v.stride[0] << "," << v.stride[1] << "," << v.stride[2] << "," << v.stride[3];
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
}

TEST(Views, StridesOfAnEmptyViewMayBeAnything) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  ConstTensorView v;
  v.shape = {3, 0, 3, 3};
  v.stride = {most, most, most, -most};
  EXPECT_FALSE(throws([&] { core::check_no_self_overlap("v", v); }));
  EXPECT_TRUE(core::disjoint_row_slices(v, v));
}

TEST(Views, OrdinaryLayoutsDoNotOverlapThemselves) {
  for (auto v :
       {contiguous_view<const void*, 4>(nullptr, DType::f16, {2, 3, 4, 5}), from_bhsd(contiguous_view<const void*, 4>(nullptr, DType::f16, {2, 3, 4, 5})),
        contiguous_view<const void*, 4>(nullptr, DType::f16, {1, 1, 1, 1})}) {
    EXPECT_FALSE(throws([&] { core::check_no_self_overlap("v", v); }));
  }
}

/// Random slices of the rows of one buffer: whenever they are declared disjoint, no element may be shared.
TEST(Views, DisjointRowSlicesShareNoElement) {
  std::mt19937_64 random(3);
  std::vector<std::uint16_t> memory(4096);
  int disjoint = 0;
  for (int round = 0; round < 50000; ++round) {
    auto slice = [&](std::int64_t period) {
      ConstTensorView v;
      v.data = &memory[1024 + random() % 64];
      v.dtype = DType::f16;
      v.shape = {static_cast<std::int64_t>(1 + random() % 2), static_cast<std::int64_t>(1 + random() % 3), static_cast<std::int64_t>(1 + random() % 3),
                 static_cast<std::int64_t>(1 + random() % 4)};
      v.stride = {period * static_cast<std::int64_t>(1 + random() % 4), period, static_cast<std::int64_t>(random() % 8), 1};
      return v;
    };
    const auto period = static_cast<std::int64_t>(8 + random() % 24);
    const ConstTensorView a = slice(period), b = slice(random() % 8 == 0 ? period + 1 : period);
    if (!core::disjoint_row_slices(a, b)) continue;
    ++disjoint;
    const std::int64_t base_a = static_cast<const std::uint16_t*>(a.data) - memory.data(), base_b = static_cast<const std::uint16_t*>(b.data) - memory.data();
    std::set<std::int64_t> of_a;
    for (auto o : all_offsets(a)) of_a.insert(base_a + o);
    for (auto o : all_offsets(b)) ASSERT_EQ(of_a.count(base_b + o), 0u) << "round " << round;
  }
  EXPECT_GT(disjoint, 1000);
}

TEST(Views, ByteRange) {
  alignas(16) std::array<float, 64> memory{};
  const ConstTensorView v{memory.data(), DType::f32, {}, {1, 3, 2, 4}, {0, 16, 4, 1}};
  const auto range = core::byte_range("v", v);
  EXPECT_EQ(range.begin, reinterpret_cast<std::uintptr_t>(memory.data()));
  EXPECT_EQ(range.end - range.begin, (2 * 16 + 4 + 3 + 1) * sizeof(float));
  ConstTensorView none = v;
  none.data = nullptr;
  EXPECT_EQ(core::byte_range("v", none).end, 0u);
}

}  // namespace
}  // namespace chitu::test
