// The pre-pass against the specification, bit for bit: codes, scales, means, flags.

#include <gtest/gtest.h>

#include <cmath>

#include "common/effort.h"
#include "core/codec.h"
#include "core/rotation.h"
#include "core/validate.h"
#include "cuda/attention_call.h"
#include "reference/scheme.h"
#include "row_cases.h"

namespace chitu::test {
namespace {

/// A stretch of device memory on the host.
template <class T>
std::vector<T> fetch(const T* device, std::int64_t n) {
  std::vector<T> x(static_cast<std::size_t>(n));
  if (n > 0) CUDA_OK(cudaMemcpy(x.data(), device, x.size() * sizeof(T), cudaMemcpyDeviceToHost));
  return x;
}

bool same_float(float a, float b) { return core::f32_bits(a) == core::f32_bits(b) || (std::isnan(a) && std::isnan(b)); }

struct Prepared {
  core::Problem problem;
  cuda::Operands operands;
  DeviceBuffer workspace{0};
};

class Comparer {
 public:
  Comparer(TestCall& host, const core::Problem& p, const cuda::Operands& o) : host_(host), p_(p), o_(o) {}

  /// "" or the first difference.
  std::string run() {
    for (std::int64_t b = 0; b < p_.batch && fault_.empty(); ++b) {
      r_ = core::sequence_range(p_, host_.args().sequences, b);
      b_ = b;
      for (head_ = 0; head_ < p_.num_heads_kv && fault_.empty(); ++head_) keys_and_values();
      for (head_ = 0; head_ < p_.num_heads_q && fault_.empty(); ++head_) queries();
    }
    return fault_;
  }

 private:
  template <class A, class B>
  void expect(bool same, const char* what, std::int64_t i, A got, B want) {
    if (same || !fault_.empty()) return;
    std::ostringstream s;
    s << what << "[" << i << "] of sequence " << b_ << ", head " << head_ << ": got " << got << ", want " << want;
    fault_ = s.str();
  }
  void keys_and_values();
  void compare_keys(const ref::Keys& keys, std::int64_t first_tile);
  void compare_int8_values(const ref::Values& values, std::int64_t first_tile);
  void compare_e4m3_tiles(const ref::Values& values, std::int64_t first_tile);
  void compare_half_values(const ref::Values& values);
  void queries();
  /// Keys::weights of the KV head of the query head at hand, after checking the factors made of them.
  std::vector<float> key_weights();

