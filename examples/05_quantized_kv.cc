// A key-value cache in 8 bits: quantized once, read by many decoding steps, with the same bits as quantizing in every call.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "chitu/chitu.h"

int main() {
  const std::int64_t seqlen = 1000, heads_q = 8, heads_kv = 2, head_dim = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  auto tensor = [&](std::int64_t rows, std::int64_t heads) {
    std::vector<float> x(static_cast<std::size_t>(rows * heads * head_dim));
    for (float& value : x) value = normal(random);
    return x;
  };
  const auto k = tensor(seqlen, heads_kv), v = tensor(seqlen, heads_kv);
  const auto kv_view = [&](const std::vector<float>& x) {
    return chitu::contiguous_view<const void*, 4>(x.data(), chitu::DType::f32, {1, seqlen, heads_kv, head_dim});
  };
  const auto k_view = kv_view(k), v_view = kv_view(v);
  auto allocate = [](std::size_t bytes) { return std::aligned_alloc(256, (bytes + 255) / 256 * 256 + 256); };

  chitu::QuantizeOptions quantize;
  quantize.method = chitu::Method::chitu_int8;
  const std::size_t bytes = chitu::quantized_kv_bytes(k_view, v_view, quantize);
  void* blob = allocate(bytes);
  void* workspace = allocate(chitu::quantize_kv_workspace_bytes(k_view, v_view, quantize));
  const chitu::QuantizedKV kv = chitu::quantize_kv(k_view, v_view, quantize, blob, workspace);
  std::printf("%zu bytes of K and V in f32, %zu in 8 bits\n", 2 * k.size() * sizeof(float), bytes);

  int different = 0;
  for (int step = 0; step < 4; ++step) {
    const auto q = tensor(1, heads_q);
    std::vector<float> from_cache(q.size()), from_tensors(q.size());
    chitu::AttentionArgs args;
    args.q = chitu::contiguous_view<const void*, 4>(q.data(), chitu::DType::f32, {1, 1, heads_q, head_dim});
    args.out = chitu::contiguous_view<void*, 4>(from_cache.data(), chitu::DType::f32, {1, 1, heads_q, head_dim});
    args.kv = &kv;
    chitu::attention(args);  // the method is the cache's

    args.kv = nullptr;
    args.k = k_view;
    args.v = v_view;
    args.out.data = from_tensors.data();
    chitu::AttentionOptions options;
    options.method = chitu::Method::chitu_int8;
    chitu::attention(args, options);
    for (std::size_t i = 0; i < q.size(); ++i) different += from_cache[i] != from_tensors[i];
  }
  std::printf("%d of %lld outputs differ\n", different, static_cast<long long>(4 * heads_q * head_dim));
  std::free(workspace);
  std::free(blob);
  return different == 0 ? 0 : 1;
}
