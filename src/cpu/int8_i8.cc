#include <algorithm>

#include "chitu/error.h"
#include "core/check.h"
#include "cpu/int8_rows.h"
#include "cpu/rows.h"

namespace chitu::cpu::int8_i8 {

core::Scheme executes(const core::Problem& p) {
  core::Scheme s = p.scheme;
  if (s.method == Method::chitu_int8) s.exponential = core::Exponential::lut16;
  s.tile_n = kTile;
  return s;
}

std::string why_not(const core::Problem& p) {
  if (p.scheme.method != Method::chitu_int8 && p.scheme.method != Method::int_flash) {
    return core::concat("computes chitu_int8 and int_flash, not ", method_name(p.scheme.method));
  }
  return scheme_departure(p);
}

namespace {

/// K and V come quantized.
void run_blob(const core::Call& call, core::Workspace& ws) {
  const core::Problem& p = call.problem;
  const IsaTable& isa = isa_table();
  Work work(call, ws, isa.rows_per_item);
  const TileLayout layout = tile_layout(p.head_dim, p.head_dim_v, true);
  const ThreadScratch scratch(ws, isa.lut_scratch_bytes(layout.dk, layout.dv));
  if (ws.measuring()) return;
  work.fill();
  const QuantizedView view = view_of_blob(call.args.kv->data, check_blob(*call.args.kv, p));
  const auto* lengths = reinterpret_cast<const std::int64_t*>(static_cast<const unsigned char*>(call.args.kv->data) + 256);
  parallel_run(work.items(), scratch.slots(), [&](std::int64_t i, int slot) {
    const Work::Item item = work.item(i);
    AttendArgs a = work.attend_args(item);
    a.seqlen_k = std::min(a.seqlen_k, lengths[item.sequence]);  // keys beyond were never quantized
    a.layout = view.layout;
    a.tiles = view.tiles_of_head(item.sequence, item.head, 0);
    a.channel = view.factors(view.channel, item.sequence, item.head);
    a.sign = rotation_signs();
    isa.attend_lut(a, item.index, scratch[slot]);
  });
}

}  // namespace

void run(const core::Call& call, core::Workspace& ws) {
  const core::Problem& p = call.problem;
  if (p.quantized_kv) return run_blob(call, ws);
  const IsaTable& isa = isa_table();
  Work work(call, ws, isa.rows_per_item);
  Int8Keys keys(call, ws, work, true);
  const bool own = p.scheme.method == Method::chitu_int8;
  const int dk = keys.layout().dk, dv = keys.layout().dv;
  const ThreadScratch scratch(ws, std::max(own ? isa.lut_scratch_bytes(dk, dv) : isa.float_scratch_bytes(dk, dv), quantize_scratch_bytes(keys.layout())));
  if (ws.measuring()) return;
  work.fill();
  keys.prepare(work, scratch);
  parallel_run(work.items(), scratch.slots(), [&](std::int64_t i, int slot) {
    const Work::Item item = work.item(i);
    AttendArgs a = work.attend_args(item);
    keys.fill(a, work, item);
    if (own) return isa.attend_lut(a, item.index, scratch[slot]);
    a.p = PKind::s8;
    a.p_range = p.scheme.p_range;
    isa.attend_float(a, item.index, scratch[slot]);
  });
}

}  // namespace chitu::cpu::int8_i8
