// Statements about attention that need no oracle, for every row and method it serves (P1 .. P18 are the names that docs and comments use). Most hold bit
// for bit; where one does not, the bound is derived beside it.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "common/effort.h"
#include "common/oracle.h"
#include "common/random_spec.h"
#include "common/rows.h"

namespace chitu::test {
namespace {

constexpr int kConfigs = 12;

struct Runner {
  const core::Kernel* row;
  Method method;
  std::string what;
  Results operator()(TestCall& call) const {
    const std::string fault = call.run(call.options(method, row->name));
    EXPECT_EQ(fault, "") << what;
    return {call.out(), call.lse()};
  }
};

/// body(runner, call) for kConfigs random calls, changed by `shape`, and every row and method that serves them.
void for_each(std::uint64_t seed, const std::function<void(CallSpec&)>& shape, const std::function<void(const Runner&, TestCall&)>& body) {
  for (int n = 0; n < effort(kConfigs); ++n) {
    CallSpec spec = random_spec(seed, static_cast<std::uint64_t>(n));
    spec.out_dtype = DType::f32;
    spec.lse = true;
    if (spec.seqlen_k == 0) spec.seqlen_k = 65;
    if (shape) shape(spec);
    TestCall call(spec);
    for (const core::Kernel* row : cpu_rows(true))
      for (Method m : served_methods(*row, call)) body({row, m, std::string(row->name) + " for " + std::string(method_name(m)) + ", " + spec.text()}, call);
  }
}

void plain_lengths(CallSpec& s) {
  s.lens_q.clear();
  s.lens_k.clear();
}

std::vector<float> times(std::vector<float> x, float factor) {
  for (float& e : x) e *= factor;
  return x;
}

/// P1: the weights of a row sum to one.
TEST(Properties, OnesGiveOnes) {
  for_each(101, {}, [](const Runner& run, TestCall& call) {
    const auto v = call.v();
    call.set_v(std::vector<float>(v.size(), 1.0f));
    const Results r = run(call);
    const core::Scheme s = executed_scheme(*run.row, call, run.method);
    for (std::int64_t b = 0; b < call.sequences(); ++b)
      for (std::int64_t h = 0; h < call.spec().heads_q; ++h)
        for (std::int64_t i = 0; i < call.span(b).q_len; i += 7) {
          const OracleRow row = oracle_row(call.args(), call.options(run.method), b, h, i);
          // A normaliser of rounded weights divides the same codes: only f32 rounding remains. A raw one keeps the rounding of P (and of f16 sums).
          double bar = 1e-5;
          if (s.p_sum == core::PSum::raw && s.p == core::PFormat::f16) bar = s.accumulate == core::Accumulate::f32 ? 0x1p-10 : 0x1p-7;
          if (s.p_sum == core::PSum::raw && s.p == core::PFormat::bf16) bar = 0x1p-8;
          const double spread = std::exp(std::min(50.0, row.logit_bound));  // the largest weight that rounded logits may have, over the exact one
          const double few = static_cast<double>(row.visible) * row.largest_weight * spread;
          if (s.p_sum == core::PSum::raw && s.p == core::PFormat::s8) bar = std::min(1.0, 0.5 / 127 * few) + 1e-5;
          if (s.p_sum == core::PSum::raw && s.p == core::PFormat::e4m3) bar = 0x1p-4 + 0x1p-10 / 448 * few + 0x1p-9;
          if (s.accumulate == core::Accumulate::fp8_tile) bar += 0x1p-8;  // 13 fraction bits, truncated
          for (std::int64_t c = 0; c < call.spec().head_dim_v; ++c) {
            const double x = read_out(call.args(), b, h, i, c);
            ASSERT_NEAR(x, row.visible == 0 ? 0.0 : 1.0, bar) << run.what << " row " << i;
          }
        }
    call.set_v(v);
  });
}

/// P5: a power of two moves from q to softmax_scale, and through V to the output, without changing another bit.
TEST(Properties, PowersOfTwo) {
  for_each(
      105, [](CallSpec& s) { s.dtype = s.seed % 2 ? DType::f16 : DType::bf16, s.softmax_scale = 0.11f, s.input_set = "1"; },
      [](const Runner& run, TestCall& call) {
        const Results base = run(call);
        const auto q = call.q(), v = call.v();
        call.set_v(times(v, 4.0f));
        EXPECT_TRUE(same_bits(run(call).out, times(base.out, 4.0f))) << run.what;
        call.set_v(v);
        call.set_q(times(q, 4.0f));
        AttentionOptions o = call.options(run.method, run.row->name);
        o.softmax_scale = 0.11f / 4;
        ASSERT_EQ(call.run(o), "") << run.what;
        EXPECT_TRUE(same_bits(call.out(), base.out)) << run.what;
        EXPECT_TRUE(same_bits(call.lse(), base.lse)) << run.what;
        call.set_q(q);
      });
}

/// P6: signs of q and k cancel, the sign of V goes through.
TEST(Properties, Signs) {
  for_each(
      106, [](CallSpec& s) { s.input_set = s.seed % 2 ? "1" : "4"; },
      [](const Runner& run, TestCall& call) {
        const Results base = run(call);
        const auto q = call.q(), k = call.k(), v = call.v();
        call.set_q(times(q, -1.0f));
        call.set_k(times(k, -1.0f));
        const Results both = run(call);
        EXPECT_TRUE(same_bits(both.out, base.out) && same_bits(both.lse, base.lse)) << run.what;
        call.set_q(q);
        call.set_k(k);
        call.set_v(times(v, -1.0f));
        auto negative = run(call).out;
        for (std::size_t i = 0; i < negative.size(); ++i) ASSERT_EQ(negative[i], -base.out[i]) << run.what;  // 0 may keep its sign
        call.set_v(v);
      });
}

/// P7: a head group reads the same K and V as heads that repeat them.
TEST(Properties, GroupedHeadsAreRepeatedHeads) {
  for_each(
      107, [](CallSpec& s) { s.heads_kv = 2, s.heads_q = 6; },
      [](const Runner& run, TestCall& call) {
        const Results grouped = run(call);
        CallSpec spec = call.spec();
        spec.heads_kv = spec.heads_q;
        TestCall repeated(spec);
        auto repeat = [&](const std::vector<float>& x, std::int64_t dim) {
          std::vector<float> y;
          for (std::int64_t row = 0; row < call.tensor_batch() * call.rows_k(); ++row)
            for (std::int64_t h = 0; h < 6; ++h) y.insert(y.end(), x.begin() + (row * 2 + h / 3) * dim, x.begin() + (row * 2 + h / 3 + 1) * dim);
          return y;
        };
        repeated.set_q(call.q());
        repeated.set_k(repeat(call.k(), spec.head_dim));
        repeated.set_v(repeat(call.v(), spec.head_dim_v));
        const Results r = run(repeated);
        EXPECT_TRUE(same_bits(r.out, grouped.out)) << run.what;
        EXPECT_TRUE(same_bits(r.lse, grouped.lse)) << run.what;
      });
}

/// Rows [first, first + rows) of a [batch, rows, heads, dim] tensor.
std::vector<float> slice(const std::vector<float>& x, std::int64_t first, std::int64_t rows, std::int64_t width) {
  return {x.begin() + first * width, x.begin() + (first + rows) * width};
}

/// P8: a sequence does not know its neighbours, neither in a pack nor in a batch.
TEST(Properties, SequencesAreIndependent) {
  auto shape = [](CallSpec& s) {
    s.dense = DenseKind::none;
    if (s.seed % 2 == 0) {
      s.batch = 3;
      plain_lengths(s);
    } else {
      s.lens_q = {7, 0, 40, 1, 90};
      s.lens_k = {130, 20, 0, 1, 257};
    }
  };
  for_each(108, shape, [](const Runner& run, TestCall& call) {
    const Results all = run(call);
    const CallSpec& spec = call.spec();
    for (std::int64_t b = 0; b < call.sequences(); ++b) {
      const SequenceSpan at = call.span(b);
      if (at.q_len == 0) continue;
      CallSpec one = spec;
      plain_lengths(one);
      one.batch = 1;
      one.seqlen_q = at.q_len;
      one.seqlen_k = at.k_len;
      TestCall alone(one);
      const std::int64_t q_row = at.tensor_batch * call.rows_q() + at.q_begin, k_row = at.tensor_batch * call.rows_k() + at.k_begin;
      alone.set_q(slice(call.q(), q_row, at.q_len, spec.heads_q * spec.head_dim));
      alone.set_k(slice(call.k(), k_row, at.k_len, spec.heads_kv * spec.head_dim));
      alone.set_v(slice(call.v(), k_row, at.k_len, spec.heads_kv * spec.head_dim_v));
      const Results r = run(alone);
      EXPECT_TRUE(same_bits(r.out, slice(all.out, q_row, at.q_len, spec.heads_q * spec.head_dim_v))) << run.what << " sequence " << b;
    }
  });
}

/// P9: where the elements lie does not matter.
TEST(Properties, StridesDoNotMatter) {
  for_each(109, {}, [](const Runner& run, TestCall& call) {
    const Results base = run(call);
    for (Layout layout : {Layout::bshd, Layout::bhsd, Layout::fused, Layout::gaps, Layout::odd}) {
      CallSpec spec = call.spec();
      spec.layout = layout;
      TestCall other(spec);
      const Results r = run(other);
      EXPECT_TRUE(same_bits(r.out, base.out) && same_bits(r.lse, base.lse)) << run.what << " as " << layout_name(layout);
    }
  });
}

/// P10: what lies ahead of a causal row does not reach it, not even as NaN. Methods whose statistics span the sequence (a mean of all keys, channel scales of
/// V) say so in docs/methods.md and are left out.
TEST(Properties, CausalRowsDoNotSeeTheFuture) {
  auto shape = [](CallSpec& s) {
    plain_lengths(s);
    s.dense = DenseKind::none;
    s.mask = Mask::causal_top_left();
    s.dtype = s.seed % 2 ? DType::f16 : DType::bf16;
    s.seqlen_q = 140;
    s.seqlen_k = 300;
  };
  for_each(110, shape, [](const Runner& run, TestCall& call) {
    if (run.method != Method::exact && run.method != Method::chitu && run.method != Method::int_flash_half) return;
    const Results base = run(call);
    const auto k = call.k(), v = call.v();
    auto spoil = [&](std::vector<float> x, std::int64_t dim) {
      for (std::int64_t b = 0; b < call.tensor_batch(); ++b)
        std::fill(x.begin() + (b * 300 + 128) * call.spec().heads_kv * dim, x.begin() + (b + 1) * 300 * call.spec().heads_kv * dim, NAN);
      return x;
    };
    call.set_k(spoil(k, call.spec().head_dim));
    call.set_v(spoil(v, call.spec().head_dim_v));
    const Results r = run(call);
    for (std::int64_t b = 0; b < call.tensor_batch(); ++b) {
      const std::int64_t width = call.spec().heads_q * call.spec().head_dim_v;
      EXPECT_TRUE(same_bits(slice(r.out, b * 140, 128, width), slice(base.out, b * 140, 128, width))) << run.what;
      EXPECT_TRUE(std::isnan(r.out[static_cast<std::size_t>((b * 140 + 139) * width)])) << run.what << ": a row that sees NaN is NaN";
    }
    call.set_k(k);
    call.set_v(v);
  });
}

/// P16: keys beyond seqlens_k may hold anything.
TEST(Properties, PaddingNeverMatters) {
  auto shape = [](CallSpec& s) {
    plain_lengths(s);
    s.batch = 3;
    s.seqlen_k = 260;
    s.lens_k = {static_cast<std::int32_t>(s.seed % 260), 129, 0};
  };
  for_each(116, shape, [](const Runner& run, TestCall& call) {
    const auto k = call.k(), v = call.v();
    auto padded_with = [&](std::vector<float> x, std::int64_t dim, float value) {
      for (std::int64_t b = 0; b < 3; ++b)
        std::fill(x.begin() + (b * 260 + call.span(b).k_len) * call.spec().heads_kv * dim, x.begin() + (b + 1) * 260 * call.spec().heads_kv * dim, value);
      return x;
    };
    Results first;
    for (float value : {0.0f, NAN, INFINITY, -448.0f}) {
      call.set_k(padded_with(k, call.spec().head_dim, value));
      call.set_v(padded_with(v, call.spec().head_dim_v, value));
      const Results r = run(call);
      if (first.out.empty()) first = r;
      EXPECT_TRUE(same_bits(r.out, first.out) && same_bits(r.lse, first.lse)) << run.what << " padded with " << value;
    }
    call.set_k(k);
    call.set_v(v);
  });
}

/// A boolean mask that says what the band says.
TEST(Properties, BooleanMaskOfTheBandIsTheBand) {
  auto shape = [](CallSpec& s) {
    plain_lengths(s);
    s.dense = DenseKind::none;
    s.mask = s.seed % 2 ? Mask::causal() : Mask::window(50, 20);
    s.seqlen_q = 1 + s.seed % 90;
  };
  for_each(117, shape, [](const Runner& run, TestCall& call) {
    const Results band = run(call);
    const std::int64_t rows = call.rows_q(), keys = call.rows_k(), diagonal = keys - rows;
    std::vector<unsigned char> visible(static_cast<std::size_t>(rows * keys));
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < keys; ++j)
        visible[static_cast<std::size_t>(i * keys + j)] =
            j <= i + diagonal + *call.spec().mask.right && (!call.spec().mask.left || j >= i + diagonal - *call.spec().mask.left);
    call.mutable_args().mask = contiguous_view<const void*, 4>(visible.data(), DType::boolean, {1, 1, rows, keys});
    AttentionOptions o = call.options(run.method, run.row->name);
    o.mask = {};
    ASSERT_EQ(call.run(o), "") << run.what;
    EXPECT_TRUE(same_bits(call.out(), band.out) && same_bits(call.lse(), band.lse)) << run.what;
    call.mutable_args().mask = {};
  });
}

/// An empty row is exactly 0 and -inf, whatever emptied it.
TEST(Properties, EmptyRows) {
  auto shape = [](CallSpec& s) {
    if (s.seed % 3 == 0) s.mask = Mask::window(-5, 2);
    if (s.seed % 3 == 1) s.mask.diagonal = -(std::int64_t{1} << 58), s.mask.right = 0;
    if (s.seed % 3 == 2) s.lens_q.clear(), s.lens_k.assign(static_cast<std::size_t>(s.batch), 0);
    if (s.packed()) s.dense = DenseKind::none;
  };
  for_each(118, shape, [](const Runner& run, TestCall& call) {
    const Results r = run(call);
    for (std::int64_t b = 0; b < call.sequences(); ++b)
      for (std::int64_t h = 0; h < call.spec().heads_q; ++h)
        for (std::int64_t i = 0; i < call.span(b).q_len; ++i) {
          if (oracle_row(call.args(), call.options(run.method), b, h, i).visible != 0) continue;
          ASSERT_EQ(read_lse(call.args(), b, h, i), -INFINITY) << run.what;
          for (std::int64_t c = 0; c < call.spec().head_dim_v; ++c) ASSERT_EQ(read_out(call.args(), b, h, i, c), 0.0f) << run.what;
        }
  });
}

/// Asking for lse, or for another type of out, changes nothing else.
TEST(Properties, OutputsDoNotInfluenceEachOther) {
  for_each(119, {}, [](const Runner& run, TestCall& call) {
    const Results base = run(call);
    CallSpec spec = call.spec();
    spec.lse = false;
    TestCall silent(spec);
    EXPECT_TRUE(same_bits(run(silent).out, base.out)) << run.what;
    spec.out_dtype = spec.dtype;
    TestCall narrow(spec);
    const auto rounded = run(narrow).out;
    for (std::size_t i = 0; i < rounded.size(); ++i) {
      const double step = spec.dtype == DType::f32 ? 0 : std::fabs(base.out[i]) * (spec.dtype == DType::f16 ? 0x1p-11 : 0x1p-8) + 0x1p-25;
      ASSERT_LE(std::fabs(rounded[i] - base.out[i]), step) << run.what;
    }
  });
}

}  // namespace
}  // namespace chitu::test
