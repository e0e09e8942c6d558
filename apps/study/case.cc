#include "case.h"

#include <cmath>
#include <cstdio>

namespace chitu::study {

Case::Case(Head head, std::int64_t rows, std::uint64_t seed) : head_(std::move(head)) {
  q16_ = eval::encode(head_.q, DType::f16);
  k16_ = eval::encode(head_.k, DType::f16);
  v16_ = eval::encode(head_.v, DType::f16);
  const auto sample = eval::sample_rows(1, 1, head_.seqlen_q, rows, seed);
  for (const auto& r : sample) rows_.push_back(r.row);
  AttentionArgs args;
  args.q = contiguous_view<const void*, 4>(q16_.data(), DType::f16, {1, head_.seqlen_q, 1, head_.head_dim});
  args.k = contiguous_view<const void*, 4>(k16_.data(), DType::f16, {1, head_.seqlen_k, 1, head_.head_dim});
  args.v = contiguous_view<const void*, 4>(v16_.data(), DType::f16, {1, head_.seqlen_k, 1, head_.head_dim});
  exact_ = eval::exact64(args, head_.causal ? Mask::causal() : Mask{}, {}, sample, 1);
}

core::Band Case::band() const {
  core::MaskParams mask;
  if (head_.causal) mask.right = 0;
  return core::Band(mask, head_.seqlen_q, head_.seqlen_k);
}
float Case::scale() const { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_.head_dim))); }

Case::Result Case::run(const core::Scheme& s) {
  auto view = [&](const std::vector<unsigned char>& x, std::int64_t rows) { return ref::HeadView{x.data(), DType::f16, head_.head_dim, rows, head_.head_dim}; };
  char key[160];
  std::snprintf(key, sizeof key, "%d %d %d %lld %d %d %d %lld", s.rotate, s.k_weights, static_cast<int>(s.k_center), static_cast<long long>(s.k_grain.block),
                s.k_grain.groups, s.q_grain.quantized(), s.smooth_q, s.k_center == core::Center::tile_mean ? static_cast<long long>(s.tile_n) : 0);
  auto at = keys_.find(key);
  if (at == keys_.end()) at = keys_.emplace(key, ref::quantize_keys(s, view(k16_, head_.seqlen_k))).first;
  const ref::Values values = ref::quantize_values(s, view(v16_, head_.seqlen_k));
  std::vector<float> out(rows_.size() * static_cast<std::size_t>(head_.head_dim)), lse(rows_.size());
  ref::attend({s, scale(), band(), {}}, view(q16_, head_.seqlen_q), at->second, values, rows_, out.data(), lse.data());
  Result r = judge(out, lse);
  for (std::uint8_t f : values.flagged) r.flagged += f / static_cast<double>(values.flagged.size());
  return r;
}

Case::Result Case::judge(const std::vector<float>& out, const std::vector<float>& lse) const {
  return {eval::compare(out, exact_.out, head_.head_dim, lse, exact_.lse), 0};
}

void print(const Record& r, const Case::Result& x) {
  const eval::Metrics& m = x.metrics;
  std::printf(
      "{\"part\":\"%s\",\"set\":\"%s\",\"variant\":\"%s\",\"head_dim\":%lld,\"seqlen\":%lld,\"causal\":%d,\"seed\":%llu,"
      "\"nrmse\":%.6g,\"worst_row\":%.6g,\"cos\":%.9g,\"rel_l1\":%.6g,\"lse_max\":%.6g,\"flagged\":%.4g,\"clean\":%d}\n",
      r.part.c_str(), r.set.c_str(), r.variant.c_str(), static_cast<long long>(r.head_dim), static_cast<long long>(r.seqlen), r.causal,
      static_cast<unsigned long long>(r.seed), m.nrmse, m.worst_row, m.cos_sim, m.rel_l1, m.lse_max, x.flagged, m.clean());
  std::fflush(stdout);
}

}  // namespace chitu::study
