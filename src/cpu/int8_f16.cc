#include <algorithm>

#include "core/check.h"
#include "cpu/int8_rows.h"
#include "cpu/rows.h"

namespace chitu::cpu::int8_f16 {

core::Scheme executes(const core::Problem& p) {
  core::Scheme s = p.scheme;
  s.tile_n = kTile;
  s.accumulate = core::Accumulate::f32;  // no f16 unit here, and nothing to gain from its rounding
  return s;
}

std::string why_not(const core::Problem& p) {
  const Method m = p.scheme.method;
  if (m != Method::chitu && m != Method::sage1 && m != Method::int_flash_half) {
    return core::concat("computes chitu, sage1 and int_flash_half, not ", method_name(m));
  }
  if (p.quantized_kv) return "reads 16-bit v, not a quantized cache";
  return scheme_departure(p);
}

void run(const core::Call& call, core::Workspace& ws) {
  const core::Problem& p = call.problem;
  const IsaTable& isa = isa_table();
  Work work(call, ws, isa.float_rows_per_item);
  Int8Keys keys(call, ws, work, false);
  const int dk = keys.layout().dk, dv = static_cast<int>(round_up(p.head_dim_v, 16));
  const ThreadScratch scratch(ws, std::max(isa.float_scratch_bytes(dk, dv), quantize_scratch_bytes(keys.layout())));
  if (ws.measuring()) return;
  work.fill();
  keys.prepare(work, scratch);
  parallel_run(work.items(), scratch.slots(), [&](std::int64_t i, int slot) {
    const Work::Item item = work.item(i);
    AttendArgs a = work.attend_args(item);
    keys.fill(a, work, item);
    a.v = work.v_rows(item.sequence, item.head);
    a.p = p.scheme.p == core::PFormat::bf16 ? PKind::bf16 : PKind::f16;
    a.p_range = p.scheme.p_range;
    a.lazy_octaves = p.scheme.lazy_octaves;
    isa.attend_float(a, item.index, scratch[slot]);
  });
}

}  // namespace chitu::cpu::int8_f16
