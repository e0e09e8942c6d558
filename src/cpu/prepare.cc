#include "cpu/prepare.h"

#include <algorithm>

namespace chitu::cpu {

std::int64_t quantize_scratch_bytes(const TileLayout& l) { return std::int64_t{2} * kTile * 4 * std::max(l.dk, l.dv); }

void prepare_chitu_int8(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch) {
  const IsaTable& isa = isa_table();
  const std::int64_t heads = p.num_heads_kv;
  parallel_run(p.batch * heads, scratch.slots(), [&](std::int64_t i, int) {
    const std::int64_t b = i / heads, h = i % heads;
    isa.channel_weights(work.v_rows(b, h), work.sequence(b).range.k_len, view.layout.head_dim_v, view.layout.dv, view.weights(view.channel, b, h),
                        view.weights(view.channel_inv, b, h));
  });
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
    a.channel = view.weights(view.channel, t.sequence, h);
    a.channel_inv = view.weights(view.channel_inv, t.sequence, h);
    a.sign = rotation_signs();
    a.k_quant = KQuant::tile_groups;
    a.v_c3 = true;
    a.flag_ratio = p.scheme.flag_ratio;
    isa.quantize_tile(a, t.index, scratch[slot]);
  });
}

}  // namespace chitu::cpu
