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

/// The attention part of chitu_int8: items of rows, or for few rows chunks of keys, whose bounds depend on the number of keys alone.
class Attention {
 public:
  Attention(const core::Problem& p, core::Workspace& ws, const TileLayout& layout) : p_(p), isa_(isa_table()), dv_(layout.dv) {
    rows_ = p.seqlen_q * p.group();
    chunked_ = rows_ <= isa_.decode_rows && p.dense_mask == core::DenseMask::none;
    if (!chunked_) return;
    chunks_ = (tiles_of(p.seqlen_k) + kTilesPerChunk - 1) / kTilesPerChunk;
    results_ = ws.take<float>(p.batch * p.num_heads_kv * chunks_ * isa_.decode_floats(static_cast<int>(rows_), dv_));
  }

  /// args(item) fills AttendArgs.
  template <class Args>
  void run(const Work& work, const ThreadScratch& scratch, const Args& args) const {
    if (!chunked_) {
      parallel_run(work.items(), scratch.slots(), [&](std::int64_t i, int slot) {
        const Work::Item item = work.item(i);
        isa_.attend_lut(args(item), item.index, scratch[slot]);
      });
      return;
    }
    const std::int64_t heads = p_.batch * p_.num_heads_kv, floats = isa_.decode_floats(static_cast<int>(rows_), dv_);
    auto head = [&](std::int64_t h) { return args(Work::Item{h / p_.num_heads_kv, h % p_.num_heads_kv, 0}); };
    parallel_run(heads * chunks_, scratch.slots(), [&](std::int64_t i, int slot) {
      const AttendArgs a = head(i / chunks_);
      if (a.seqlen_q > 0) isa_.attend_decode(a, i % chunks_, results_ + i * floats, scratch[slot]);
    });
    parallel_run(heads, scratch.slots(), [&](std::int64_t h, int slot) {
      const AttendArgs a = head(h);
      // a packed sequence may have fewer rows than the longest: its chunks lie as far apart, each begins at its own place
      if (a.seqlen_q > 0) isa_.finish_decode(a, chunks_, results_ + h * chunks_ * floats, floats, scratch[slot]);
    });
  }

 private:
  const core::Problem& p_;
  const IsaTable& isa_;
  int dv_;
  std::int64_t rows_ = 0, chunks_ = 0;
  bool chunked_ = false;
  float* results_ = nullptr;
};

/// K and V come quantized.
void run_blob(const core::Call& call, core::Workspace& ws) {
  const core::Problem& p = call.problem;
  const IsaTable& isa = isa_table();
  Work work(call, ws, isa.rows_per_item);
  const TileLayout layout = tile_layout(p.head_dim, p.head_dim_v, true);
  const Attention attention(p, ws, layout);
  const ThreadScratch scratch(ws, isa.lut_scratch_bytes(layout.dk, layout.dv));
  if (ws.measuring()) return;
  work.fill();
  const QuantizedView view = view_of_blob(call.args.kv->data, check_blob(*call.args.kv, p));
  const auto* lengths = reinterpret_cast<const std::int64_t*>(static_cast<const unsigned char*>(call.args.kv->data) + 256);
  attention.run(work, scratch, [&](const Work::Item& item) {
    AttendArgs a = work.attend_args(item);
    a.seqlen_k = std::min(a.seqlen_k, lengths[item.sequence]);  // keys beyond were never quantized
    a.layout = view.layout;
    a.tiles = view.tiles_of_head(item.sequence, item.head, 0);
    a.channel = view.factors(view.channel, item.sequence, item.head);
    a.factor = view.of_keys(view.q_factor, item.sequence, item.head);
    return a;
  });
}

void run_chitu_int8(const core::Call& call, core::Workspace& ws) {
  const core::Problem& p = call.problem;
  const IsaTable& isa = isa_table();
  Work work(call, ws, isa.rows_per_item);
  Int8Keys keys(call, ws, work, true);
  const TileLayout& layout = keys.layout();
  const Attention attention(p, ws, layout);
  const ThreadScratch scratch(ws, std::max(isa.lut_scratch_bytes(layout.dk, layout.dv), quantize_scratch_bytes(layout)));
  if (ws.measuring()) return;
  work.fill();
  keys.prepare(work, scratch);
  attention.run(work, scratch, [&](const Work::Item& item) {
    AttendArgs a = work.attend_args(item);
    keys.fill(a, work, item);
    return a;
  });
}

void run_int_flash(const core::Call& call, core::Workspace& ws) {
  const core::Problem& p = call.problem;
  const IsaTable& isa = isa_table();
  Work work(call, ws, isa.float_rows_per_item);
  Int8Keys keys(call, ws, work, true);
  const TileLayout& layout = keys.layout();
  const ThreadScratch scratch(ws, std::max(isa.float_scratch_bytes(layout.dk, layout.dv), quantize_scratch_bytes(layout)));
  if (ws.measuring()) return;
  work.fill();
  keys.prepare(work, scratch);
  parallel_run(work.items(), scratch.slots(), [&](std::int64_t i, int slot) {
    const Work::Item item = work.item(i);
    AttendArgs a = work.attend_args(item);
    keys.fill(a, work, item);
    a.p = PKind::s8;
    a.p_range = p.scheme.p_range;
    isa.attend_float(a, item.index, scratch[slot]);
  });
}

}  // namespace

void run(const core::Call& call, core::Workspace& ws) {
  if (call.problem.quantized_kv) return run_blob(call, ws);
  if (call.problem.scheme.method == Method::chitu_int8) return run_chitu_int8(call, ws);
  run_int_flash(call, ws);
}

}  // namespace chitu::cpu::int8_i8
