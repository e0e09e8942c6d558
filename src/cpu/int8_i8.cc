#include <algorithm>

#include "chitu/error.h"
#include "core/check.h"
#include "cpu/prepare.h"
#include "cpu/rows.h"

namespace chitu::cpu::int8_i8 {

core::Scheme executes(const core::Problem& p) {
  core::Scheme s = core::default_scheme(p.scheme.method, p.dtype);
  if (s.method == Method::chitu_int8) s.exponential = core::Exponential::lut16;
  return s;
}

std::string why_not(const core::Problem& p) {
  if (p.scheme.method != Method::chitu_int8) return core::concat("computes chitu_int8, not ", method_name(p.scheme.method));
  return {};
}

void run(const core::Call& call, core::Workspace& ws) {
  const core::Problem& p = call.problem;
  const IsaTable& isa = isa_table();
  Work work(call, ws, isa.rows_per_item);
  QuantizedView view;
  view.layout = tile_layout(p.head_dim, p.head_dim_v);
  const std::int64_t weights = p.batch * p.num_heads_kv * view.layout.dv;
  if (!p.quantized_kv) {
    view.heads = p.num_heads_kv;
    view.tiles_per_head = p.packed ? work.max_tiles() : tiles_of(p.seqlen_k);
    view.packed = p.packed;
    view.tiles = ws.take<unsigned char>(work.max_tiles() * p.num_heads_kv * view.layout.bytes);
    view.channel = ws.take<float>(weights);
    view.channel_inv = ws.take<float>(weights);
  }
  const ThreadScratch scratch(ws, std::max(isa.lut_scratch_bytes(view.layout.dk, view.layout.dv), p.quantized_kv ? 0 : quantize_scratch_bytes(view.layout)));
  if (ws.measuring()) return;
  work.fill();
  const std::int64_t* lengths = nullptr;
  if (p.quantized_kv) {
    view = view_of_blob(call.args.kv->data, check_blob(*call.args.kv, p));
    lengths = reinterpret_cast<const std::int64_t*>(static_cast<const unsigned char*>(call.args.kv->data) + 256);
  } else {
    prepare_chitu_int8(p, work, view, scratch);
  }
  parallel_run(work.items(), scratch.slots(), [&](std::int64_t i, int slot) {
    const Work::Item item = work.item(i);
    AttendArgs a = work.attend_args(item);
    if (lengths != nullptr) a.seqlen_k = std::min(a.seqlen_k, lengths[item.sequence]);  // keys beyond were never quantized
    a.layout = view.layout;
    a.tiles = view.tiles_of_head(item.sequence, item.head, work.sequence(item.sequence).first_tile);
    a.channel = view.weights(view.channel, item.sequence, item.head);
    a.sign = rotation_signs();
    a.k_quant = KQuant::tile_groups;
    isa.attend_lut(a, item.index, scratch[slot]);
  });
}

}  // namespace chitu::cpu::int8_i8
