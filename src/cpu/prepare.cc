#include "cpu/prepare.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/codec.h"
#include "core/key_weights.h"
#include "core/rotation.h"

namespace chitu::cpu {
namespace {

/// fn(sequence, head, slot) for every KV head of every sequence.
template <class Fn>
void for_heads(const core::Problem& p, const ThreadScratch& scratch, const Fn& fn) {
  const std::int64_t heads = p.num_heads_kv;
  parallel_run(p.batch * heads, scratch.slots(), [&](std::int64_t i, int slot) { fn(i / heads, i % heads, slot); });
}

}  // namespace

std::int64_t quantize_scratch_bytes(const TileLayout& l) { return std::int64_t{2} * kTile * 4 * std::max({l.dk, l.dv, 16}); }

void channel_weights(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch) {
  for_heads(p, scratch, [&](std::int64_t b, std::int64_t h, int) {
    isa_table().channel_weights(work.v_rows(b, h), work.sequence(b).range.k_len, view.layout.head_dim_v, static_cast<int>(view.channels),
                                view.factors(view.channel, b, h), view.factors(view.channel_inv, b, h));
  });
}

void tensor_scales(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch) {
  for_heads(p, scratch, [&](std::int64_t b, std::int64_t h, int) {
    const std::int32_t bits = isa_table().absmax_rows(work.v_rows(b, h), 0, work.sequence(b).range.k_len, 1, view.layout.head_dim_v);
    const core::GroupScale s = core::group_scale(core::bits_f32(static_cast<std::uint32_t>(bits)), 127.0f);
    std::fill_n(view.factors(view.channel, b, h), view.channels, s.scale);
    std::fill_n(view.factors(view.channel_inv, b, h), view.channels, s.inv);
  });
}

void f16_ranges(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch) {
  for_heads(p, scratch, [&](std::int64_t b, std::int64_t h, int) {
    std::array<std::int32_t, 256> bits{};
    isa_table().absmax_channels(work.v_rows(b, h), 0, work.sequence(b).range.k_len, view.layout.head_dim_v, bits.data());
    float *up = view.factors(view.channel, b, h), *down = view.factors(view.channel_inv, b, h);
    for (std::int64_t d = 0; d < view.channels; ++d) {
      up[d] = 1.0f;
      const float a = d < view.layout.head_dim_v ? core::bits_f32(static_cast<std::uint32_t>(bits[static_cast<std::size_t>(d)])) : 0.0f;
      if (core::is_finite(a)) {
        for (float x = a; x > 65504.0f; x *= 0.5f) up[d] *= 2.0f;
      }
      down[d] = 1.0f / up[d];
    }
  });
}

void key_factors(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch) {
  const int dim = view.layout.head_dim, dk = view.layout.dk;
  for_heads(p, scratch, [&](std::int64_t b, std::int64_t h, int slot) {
    std::array<float, 256> residual{};
    std::array<int, 256> exponent{}, sorted{};
    int n = 0;
    if (p.scheme.k_weights && work.sequence(b).range.k_len >= kTile) isa_table().key_residuals(work.k_rows(b, h), dim, dk, residual.data(), scratch[slot]);
    for (std::size_t d = 0; d < static_cast<std::size_t>(dim); ++d) {
      exponent[d] = core::key_exponent(residual[d]);
      if (exponent[d] != core::kNoExponent) sorted[static_cast<std::size_t>(n++)] = exponent[d];
    }
    std::sort(sorted.begin(), sorted.begin() + n);
    const int median = n > 0 ? sorted[static_cast<std::size_t>((n - 1) / 2)] : 0;
    float *q = view.of_keys(view.q_factor, b, h), *k = view.of_keys(view.k_factor, b, h);
    for (int d = 0; d < dk; ++d) {
      const int log2_weight = d < dim ? core::key_weight_log2(exponent[static_cast<std::size_t>(d)], median) : 0;
      const float sign = core::rotation_sign(d) ? -1.0f : 1.0f, weight = static_cast<float>(1 << log2_weight);
      q[d] = sign * weight;
      k[d] = sign / weight;
    }
  });
}

void sequence_means(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch, float* sums) {
  const std::int64_t heads = p.num_heads_kv, tiles = work.tiles();
  const int dk = view.layout.dk;
  parallel_run(tiles * heads, scratch.slots(), [&](std::int64_t i, int slot) {
    const Work::Item t = work.tile(i % tiles);
    const std::int64_t h = i / tiles, first = t.index * kTile;
    const int count = static_cast<int>(std::min<std::int64_t>(kTile, work.sequence(t.sequence).range.k_len - first));
    isa_table().tile_sum(work.k_rows(t.sequence, h), first, count, view.layout.head_dim, dk, sums + i * dk, scratch[slot]);
  });
  // strided sum over the tiles, then a tree over its 32 lanes (docs/methods.md 1)
  for_heads(p, scratch, [&](std::int64_t b, std::int64_t h, int) {
    const Work::Sequence& s = work.sequence(b);
    const float* of_head = sums + (h * tiles + s.first_tile) * dk;
    const std::int64_t n = tiles_of(s.range.k_len);
    const auto factor = static_cast<float>(128.0 / static_cast<double>(s.range.k_len));
    for (int d = 0; d < dk; ++d) {
      std::array<float, 32> lane{};
      for (std::int64_t t = 0; t < n; ++t) lane[static_cast<std::size_t>(t % 32)] += of_head[t * dk + d];
      for (std::size_t stride = 16; stride >= 1; stride /= 2)
        for (std::size_t l = 0; l < stride; ++l) lane[l] += lane[l + stride];
      view.of_keys(view.k_mean, b, h)[d] = n == 0 ? 0.0f : lane[0] * factor;
    }
  });
}

void quantize_tiles(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch) {
  const std::int64_t heads = p.num_heads_kv;
  parallel_run(work.tiles() * heads, scratch.slots(), [&](std::int64_t i, int slot) {
    const Work::Item t = work.tile(i / heads);
    const std::int64_t h = i % heads;
    const Work::Sequence& s = work.sequence(t.sequence);
    QuantizeArgs a{};
    a.k = work.k_rows(t.sequence, h);
    a.v = work.v_rows(t.sequence, h);
    a.seqlen = s.range.k_len;
    a.layout = view.layout;
    a.tiles = view.tiles_of_head(t.sequence, h, s.first_tile);
    a.channel_inv = view.factors(view.channel_inv, t.sequence, h);
    a.k_mean = view.of_keys(view.k_mean, t.sequence, h);
    a.factor = view.of_keys(view.k_factor, t.sequence, h);
    a.k_quant = view.k_quant;
    a.v_c3 = view.v_c3;
    a.flag_ratio = p.scheme.flag_ratio;
    isa_table().quantize_tile(a, t.index, scratch[slot]);
  });
}

void query_blocks(const core::Problem& p, const Work& work, const ThreadScratch& scratch, std::int64_t blocks, std::int32_t* absmax) {
  parallel_run(p.batch * p.num_heads_q * blocks, scratch.slots(), [&](std::int64_t i, int) {
    const std::int64_t block = i % blocks, h = i / blocks % p.num_heads_q, b = i / blocks / p.num_heads_q, first = block * 128;
    const std::int64_t count = std::clamp<std::int64_t>(work.sequence(b).range.q_len - first, 0, 128);
    absmax[i] = isa_table().absmax_rows(work.q_rows(b, h), first, count, 1, static_cast<int>(p.head_dim));
  });
}

}  // namespace chitu::cpu
