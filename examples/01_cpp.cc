// Attention on ordinary float arrays: 8-bit inside, compared with the exact result.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "chitu/chitu.h"

int main() {
  const std::int64_t batch = 1, seqlen = 600, heads = 4, head_dim = 64;
  const std::array<std::int64_t, 4> shape = {batch, seqlen, heads, head_dim};
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  auto tensor = [&] {
    std::vector<float> x(static_cast<std::size_t>(batch * seqlen * heads * head_dim));
    for (float& value : x) value = normal(random);
    return x;
  };
  const std::vector<float> q = tensor(), k = tensor(), v = tensor();
  std::vector<float> out(q.size()), exact(q.size()), lse(static_cast<std::size_t>(batch * heads * seqlen));

  chitu::AttentionArgs args;
  args.q = chitu::contiguous_view<const void*, 4>(q.data(), chitu::DType::f32, shape);
  args.k = chitu::contiguous_view<const void*, 4>(k.data(), chitu::DType::f32, shape);
  args.v = chitu::contiguous_view<const void*, 4>(v.data(), chitu::DType::f32, shape);
  args.out = chitu::contiguous_view<void*, 4>(out.data(), chitu::DType::f32, shape);
  args.lse = chitu::contiguous_view<float*, 3>(lse.data(), chitu::DType::f32, {batch, heads, seqlen});

  chitu::AttentionOptions options;
  options.mask = chitu::Mask::causal();
  options.method = chitu::Method::chitu_int8;
  std::printf("%s\n", chitu::plan(args, options).describe().c_str());
  chitu::attention(args, options);

  options.method = chitu::Method::exact;
  args.out.data = exact.data();
  chitu::attention(args, options);

  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    difference += std::pow(out[i] - exact[i], 2);
    norm += std::pow(exact[i], 2);
  }
  const double relative = std::sqrt(difference / norm);
  std::printf("relative difference to exact attention: %.2f %%\n", 100 * relative);
  return relative > 0 && relative < 0.017 * 1.5 ? 0 : 1;  // 1.7 % is what docs/methods.md promises on N(0, 1)
}
