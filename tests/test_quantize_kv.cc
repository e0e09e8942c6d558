// Pre-quantized K and V: the same bits as quantizing in the call, whatever the call looks like; blobs that are not what they say are refused.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <thread>

#include "common/bad_call.h"
#include "common/effort.h"
#include "common/random_spec.h"
#include "common/rows.h"

namespace chitu::test {
namespace {

constexpr Device kCuda{DeviceType::cuda, 99};

struct Cache {
  GuardedBuffer blob, workspace;
  QuantizedKV kv;
  /// Empty text, or why the library has no cache for this method.
  std::string make(const TestCall& call, Method method, std::uint8_t poison) {
    QuantizeOptions o;
    o.method = method;
    o.seqlens_k = call.args().sequences.seqlens_k;
    try {
      blob = GuardedBuffer(quantized_kv_bytes(call.args().k, call.args().v, o));
      workspace = GuardedBuffer(quantize_kv_workspace_bytes(call.args().k, call.args().v, o));
    } catch (const Unsupported& e) {
      return e.what();
    }
    blob.fill(poison);
    workspace.fill(poison);
    kv = quantize_kv(call.args().k, call.args().v, o, blob.data(), workspace.data());
    EXPECT_TRUE(blob.intact() && workspace.intact()) << call.spec().text();
    EXPECT_EQ(kv.data, blob.data());
    EXPECT_EQ(kv.bytes, blob.size());
    return {};
  }
};

AttentionArgs with_cache(const TestCall& call, const QuantizedKV& kv) {
  AttentionArgs args = call.args();
  args.k = args.v = {};
  args.kv = &kv;
  return args;
}

TEST(QuantizeKv, DecodingFromTheCacheIsTheOneCallBitForBit) {
  int compared = 0, refused = 0;
  for (int n = 0; n < effort(150); ++n) {
    CallSpec spec = random_spec(77, static_cast<std::uint64_t>(n));
    if (spec.packed()) spec.lens_q.clear(), spec.lens_k.clear();
    if (n % 3 == 0) spec.seqlen_q = 1;
    TestCall call(spec);
    for (Method m : list_methods()) {
      if (m == Method::exact) continue;
      Cache cache;
      const std::string why = cache.make(call, m, 0xFF);
      if (!why.empty()) {
        ++refused;
        EXPECT_EQ(why.rfind("quantize_kv: ", 0), 0u) << why;
        continue;
      }
      const AttentionArgs args = with_cache(call, cache.kv);
      const Plan from_cache = plan(args, call.options(Method::automatic));
      EXPECT_EQ(from_cache.method(), m);
      GuardedBuffer workspace(from_cache.workspace_bytes());
      workspace.fill(0xFF);
      run(from_cache, args, workspace.data());
      EXPECT_TRUE(workspace.intact());
      const Results cached{call.out(), call.lse()};
      ASSERT_EQ(call.run(call.options(m, std::string(from_cache.kernel()))), "");
      ASSERT_TRUE(same_bits(cached.out, call.out())) << method_name(m) << ", " << spec.text();
      ASSERT_TRUE(same_bits(cached.lse, call.lse())) << method_name(m) << ", " << spec.text();
      ++compared;
    }
  }
  EXPECT_GE(compared, effort(150)) << "at least chitu_int8 has a cache";
  std::printf("%d compared, %d without a cache\n", compared, refused);
}

TEST(QuantizeKv, TheBlobIsAFunctionOfItsInputs) {
  for (int n = 0; n < 10; ++n) {
    CallSpec spec = random_spec(78, static_cast<std::uint64_t>(n));
    if (spec.packed()) spec.lens_q.clear(), spec.lens_k.clear();
    TestCall call(spec);
    Cache a, b;
    ASSERT_EQ(a.make(call, Method::chitu_int8, 0xFF), "");
    ASSERT_EQ(b.make(call, Method::chitu_int8, 0x11), "");
    // it may be sent, stored and compared: no byte of it may come from what was there before
    EXPECT_EQ(a.blob.copy(), b.blob.copy()) << spec.text();
  }
}

TEST(QuantizeKv, TheLengthsAreInTheBlob) {
  CallSpec spec;
  spec.batch = 3, spec.seqlen_q = 5, spec.seqlen_k = 300, spec.head_dim = spec.head_dim_v = 64, spec.lens_k = {300, 0, 130};
  TestCall call(spec);
  Cache cache;
  ASSERT_EQ(cache.make(call, Method::chitu_int8, 0xFF), "");
  AttentionArgs args = with_cache(call, cache.kv);
  attention(args);
  const Results with{call.out(), call.lse()};
  args.sequences.seqlens_k = nullptr;
  attention(args);
  EXPECT_TRUE(same_bits(call.out(), with.out) && same_bits(call.lse(), with.lse)) << "keys beyond the lengths were never quantized";
}

TEST(QuantizeKv, ABlobThatIsNotWhatItSaysIsRefused) {
  CallSpec spec;
  spec.batch = 2, spec.seqlen_q = 3, spec.seqlen_k = 200, spec.heads_q = 4, spec.heads_kv = 2, spec.head_dim = spec.head_dim_v = 64;
  TestCall call(spec);
  Cache cache;
  ASSERT_EQ(cache.make(call, Method::chitu_int8, 0), "");
  const std::pair<const char*, std::function<void(QuantizedKV&)>> changes[] = {
      {"seqlen", [](QuantizedKV& kv) { kv.seqlen = 100; }},    {"longer", [](QuantizedKV& kv) { kv.seqlen = 5000; }},
      {"heads", [](QuantizedKV& kv) { kv.num_heads_kv = 1; }}, {"more heads", [](QuantizedKV& kv) { kv.num_heads_kv = 4; }},
      {"bytes", [](QuantizedKV& kv) { kv.bytes -= 1; }},       {"too few bytes for a header", [](QuantizedKV& kv) { kv.bytes = 16; }},
  };
  for (const auto& [what, change] : changes) {
    QuantizedKV kv = cache.kv;
    change(kv);
    const AttentionArgs args = with_cache(call, kv);
    const std::string got = refusal([&] { attention(args); });
    EXPECT_EQ(got.rfind("InvalidArgument: kv", 0), 0u) << what << ": " << got;
  }
  for (std::size_t at = 0; at < 8; ++at) {  // the magic
    GuardedBuffer copy(cache.blob.size());
    std::memcpy(copy.data(), cache.blob.data(), copy.size());
    copy.data()[at] ^= 0x40;
    QuantizedKV kv = cache.kv;
    kv.data = copy.data();
    const AttentionArgs args = with_cache(call, kv);
    EXPECT_EQ(refusal([&] { attention(args); }).rfind("InvalidArgument: kv", 0), 0u) << at;
  }
  for (const std::int64_t length : {std::int64_t{-1}, std::int64_t{201}, std::int64_t{1} << 40}) {  // behind the header: int64 per sequence
    GuardedBuffer copy(cache.blob.size());
    std::memcpy(copy.data(), cache.blob.data(), copy.size());
    std::memcpy(copy.data() + 256 + 8, &length, sizeof length);
    QuantizedKV kv = cache.kv;
    kv.data = copy.data();
    const AttentionArgs args = with_cache(call, kv);
    EXPECT_EQ(refusal([&] { attention(args); }), "InvalidArgument: kv.data: want lengths of 0..200 in the blob, got " + std::to_string(length) + " at 1");
  }
}

TEST(QuantizeKv, OneCacheServesManyThreads) {
  CallSpec spec;
  spec.seqlen_q = 4, spec.seqlen_k = 500, spec.heads_q = 4, spec.heads_kv = 2, spec.head_dim = spec.head_dim_v = 64;
  TestCall call(spec);
  Cache cache;
  ASSERT_EQ(cache.make(call, Method::chitu_int8, 0), "");
  AttentionArgs args = with_cache(call, cache.kv);
  attention(args);
  const auto want = call.out();
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> results(4, std::vector<float>(want.size()));
  for (auto& result : results) {
    threads.emplace_back([&result, args]() mutable {
      args.out = contiguous_view<void*, 4>(result.data(), DType::f32, args.out.shape);
      args.lse = {};
      for (int round = 0; round < 20; ++round) attention(args);
    });
  }
  for (auto& t : threads) t.join();
  for (const auto& result : results) EXPECT_TRUE(same_bits(result, want));
}

TEST(QuantizeKv, BadCallsNameTheirArgument) {
  struct Operands {
    ValidCall call{Kind::dense};
    QuantizeOptions options;
    std::vector<std::int32_t> lengths{3, 7};
    std::vector<char> memory = std::vector<char>(1 << 16);
    char* blob = memory.data() + (256 - reinterpret_cast<std::uintptr_t>(memory.data()) % 256);
    char* workspace = blob + (1 << 15);
    ConstTensorView k = call.args.k, v = call.args.v;
  };
  const std::tuple<const char*, std::function<void(Operands&)>, const char*> calls[] = {
      {"k null", [](Operands& o) { o.k.data = nullptr; }, "k.data"},
      {"v null", [](Operands& o) { o.v.data = nullptr; }, "v.data"},
      {"v dtype", [](Operands& o) { o.v.dtype = DType::bf16; }, "v.dtype"},
      {"k boolean", [](Operands& o) { o.k.dtype = DType::boolean; }, "k.dtype"},
      {"v seqlen", [](Operands& o) { o.v.shape[1] = 6; }, "v.shape"},
      {"v batch", [](Operands& o) { o.v.shape[0] = 1; }, "v.shape"},
      {"v heads", [](Operands& o) { o.v.shape[2] = 1; }, "v.shape"},
      {"k head_dim 0", [](Operands& o) { o.k.shape[3] = 0; }, "k.shape[3]"},
      {"v head_dim 257", [](Operands& o) { o.v.shape[3] = 257; }, "v.shape[3]"},
      {"v elsewhere", [](Operands& o) { o.v.device = kCuda; }, "v.device"},
      {"k strided", [](Operands& o) { o.k.stride[3] = 3; }, "k.stride[3]"},
      {"method automatic", [](Operands& o) { o.options.method = Method::automatic; }, "method"},
      {"method exact", [](Operands& o) { o.options.method = Method::exact; }, "method"},
      {"method unknown", [](Operands& o) { o.options.method = static_cast<Method>(40); }, "method"},
      {"length negative", [](Operands& o) { o.lengths[0] = -1, o.options.seqlens_k = o.lengths.data(); }, "seqlens_k[0]"},
      {"length beyond", [](Operands& o) { o.lengths[1] = 8, o.options.seqlens_k = o.lengths.data(); }, "seqlens_k[1]"},
      {"blob null", [](Operands& o) { o.blob = nullptr; }, "blob"},
      {"blob misaligned", [](Operands& o) { o.blob += 128; }, "blob"},
      {"workspace misaligned", [](Operands& o) { o.workspace += 8; }, "workspace"},
  };
  for (const auto& [what, change, begins] : calls) {
    Operands o;
    change(o);
    const std::string got = refusal([&] { quantize_kv(o.k, o.v, o.options, o.blob, o.workspace); });
    EXPECT_EQ(got.rfind(std::string("InvalidArgument: ") + begins, 0), 0u) << what << ": " << got;
  }
}

}  // namespace
}  // namespace chitu::test
