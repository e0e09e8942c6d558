// What docs/methods.md adds against K whose channels differ in size and V whose tokens do: key weights, and the bound of chitu_int8's correction.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/call.h"
#include "common/rows.h"
#include "core/key_weights.h"
#include "eval/fill.h"
#include "reference/scheme.h"

namespace chitu::test {
namespace {

constexpr std::int64_t kDim = 16;

/// +-1 in every channel, times size[d].
std::vector<float> alternating(std::int64_t rows, const std::vector<float>& size) {
  std::vector<float> k;
  for (std::int64_t j = 0; j < rows; ++j)
    for (float s : size) k.push_back(j % 2 == 0 ? s : -s);
  return k;
}

std::vector<float> weights_of(const std::vector<float>& k, std::int64_t rows) {
  return ref::quantize_keys(core::default_scheme(Method::chitu, DType::f32), {k.data(), DType::f32, kDim, rows, kDim}).weights;
}

TEST(KeyWeights, ByHand) {
  std::vector<float> size(kDim, 1.0f), want(kDim, 1.0f);
  size[0] = 2, size[1] = 3.9f;   // less than two octaves above the median
  size[2] = 4, want[2] = 2;      // two
  size[3] = 15, want[3] = 2;     // three and a bit: rounded toward one
  size[4] = 64, want[4] = 8;     // six
  size[5] = 1e4f, want[5] = 16;  // 13: the most there is
  size[6] = 1e-3f;               // never below 1
  size[7] = 0;                   // has no exponent
  EXPECT_EQ(weights_of(alternating(128, size), 128), want);
  EXPECT_EQ(weights_of(alternating(300, size), 300), want);
  EXPECT_EQ(weights_of(alternating(127, size), 127), std::vector<float>(kDim, 1.0f)) << "the first tile is not full";
  EXPECT_EQ(weights_of(alternating(128, std::vector<float>(kDim, 0.0f)), 128), std::vector<float>(kDim, 1.0f));
}

TEST(KeyWeights, OnlyTheFirstTileDecides) {
  std::vector<float> size(kDim, 1.0f), k = alternating(128, size);
  size[3] = 1000;
  const auto rest = alternating(128, size);
  k.insert(k.end(), rest.begin(), rest.end());
  EXPECT_EQ(weights_of(k, 256), std::vector<float>(kDim, 1.0f));
}

TEST(KeyWeights, AChannelThatIsNotANumberKeepsTheOthers) {
  std::vector<float> size(kDim, 1.0f);
  size[4] = 64;
  auto k = alternating(128, size);
  k[9] = std::numeric_limits<float>::quiet_NaN();  // channel 9 of key 0
  const auto w = weights_of(k, 128);
  EXPECT_EQ(w[4], 8.0f);
  EXPECT_EQ(w[9], 1.0f);
}

TEST(KeyWeights, OrdinaryKeysHaveNone) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const eval::Inputs in = eval::make_inputs(*eval::find_input_set("1"), {1, 1, 256, 1, 1, 128, 128}, seed);
    const auto keys = ref::quantize_keys(core::default_scheme(Method::chitu, DType::f32), {in.k.data(), DType::f32, 128, 256, 128});
    EXPECT_EQ(keys.weights, std::vector<float>(128, 1.0f)) << seed;
  }
}

/// Keys with a bias before RoPE: every row is nearer to fp64 than the same scheme without weights, by the factor that the study found.
TEST(KeyWeights, EveryRowGainsWhereKeysAreBiasedBeforeRope) {
  CallSpec spec;
  spec.seqlen_q = 96, spec.seqlen_k = 1024, spec.head_dim = spec.head_dim_v = 128;
  spec.input_set = "6";
  TestCall call(spec);
  auto error = [&](const std::vector<float>& got, const std::vector<float>& want) {
    double e = 0, r = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      e += std::pow(static_cast<double>(got[i]) - want[i], 2);
      r += std::pow(static_cast<double>(want[i]), 2);
    }
    return std::sqrt(e / r);
  };
  AttentionOptions exact = call.options(Method::exact, "ref_exact");
  ASSERT_EQ(call.run(exact), "");
  const auto want = call.out();
  for (Method m : {Method::chitu, Method::chitu_int8, Method::chitu_fast}) {
    core::Scheme without = core::default_scheme(m, spec.dtype);
    without.k_weights = false;
    const AttentionArgs& a = call.args();
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < spec.seqlen_q; ++i) rows.push_back(i);
    std::vector<float> plain(call.out().size());
    const ref::HeadView q = ref::head_view(a.q, 0, 0, 0, spec.seqlen_q), k = ref::head_view(a.k, 0, 0, 0, spec.seqlen_k),
                        v = ref::head_view(a.v, 0, 0, 0, spec.seqlen_k);
    ref::attend({without, 1 / std::sqrt(128.0f), core::Band({}, spec.seqlen_q, spec.seqlen_k), {}}, q, ref::quantize_keys(without, k),
                ref::quantize_values(without, v), rows, plain.data(), nullptr);
    for (const core::Kernel* row : cpu_rows(true)) {
      if (const auto served = served_methods(*row, call); std::find(served.begin(), served.end(), m) == served.end()) continue;
      ASSERT_EQ(call.run(call.options(m, row->name)), "");
      EXPECT_LT(error(call.out(), want), 0.7 * error(plain, want)) << row->name << " for " << method_name(m);
    }
  }
}

/// Flagged tile: tokens 1 and 3 have a huge value in channel 0, of which its weight knows nothing, because no sampled token (0, 8, ..) has one. The weight of
/// token 3 rounds to nothing; times its scale and the mean code of channel 15, whose weight is large, that is 160 times what channel 15 has.
TEST(KeyWeights, CorrectionOfFlaggedTilesIsBounded) {
  CallSpec spec;
  spec.seqlen_q = 1, spec.seqlen_k = 160, spec.head_dim = spec.head_dim_v = kDim;
  spec.dtype = DType::f32;
  spec.softmax_scale = 1.0f;
  TestCall call(spec);
  std::vector<float> q(kDim, 0.0f), k(160 * kDim, 0.0f), v(160 * kDim);
  q[0] = 1;
  for (std::size_t j = 0; j < 160; ++j) {
    k[j * kDim] = j == 1 ? 0.0f : j == 3 ? -6.4f : -40.0f;  // e^-6.4 = 0.42 / 255
    for (std::size_t d = 0; d < kDim; ++d) v[j * kDim + d] = d == 15 ? 3e4f : 1.0f;
    if (j == 1 || j == 3) v[j * kDim] = 1e5f;
  }
  call.set_q(q);
  call.set_k(k);
  call.set_v(v);
  for (const core::Kernel* row : cpu_rows(true)) {
    if (const auto served = served_methods(*row, call); std::find(served.begin(), served.end(), Method::chitu_int8) == served.end()) continue;
    ASSERT_EQ(call.run(call.options(Method::chitu_int8, row->name)), "");
    for (std::size_t d = 0; d < kDim; ++d) EXPECT_LE(std::fabs(call.out()[d]), d == 0 ? 2e5f : d == 15 ? 6e4f : 2.0f) << row->name << ", channel " << d;
  }
}

}  // namespace
}  // namespace chitu::test