  TestCall& host_;
  const core::Problem& p_;
  const cuda::Operands& o_;
  core::SequenceRange r_{};
  std::int64_t b_ = 0, head_ = 0;
  std::string fault_;
};

void Comparer::keys_and_values() {
  const AttentionArgs& a = host_.args();
  const auto k = ref::quantize_keys(p_.scheme, ref::head_view(a.k, r_.tensor_batch, head_, r_.k_begin, r_.k_len));
  const auto v = ref::quantize_values(p_.scheme, ref::head_view(a.v, r_.tensor_batch, head_, r_.k_begin, r_.k_len));
  const std::int64_t first_tile = (r_.tensor_batch * p_.num_heads_kv + head_) * o_.sequence.tiles_k + o_.sequence.first_tile(r_, b_);
  compare_keys(k, first_tile);
  if (o_.kv.v_scale != nullptr && r_.k_len > 0) {
    const auto scale = fetch(o_.kv.v_scale + (b_ * p_.num_heads_kv + head_) * p_.head_dim_v, p_.head_dim_v);
    for (std::int64_t d = 0; d < p_.head_dim_v; ++d) {
      const float want = v.channel_scale[static_cast<std::size_t>(d)], got = scale[static_cast<std::size_t>(d)];
      expect(same_float(got, want), "channel scale", d, got, want);
    }
  }
  if (o_.kv.v8t != nullptr && p_.scheme.v == core::VFormat::e4m3_channel) {
    compare_e4m3_tiles(v, first_tile);
  } else if (o_.kv.v8t != nullptr) {
    compare_int8_values(v, first_tile);
  } else if (o_.kv.v16 != nullptr) {
    compare_half_values(v);
  }
}

void Comparer::compare_keys(const ref::Keys& keys, std::int64_t first_tile) {
  const std::int64_t dim = cuda::code_dim(p_.head_dim), tiles = cuda::div_up(r_.k_len, 128), block = p_.scheme.k_grain.block;
  const auto codes = fetch(o_.kv.k8 + first_tile * 128 * dim, tiles * 128 * dim);
  for (std::int64_t j = 0; j < tiles * 128; ++j)
    for (std::int64_t d = 0; d < dim; ++d) {
      const bool inside = j < r_.k_len && d < p_.head_dim;
      const int want = inside ? keys.codes[static_cast<std::size_t>(j * p_.head_dim + d)] : 0, got = codes[static_cast<std::size_t>(j * dim + d)];
      expect(got == want, "k code", j * dim + d, got, want);
    }
  const auto scales =
      block == 1 ? fetch(o_.kv.k_scale + first_tile * 128, tiles * 128) : fetch(o_.kv.k_scale + first_tile * (128 / block) * 4, tiles * (128 / block) * 4);
  for (std::int64_t j = 0; j < r_.k_len; ++j) {
    const std::int64_t at = block == 1 ? j : j / block * 4 + j % 8 / 2;
    const float got = scales[static_cast<std::size_t>(at)], want = keys.scales[static_cast<std::size_t>(p_.scheme.k_grain.group(j))];
    expect(same_float(got, want), "k scale of key", j, got, want);
  }
  if (o_.kv.sequence_mean != nullptr && r_.k_len > 0) {
    const auto mean = fetch(o_.kv.sequence_mean + (b_ * p_.num_heads_kv + head_) * p_.head_dim, p_.head_dim);
    for (std::size_t d = 0; d < mean.size(); ++d)
      expect(same_float(mean[d], keys.center[d]), "sequence mean", static_cast<std::int64_t>(d), mean[d], keys.center[d]);
  }
  if (o_.kv.k_mean == nullptr) return;
  const std::int64_t size = static_cast<std::int64_t>(dtype_size(p_.dtype));
  const auto raw = fetch(static_cast<const std::uint8_t*>(o_.kv.k_mean) + first_tile * dim * size, tiles * dim * size);
  for (std::int64_t t = 0; t < tiles; ++t)
    for (std::int64_t d = 0; d < p_.head_dim; ++d) {
      const std::uint8_t* at = raw.data() + (t * dim + d) * size;
      float got = 0;
      std::uint16_t bits = 0;
      std::memcpy(size == 4 ? static_cast<void*>(&got) : &bits, at, static_cast<std::size_t>(size));
      if (size == 2) got = p_.dtype == DType::f16 ? core::f16_to_f32(bits) : core::bf16_to_f32(bits);
      const float want = keys.center[static_cast<std::size_t>(t * p_.head_dim + d)];
      expect(same_float(got, want), "tile mean", t * dim + d, got, want);
    }
}

void Comparer::compare_int8_values(const ref::Values& v, std::int64_t first_tile) {
  const std::int64_t dim = p_.head_dim_v, tiles = cuda::div_up(r_.k_len, 128);
  const auto codes = fetch(o_.kv.v8t + first_tile * dim * 128, tiles * dim * 128);
  for (std::int64_t j = 0; j < tiles * 128; ++j)
    for (std::int64_t d = 0; d < dim; ++d) {
      const std::int64_t in = j % 128, slot = in / 16 * 16 + cuda::value_position(static_cast<int>(in % 16));
      const int got = codes[static_cast<std::size_t>((j / 128 * dim + d) * 128 + slot)], want = j < r_.k_len ? v.code(j, d) : 0;
      expect(got == want, "v code", j * dim + d, got, want);
    }
  if (o_.kv.shift_limit == nullptr) return;
  const auto limits = fetch(o_.kv.shift_limit + first_tile, tiles);
  const auto t = fetch(o_.kv.token_scale + first_tile * 128, tiles * 128);
  const auto mean = fetch(o_.kv.tile_mean + first_tile * dim, tiles * dim);
  for (std::size_t n = 0; n < limits.size(); ++n) {
    expect(same_float(limits[n], v.shift_limit[n]), "shift limit", static_cast<std::int64_t>(n), limits[n], v.shift_limit[n]);
    if (!v.flagged[n]) expect(same_float(t[n * 128], v.tile_scale[n]), "tile scale", static_cast<std::int64_t>(n), t[n * 128], v.tile_scale[n]);
  }
  for (std::size_t j = 0; j < t.size(); ++j)
    if (v.flagged[j / 128]) expect(same_float(t[j], v.token_scale[j]), "token scale", static_cast<std::int64_t>(j), t[j], v.token_scale[j]);
  for (std::size_t i = 0; i < mean.size(); ++i) expect(same_float(mean[i], v.code_mean[i]), "code mean", static_cast<std::int64_t>(i), mean[i], v.code_mean[i]);
}

void Comparer::compare_e4m3_tiles(const ref::Values& v, std::int64_t first_tile) {
  const std::int64_t dim = p_.head_dim_v, tiles = cuda::div_up(r_.k_len, 128);
  const auto codes = fetch(o_.kv.v8t + first_tile * dim * 128, tiles * dim * 128);
  for (std::int64_t j = 0; j < tiles * 128; ++j)
    for (std::int64_t d = 0; d < dim; ++d) {
      const std::int64_t in = j % 128, slot = in / 16 * 16 + cuda::value_position(static_cast<int>(in % 16));
      const float got = core::e4m3_to_f32(static_cast<std::uint8_t>(codes[static_cast<std::size_t>((j / 128 * dim + d) * 128 + slot)]));
      expect(same_float(got, j < r_.k_len ? v.decoded[static_cast<std::size_t>(j * dim + d)] : 0.0f), "v value", j * dim + d, got, 0.0f);
    }
}

void Comparer::compare_half_values(const ref::Values& v) {
  const std::int64_t row = p_.num_heads_kv * cuda::code_dim(p_.head_dim_v), rows = p_.packed ? p_.total_k : p_.seqlen_k;
  const auto values = fetch(o_.kv.v16 + (r_.tensor_batch * rows + r_.k_begin) * row, r_.k_len * row);
  for (std::int64_t j = 0; j < r_.k_len; ++j)
    for (std::int64_t d = 0; d < p_.head_dim_v; ++d) {
      const float got = core::f16_to_f32(values[static_cast<std::size_t>(j * row + head_ * cuda::code_dim(p_.head_dim_v) + d)]);
      const float want = v.decoded[static_cast<std::size_t>(j * p_.head_dim_v + d)];
      expect(same_float(got, want), "v value", j * p_.head_dim_v + d, got, want);
    }
}

std::vector<float> Comparer::key_weights() {
  if (o_.kv.q_factor == nullptr) return {};
  const std::int64_t kv_head = head_ / p_.group(), dim = cuda::code_dim(p_.head_dim);
  const auto weights = ref::quantize_keys(p_.scheme, ref::head_view(host_.args().k, r_.tensor_batch, kv_head, r_.k_begin, r_.k_len)).weights;
  const auto factor = fetch(o_.kv.q_factor + (b_ * p_.num_heads_kv + kv_head) * dim, dim);
  for (std::size_t d = 0; d < weights.size(); ++d) {
    const float want = core::rotation_sign(static_cast<int>(d)) ? -weights[d] : weights[d];
    expect(same_float(factor[d], want), "q factor", static_cast<std::int64_t>(d), factor[d], want);
  }
  return weights;
}

void Comparer::queries() {
  const ref::HeadView view = ref::head_view(host_.args().q, r_.tensor_batch, head_, r_.q_begin, r_.q_len);
  const std::int64_t dim = cuda::code_dim(p_.head_dim), at = (r_.tensor_batch * p_.num_heads_q + head_) * o_.sequence.q_rows + r_.q_begin;
  const auto codes = fetch(o_.q.codes + at * dim, r_.q_len * dim);
  const auto scales = fetch(o_.q.scale + at, r_.q_len);
  const std::vector<float> weights = key_weights();
  for (std::int64_t first = 0; first < r_.q_len; first += 128) {
    const auto q = ref::quantize_queries(p_.scheme, view, p_.softmax_scale < 0, first, weights);
    for (std::int64_t i = 0; i < q.rows; ++i) {
      expect(same_float(scales[static_cast<std::size_t>(first + i)], q.scales[static_cast<std::size_t>(i)]), "q scale", first + i,
             scales[static_cast<std::size_t>(first + i)], q.scales[static_cast<std::size_t>(i)]);
      for (std::int64_t d = 0; d < dim; ++d) {
        const int got = codes[static_cast<std::size_t>((first + i) * dim + d)],
                  want = d < p_.head_dim ? q.codes[static_cast<std::size_t>(i * p_.head_dim + d)] : 0;
        expect(got == want, "q code", (first + i) * dim + d, got, want);
      }
    }
  }
}

std::string check_layout(TestCall& host, const AttentionOptions& options, bool e4m3_tiles) {
  GpuCall gpu(host);
  core::Problem p = core::validate(gpu.args(), options);
  p.caps = cuda::backend().caps(p.device);
  p.scheme = core::resolve_scheme(options.method, p.dtype, options.scheme);
  core::Workspace measure;
  cuda::prepare({p, gpu.args(), nullptr}, measure, e4m3_tiles);
  DeviceBuffer workspace(measure.used());
  workspace.fill(0xFF);
  core::Workspace carve(workspace.data(), workspace.size());
  const cuda::Operands o = cuda::prepare({p, gpu.args(), nullptr}, carve, e4m3_tiles);
  CUDA_OK(cudaDeviceSynchronize());
  if (!workspace.intact()) return "wrote around the workspace";
  core::Problem on_host = p;
  return Comparer(host, on_host, o).run();
}

std::string check(TestCall& host, const AttentionOptions& options) {
  std::string fault = check_layout(host, options, false);
  const bool e4m3 = options.method == Method::chitu_fast || options.method == Method::sage2;
  if (fault.empty() && e4m3) fault = check_layout(host, options, true);
  return fault;
}

class Prepass : public testing::TestWithParam<Method> {};

TEST_P(Prepass, EqualsTheSpecificationBitForBit) {
  CHITU_NEED_GPU();
  int turn = static_cast<int>(GetParam());
  for (DType t : {DType::f16, DType::bf16, DType::f32}) {
    for (std::int64_t d : {64, 128, 256, 32, 96, 80, 200, 36, 33, 7, 1}) {
      for (const char* set : {"1", "3", "5", "6", "9", "11"}) {
        for (Layout layout : {Layout::bshd, Layout::odd}) {
          CallSpec s;
          s.batch = 2, s.seqlen_q = 150, s.seqlen_k = 300, s.heads_q = 2, s.heads_kv = 1, s.head_dim = d, s.head_dim_v = d == 80 ? 40 : d;
          s.dtype = t;
          s.input_set = set;
          s.layout = layout;
          s.softmax_scale = d == 96 ? -0.1f : 0.1f;
          if (layout == Layout::odd && set[0] != '1') continue;
          if (!chosen(turn++, 10, 0)) continue;
          TestCall host(s);
          EXPECT_EQ(check(host, host.options(GetParam())), "") << s.text();
        }
      }
    }
  }
}

TEST_P(Prepass, SequencesOfTheirOwn) {
  CHITU_NEED_GPU();
  for (DType t : {DType::f16, DType::f32}) {
    CallSpec s;
    s.heads_q = 4, s.heads_kv = 2, s.head_dim = s.head_dim_v = 64;
    s.dtype = t;
    s.lens_q = {3, 130, 0, 64, 1};
    s.lens_k = {200, 1, 77, 0, 129};
    TestCall packed(s);
    EXPECT_EQ(check(packed, packed.options(GetParam())), "");
    s.lens_q.clear();
    s.batch = 3, s.seqlen_q = 20, s.seqlen_k = 400;
    s.lens_k = {400, 0, 131};
    TestCall padded(s);
    EXPECT_EQ(check(padded, padded.options(GetParam())), "");
  }
}

/// So many tiles that a block of quantize_rows looks them up more than once, some of them of no rows.
TEST_P(Prepass, MoreTilesThanABlockListsAtOnce) {
  CHITU_NEED_GPU();
  CallSpec s;
  s.batch = cuda::backend().caps({DeviceType::cuda, 0}).sm_count + 3;
  s.seqlen_q = s.seqlen_k = 2, s.heads_q = s.heads_kv = 64, s.head_dim = s.head_dim_v = 128;  // for each SM 64 of K, then 64 of Q
  for (std::int64_t b = 0; b < s.batch; ++b) s.lens_k.push_back(2 - b % 3);
  TestCall host(s);
  EXPECT_EQ(check(host, host.options(GetParam())), "");
}

/// Values that overflow, vanish, or are not numbers.
TEST_P(Prepass, HostileValues) {
  CHITU_NEED_GPU();
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (float factor : {0.0f, 1e-38f, 1e-30f, 1e-20f, 1e5f, 1e18f, 1e37f, inf, nan}) {
    for (bool all : {false, true}) {
      for (std::int64_t keys : {400, 100}) {  // of 100 every token is a sample of V
        CallSpec s;
        s.seqlen_q = 40, s.seqlen_k = keys, s.head_dim = s.head_dim_v = 64;
        s.dtype = DType::f32;
        TestCall host(s);
        auto spoil = [&](std::vector<float> x) {
          for (std::size_t i = 0; i < x.size(); ++i)
            if (all ? std::isfinite(factor) : i % 1543 == 5) x[i] *= factor;
          return x;
        };
        host.set_q(spoil(host.q()));
        host.set_k(spoil(host.k()));
        host.set_v(spoil(host.v()));
        EXPECT_EQ(check(host, host.options(GetParam())), "") << factor << (all ? " everywhere" : " in places") << ", " << keys << " keys";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, Prepass,
                         testing::Values(Method::chitu, Method::chitu_int8, Method::chitu_fast, Method::sage1, Method::sage2, Method::int_flash,
                                         Method::int_flash_half),
                         [](const auto& p) { return std::string(method_name(p.param)); });

TEST(PrepassGrains, EveryDeparture) {
  CHITU_NEED_GPU();
  for (const AttentionOptions& departure : departures()) {
    CallSpec s;
    s.batch = 2, s.seqlen_q = 300, s.seqlen_k = 290, s.heads_q = 2, s.head_dim = s.head_dim_v = 128;
    TestCall host(s);
    AttentionOptions o = host.options(departure.method);
    o.scheme = departure.scheme;
    EXPECT_EQ(check(host, o), "") << departure_text(departure);
  }
}

}  // namespace
}  // namespace chitu::test
