// The row for decoding steps: which rows share a block, and where the keys come from, changes no bit.

#include <gtest/gtest.h>

#include "gpu_call.h"

namespace chitu::test {
namespace {

constexpr const char* kRow = "sm80_decode_int8_i8";

/// 3 queries of 6 heads on 2 KV heads: 9 rows of a fragment of 16.
CallSpec few_rows(std::int64_t dim, std::int64_t keys) {
  CallSpec s;
  s.batch = 2, s.seqlen_q = 3, s.seqlen_k = keys, s.heads_q = 6, s.heads_kv = 2, s.head_dim = s.head_dim_v = dim;
  return s;
}

/// Head `head` of batch b, rows [first, first + count), of a contiguous [batch, rows, heads, dim] tensor.
std::vector<float> part(const std::vector<float>& x, std::int64_t rows, std::int64_t heads, std::int64_t dim, std::int64_t b, std::int64_t head,
                        std::int64_t first, std::int64_t count) {
  std::vector<float> y;
  for (std::int64_t i = first; i < first + count; ++i) {
    const auto from = x.begin() + ((b * rows + i) * heads + head) * dim;
    y.insert(y.end(), from, from + dim);
  }
  return y;
}

void check_rows_alone(const CallSpec& s) {
  TestCall host(s);
  GpuCall gpu(host);
  ASSERT_EQ(gpu.run(host.options(Method::chitu_int8, kRow)), "") << s.text();
  const auto out = host.out(), lse = host.lse();
  gpu.run_reference(host.options(Method::chitu_int8, kRow));
  EXPECT_LE(difference(out, host.out()).nrmse, 2e-3) << s.text();
  EXPECT_LE(largest_difference(lse, host.lse()), 1e-4) << s.text();
  const std::int64_t group = s.heads_q / s.heads_kv;
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t h = 0; h < s.heads_q; ++h)
      for (std::int64_t i = 0; i < s.seqlen_q; ++i) {
        CallSpec one = s;
        one.batch = one.heads_q = one.heads_kv = one.seqlen_q = 1;
        one.mask.diagonal = i + *s.mask.diagonal;
        TestCall single(one);
        single.set_q(part(host.q(), s.seqlen_q, s.heads_q, s.head_dim, b, h, i, 1));
        single.set_k(part(host.k(), s.seqlen_k, s.heads_kv, s.head_dim, b, h / group, 0, s.seqlen_k));
        single.set_v(part(host.v(), s.seqlen_k, s.heads_kv, s.head_dim_v, b, h / group, 0, s.seqlen_k));
        GpuCall alone(single);
        ASSERT_EQ(alone.run(single.options(Method::chitu_int8, kRow)), "") << one.text();
        EXPECT_TRUE(same_bits(part(out, s.seqlen_q, s.heads_q, s.head_dim_v, b, h, i, 1), single.out())) << s.text() << ": " << b << " " << h << " " << i;
        EXPECT_TRUE(same_bits({lse[static_cast<std::size_t>((b * s.heads_q + h) * s.seqlen_q + i)]}, single.lse())) << s.text();
      }
}

TEST(CudaDecode, ARowHasTheSameBitsAlone) {
  CHITU_NEED_GPU();
  CallSpec s = few_rows(64, 1700);
  s.mask.diagonal = 0;
  check_rows_alone(s);
  s.mask.left = 500, s.mask.right = 900, s.mask.diagonal = 640;  // first and last tile differ among the rows
  s.input_set = "17-weak";
  check_rows_alone(s);
}

TEST(CudaDecode, KeysFromACacheGiveTheSameBits) {
  CHITU_NEED_GPU();
  for (DType dtype : {DType::f16, DType::f32})
    for (std::int64_t dim : {64, 80, 256}) {
      CallSpec s = few_rows(dim, 1100);
      s.dtype = dtype;
      s.lens_k = {1100, 257};
      TestCall host(s);
      GpuCall gpu(host);
      const AttentionOptions o = host.options(Method::chitu_int8, kRow);
      ASSERT_EQ(gpu.run(o), "");
      const auto out = host.out(), lse = host.lse();
      AttentionArgs a = gpu.args();
      const QuantizeOptions q{Method::chitu_int8, a.sequences.seqlens_k};
      DeviceBuffer blob(quantized_kv_bytes(a.k, a.v, q)), scratch(quantize_kv_workspace_bytes(a.k, a.v, q));
      const QuantizedKV kv = quantize_kv(a.k, a.v, q, blob.data(), scratch.data());
      a.k = a.v = {};
      a.kv = &kv;
      const Plan p = plan(a, o);
      EXPECT_EQ(p.kernel(), kRow);
      DeviceBuffer workspace(p.workspace_bytes());
      workspace.fill(0xFF);
      chitu::run(p, a, workspace.data());
      CUDA_OK(cudaDeviceSynchronize());
      EXPECT_TRUE(blob.intact() && workspace.intact());
      gpu.download_results();
      EXPECT_TRUE(same_bits(out, host.out()) && same_bits(lse, host.lse())) << s.text();
    }
}

/// What it does not take is refused by a sentence that says it.
TEST(CudaDecode, RefusesWithASentence) {
  CHITU_NEED_GPU();
  const auto refusal = [](const CallSpec& s, Method m) -> std::string {
    TestCall host(s);
    GpuCall gpu(host);
    try {
      plan(gpu.args(), host.options(m, kRow));
    } catch (const Unsupported& e) {
      const std::string text = e.what(), mark = std::string(kRow) + " (" + std::string(method_name(m)) + "): ";
      const std::size_t at = text.find(mark);
      return at == std::string::npos ? text : text.substr(at + mark.size(), text.find('\n', at) - at - mark.size());
    }
    return "served";
  };
  CallSpec s = few_rows(64, 300);
  EXPECT_EQ(refusal(s, Method::chitu_int8), "served");
  EXPECT_EQ(refusal(s, Method::int_flash), "computes method chitu_int8 only");
  CallSpec many = s, dense = s, packed = s;
  many.seqlen_q = 17;
  EXPECT_EQ(refusal(many, Method::chitu_int8), "takes up to 16 query rows per head, a decoding step, not 17");
  dense.dense = DenseKind::boolean;
  EXPECT_EQ(refusal(dense, Method::chitu_int8), "does not take a dense mask");
  packed.batch = 1, packed.lens_q = {1, 2}, packed.lens_k = {100, 200};
  EXPECT_EQ(refusal(packed, Method::chitu_int8), "does not take packed sequences (cu_seqlens)");
}

}  // namespace
}  // namespace chitu::test
