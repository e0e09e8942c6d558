// cpu_f32_f32 and cpu_f16_f16: no pre-pass, K and V as they lie.

#include "core/check.h"
#include "cpu/call.h"
#include "cpu/rows.h"

namespace chitu::cpu {
namespace {

std::string why_not_exact(const core::Problem& p) {
  if (p.scheme.method != Method::exact) return core::concat("computes exact, not ", method_name(p.scheme.method));
  const std::string field = core::first_difference(p.scheme, core::default_scheme(Method::exact, p.dtype));
  return field.empty() ? std::string() : core::concat("computes exact with its default ", field, " only");
}

void run_exact(const core::Call& call, core::Workspace& ws) {
  const core::Problem& p = call.problem;
  const IsaTable& isa = isa_table();
  Work work(call, ws, isa.float_rows_per_item);
  const TileLayout layout = tile_layout(p.head_dim, p.head_dim_v, false);
  const ThreadScratch scratch(ws, isa.float_scratch_bytes(layout.dk, static_cast<int>(round_up(p.head_dim_v, 16))));
  if (ws.measuring()) return;
  work.fill();
  parallel_run(work.items(), scratch.slots(), [&](std::int64_t i, int slot) {
    const Work::Item item = work.item(i);
    AttendArgs a = work.attend_args(item);
    a.layout = layout;
    a.k = work.k_rows(item.sequence, item.head);
    a.v = work.v_rows(item.sequence, item.head);
    a.p = p.dtype == DType::f32 ? PKind::f32 : p.dtype == DType::f16 ? PKind::f16 : PKind::bf16;
    a.p_range = 1.0f;
    isa.attend_float(a, item.index, scratch[slot]);
  });
}

}  // namespace

namespace f32_f32 {
std::string why_not(const core::Problem& p) {
  std::string why = why_not_exact(p);
  if (!why.empty()) return why;
  return p.dtype == DType::f32 ? "" : "takes f32 inputs";
}
void run(const core::Call& call, core::Workspace& ws) { run_exact(call, ws); }
}  // namespace f32_f32

namespace f16_f16 {
std::string why_not(const core::Problem& p) {
  std::string why = why_not_exact(p);
  if (!why.empty()) return why;
  return p.dtype != DType::f32 ? "" : "takes f16 and bf16 inputs";
}
void run(const core::Call& call, core::Workspace& ws) { run_exact(call, ws); }
}  // namespace f16_f16

}  // namespace chitu::cpu
