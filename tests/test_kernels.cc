// Every row of the CPU's table x every case: against the specification of the scheme that the row executes (tight), against fp64 (derived bar), with
// poisoned outputs, dirty workspace and canaries. Rows are found in the tables; a row that does not take a case says why, and the cases are counted.

#include <gtest/gtest.h>

#include <functional>

#include "common/rows.h"

namespace chitu::test {
namespace {

struct NamedCase {
  const char* name;
  CallSpec spec;
};

CallSpec sized(std::int64_t seqlen_q, std::int64_t seqlen_k, std::int64_t dim, std::int64_t dim_v = 0) {
  CallSpec s;
  s.seqlen_q = seqlen_q;
  s.seqlen_k = seqlen_k;
  s.head_dim = dim;
  s.head_dim_v = dim_v == 0 ? dim : dim_v;
  return s;
}

/// Cases that name one feature each; the differential test mixes them.
std::vector<NamedCase> cases() {
  std::vector<NamedCase> list;
  auto add = [&list](const char* name, CallSpec base, const std::function<void(CallSpec&)>& change = {}) {
    if (change) change(base);
    list.push_back({name, std::move(base)});
  };
  for (std::int64_t d : {64, 128}) {
    const CallSpec base = sized(130, 700, d);
    add("plain", base);
    add("causal", base, [](CallSpec& s) { s.mask = Mask::causal(); });
    add("causal top left", base, [](CallSpec& s) { s.mask = Mask::causal_top_left(); });
    add("window", base, [](CallSpec& s) { s.mask = Mask::window(100, 30); });
    add("more queries than keys, causal", sized(300, 140, d), [](CallSpec& s) { s.mask = Mask::causal(); });
    add("grouped heads", base, [](CallSpec& s) { s.batch = 2, s.heads_q = 6, s.heads_kv = 2, s.seqlen_q = 50, s.seqlen_k = 300; });
    add("one head for all", base, [](CallSpec& s) { s.heads_q = 5, s.seqlen_q = 40, s.seqlen_k = 260; });
    add("f16 out", base, [](CallSpec& s) { s.out_dtype = DType::f16; });
    add("bf16", base, [](CallSpec& s) { s.dtype = s.out_dtype = DType::bf16; });
    add("f32", base, [](CallSpec& s) { s.dtype = DType::f32; });
    add("bhsd", base, [](CallSpec& s) { s.layout = Layout::bhsd, s.batch = 2, s.heads_q = s.heads_kv = 3, s.seqlen_q = 60, s.seqlen_k = 200; });
    add("fused", base, [](CallSpec& s) { s.layout = Layout::fused, s.batch = 2, s.heads_q = 4, s.heads_kv = 2, s.seqlen_q = s.seqlen_k = 150; });
    add("gaps", base, [](CallSpec& s) { s.layout = Layout::gaps, s.batch = 2, s.heads_q = s.heads_kv = 2, s.seqlen_q = 70, s.seqlen_k = 190; });
    add("odd addresses", base, [](CallSpec& s) { s.layout = Layout::odd, s.heads_q = s.heads_kv = 2, s.seqlen_q = 70, s.seqlen_k = 190; });
    add("packed", base, [](CallSpec& s) { s.lens_q = {5, 0, 130, 33, 1}, s.lens_k = {129, 12, 0, 300, 1}, s.heads_q = 2, s.mask = Mask::causal(); });
    add("padded", base, [](CallSpec& s) { s.batch = 4, s.lens_k = {200, 0, 1, 129}, s.seqlen_k = 200, s.seqlen_q = 40; });
    add("boolean mask", base, [](CallSpec& s) { s.dense = DenseKind::boolean, s.heads_q = s.heads_kv = 2, s.seqlen_q = 40, s.seqlen_k = 200; });
    add("additive mask", base,
        [](CallSpec& s) { s.dense = DenseKind::additive_f32, s.dense_broadcast = true, s.batch = 2, s.seqlen_q = 40, s.seqlen_k = 200; });
    add("16-bit mask, causal", base, [](CallSpec& s) { s.dense = DenseKind::additive_same, s.mask = Mask::causal(), s.seqlen_q = 40, s.seqlen_k = 200; });
    add("no lse", base, [](CallSpec& s) { s.lse = false, s.seqlen_q = 33, s.seqlen_k = 150; });
    add("negative scale", base, [](CallSpec& s) { s.softmax_scale = -0.09f; });
    add("scale 0", base, [](CallSpec& s) { s.softmax_scale = 0.0f, s.seqlen_q = 33; });
    add("one query", sized(1, 1300, d), [](CallSpec& s) { s.heads_q = 8, s.heads_kv = 2; });
    add("one key", sized(70, 1, d));
    add("tile edges", sized(129, 129, d), [](CallSpec& s) { s.mask = Mask::causal(); });
    add("no key", sized(20, 0, d));
  }
  add("wider values", sized(100, 300, 64, 128));
  add("narrower values", sized(100, 300, 128, 64));
  for (std::int64_t d : {1, 7, 40, 80, 96, 192, 250, 256}) add("head_dim", sized(70, 270, d));
  for (const char* set : {"3", "4", "5", "7", "9", "10", "11", "12", "13", "14", "15", "16-gap6", "17-zero", "zero-rows", "6", "first-tile"}) {
    add("input set", sized(130, 600, 64), [set](CallSpec& s) { s.input_set = set; });
  }
  return list;
}

class Kernels : public testing::TestWithParam<int> {};

TEST_P(Kernels, AgreesWithItsSpecificationAndWithFp64) {
  const NamedCase c = cases()[static_cast<std::size_t>(GetParam())];
  TestCall call(c.spec);
  int ran = 0;
  std::string skipped;
  for (const core::Kernel* row : cpu_rows(true)) {
    std::string reason;
    const auto methods = served_methods(*row, call, &reason);
    if (methods.empty()) skipped += std::string(skipped.empty() ? "" : "; ") + row->name + ": " + reason;
    for (Method method : methods) {
      ++ran;
      const std::string what = std::string(c.name) + ", " + row->name + " for " + std::string(method_name(method)) + ": ";
      const AttentionOptions options = call.options(method, row->name);
      ASSERT_EQ(call.run_checked(options), "") << what << c.spec.text();
      const Results got{call.out(), call.lse()};
      const core::Scheme scheme = executed_scheme(*row, call, method);
      const AccuracySample sample = accuracy(call, options, scheme, got, 3);
      EXPECT_EQ(sample.failure, "") << what;
      EXPECT_LE(sample.worst_row, 6.0) << what;
      EXPECT_LE(sample.worst_lse, 1.0) << what;
      if (row->reference || method == Method::exact) continue;  // exact is judged against fp64 alone
      TightComparison tight(scheme.p);
      EXPECT_EQ(tight.add(call, got, run_specification(call, scheme)), "") << what;
      EXPECT_LE(static_cast<double>(tight.ties()), tight.expected_ties()) << what << tight.rows() << " rows";
    }
  }
  EXPECT_GE(ran, 8) << "at least the specification of every method";
  RecordProperty("runs", ran);
  if (!skipped.empty()) std::printf("%s: %d runs; skipped %s\n", c.name, ran, skipped.c_str());
}

INSTANTIATE_TEST_SUITE_P(Cases, Kernels, testing::Range(0, static_cast<int>(cases().size())));

}  // namespace
}  // namespace chitu::test
