// Departures from the methods' schemes, the choice between rows, and random calls.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "core/validate.h"
#include "row_cases.h"

namespace chitu::test {
namespace {

/// Every row that serves the call in this scheme; how many there are.
int check_departure(const CallSpec& spec, const AttentionOptions& departure) {
  TestCall host(spec);
  GpuCall gpu(host);
  AttentionOptions o = host.options(departure.method);
  o.scheme = departure.scheme;
  const auto rows = gpu.rows(o);
  for (const std::string& row : rows) {
    o.kernel = row;
    EXPECT_EQ(check_row(host, gpu, o, false), "") << row << ", " << departure_text(departure) << ": " << spec.text();
  }
  return static_cast<int>(rows.size());
}

TEST(CudaSchemes, Departures) {
  CHITU_NEED_GPU();
  for (const AttentionOptions& o : departures()) EXPECT_GT(check_departure(shape(1, 150, 300, 2, 1, 64, 64), o), 0) << departure_text(o);
}

/// Scales of 128, 64 and single keys by turns, over every case and type.
TEST(CudaSchemes, DeparturesInEveryCase) {
  CHITU_NEED_GPU();
  const auto all = departures();
  int turn = 0;
  for (const Case& c : cases()) {
    for (DType t : {DType::f16, DType::bf16, DType::f32}) {
      CallSpec s = c.spec;
      s.dtype = t;
      s.out_dtype = turn / 3 % 2 == 0 ? DType::f32 : t;
      const AttentionOptions& o = all[static_cast<std::size_t>(turn) % all.size()];
      if (chosen(turn++, 5, 0)) EXPECT_GT(check_departure(s, o), 0) << departure_text(o) << ": " << s.text();
    }
  }
}

/// A row that is not verified serves only what no verified row serves, packed sequences included; and the Hopper rows take them when asked.
TEST(CudaSelection, PrefersVerifiedRows) {
  CHITU_NEED_GPU();
  const bool on_hopper = cuda::backend().caps({DeviceType::cuda, 0}).capability == 90;
  const auto serves_on_hopper = [](const std::vector<std::string>& rows) {
    return std::any_of(rows.begin(), rows.end(), [](const std::string& row) { return row.rfind("sm90", 0) == 0; });
  };
  for (bool packed : {false, true}) {
    CallSpec s = shape(1, 40, 200, 2, 1, 128, 128);
    if (packed) s.lens_q = {40, 7}, s.lens_k = {200, 9};
    TestCall host(s);
    GpuCall gpu(host);
    for (Method m : kMethods) {
      const auto serving = gpu.rows(host.options(m));
      const std::string chosen_row(plan(gpu.args(), host.options(m)).kernel());
      for (const core::Kernel& row : cuda::backend().kernels)
        if (row.name == chosen_row) EXPECT_TRUE(row.verified) << chosen_row << " for " << method_name(m);
      // sage1 sums in f16 by default, and only its departure from that has a Hopper row
      if (on_hopper) EXPECT_EQ(serves_on_hopper(serving), m != Method::sage1) << method_name(m) << (packed ? ", packed" : "");
    }
    AttentionOptions sage1 = host.options(Method::sage1);
    sage1.scheme.pv_accumulation = PvAccumulation::fp32;
    if (on_hopper) EXPECT_TRUE(serves_on_hopper(gpu.rows(sage1)));
  }
}

/// The tensor maps of the Hopper rows cannot repeat a head, and the pre-pass of a packed call has blocks for the longest sequence in every batch.
TEST(CudaSelection, HopperRowsLeaveWhatTheyCannotMap) {
  CHITU_NEED_GPU();
  for (Method m : {Method::exact, Method::chitu}) {
    TestCall host(shape(1, 40, 200, 4, 2, 64, 64));
    auto k = host.k();
    for (auto head = k.begin(); head != k.end(); head += 2 * 64) std::copy_n(head, 64, head + 64);
    host.set_k(k);
    GpuCall gpu(host);
    const AttentionOptions o = host.options(m);
    ASSERT_EQ(gpu.run(o), "");
    const auto out = host.out(), lse = host.lse();
    gpu.args().k.stride[2] = 0;  // both KV heads are the first
    for (const std::string& row : gpu.rows(o)) EXPECT_NE(row.rfind("sm90", 0), 0u) << row;
    ASSERT_EQ(gpu.run(o), "");
    EXPECT_LE(difference(host.out(), out).nrmse, 4e-3) << method_name(m);
    EXPECT_LE(largest_difference(host.lse(), lse), 1e-4) << method_name(m);
  }
  TestCall host(shape(1, 1, 200, 1, 1, 64, 64));
  GpuCall gpu(host);
  core::Problem p = core::validate(gpu.args(), host.options(Method::chitu));
  p.caps = cuda::backend().caps(p.device);
  p.scheme = core::default_scheme(Method::chitu, p.dtype);
  p.packed = true;
  p.batch = 4100, p.num_heads_q = p.num_heads_kv = 32, p.total_q = 4100, p.total_k = p.seqlen_k = 1 << 22;
  for (const core::Kernel& row : cuda::backend().kernels) EXPECT_NE(row.why_not(p), "") << row.name;
}

/// A call of 96 rows in which one code of e4m3 flips: 0.0046 of the output, all of it in that row.
TEST(CudaSchemes, AFlippedCodeStaysInItsRow) {
  CHITU_NEED_GPU();
  CallSpec s = shape(1, 24, 167, 4, 2, 64, 64);
  s.out_dtype = DType::f16;
  s.mask.right = 46, s.mask.diagonal = 23;
  s.dense = DenseKind::additive_f32;
  s.seed = 2092;
  EXPECT_EQ(check(s, Method::chitu_fast), "") << s.text();
}

/// Random small calls of every kind against the specification. CHITU_CUDA_SWEEP: how many (default 400).
TEST(CudaSweep, RandomCalls) {
  CHITU_NEED_GPU();
  const char* wanted = std::getenv("CHITU_CUDA_SWEEP");
  const char* first = std::getenv("CHITU_CUDA_SWEEP_SEED");
  const int n = wanted != nullptr ? std::atoi(wanted) : effort(400);
  std::mt19937_64 random(first != nullptr ? std::strtoull(first, nullptr, 10) : 1);
  auto pick = [&](std::int64_t lo, std::int64_t hi) { return lo + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(hi - lo + 1)); };
  const auto schemes = departures();
  int faults = 0;
  for (int i = 0; i < n && faults < 10; ++i) {
    constexpr std::int64_t kDims[] = {64, 128, 96, 256};
    CallSpec s = shape(pick(1, 2), pick(1, 40), pick(0, 180), 1, pick(1, 2), pick(1, 4) == 1 ? pick(1, 256) : kDims[std::min<std::int64_t>(pick(0, 4), 3)], 0);
    s.heads_q = s.heads_kv * pick(1, 3);
    s.head_dim_v = pick(0, 3) == 0 ? pick(1, 256) : s.head_dim;
    s.dtype = static_cast<DType>(pick(0, 2));
    s.out_dtype = pick(0, 1) == 0 ? DType::f32 : s.dtype;
    s.layout = static_cast<Layout>(pick(0, 4));
    s.lse = pick(0, 3) != 0;
    s.seed = static_cast<std::uint64_t>(i) + 1;
    if (pick(0, 2) == 0) s.mask.right = pick(-3, 50);
    if (pick(0, 3) == 0) s.mask.left = pick(0, 100);
    if (pick(0, 3) == 0) s.mask.diagonal = pick(-40, 60);
    if (pick(0, 3) == 0) s.softmax_scale = static_cast<float>(pick(-10, 40)) / 100.0f;
    switch (pick(0, 5)) {
      case 0:
        s.dense = static_cast<DenseKind>(pick(1, 3));
        s.dense_broadcast = pick(0, 1) == 1;
        break;
      case 1:
        for (std::int64_t b = 0; b < s.batch; ++b) s.lens_k.push_back(static_cast<std::int32_t>(pick(0, s.seqlen_k)));
        break;
      case 2:
        for (std::int64_t b = pick(1, 4); b > 0; --b) {
          s.lens_q.push_back(static_cast<std::int32_t>(pick(0, 50)));
          s.lens_k.push_back(static_cast<std::int32_t>(pick(0, 140)));
        }
        s.batch = 1;
        break;
      default:
        break;
    }
    if (pick(0, 7) == 0) {
      const AttentionOptions& o = schemes[static_cast<std::size_t>(pick(0, static_cast<std::int64_t>(schemes.size()) - 1))];
      EXPECT_GT(check_departure(s, o), 0) << departure_text(o) << ": " << s.text();
      continue;
    }
    const Method m = kMethods[pick(0, 7)];
    if (!takes(s, m)) continue;
    std::string fault;
    try {
      fault = check(s, m);
    } catch (const std::exception& e) {
      fault = e.what();
    }
    if (!fault.empty()) ++faults;
    EXPECT_EQ(fault, "") << method_name(m) << ": " << s.text();
  }
}

}  // namespace
}  // namespace chitu::test
