#include "cpu/call.h"

#include <algorithm>

namespace chitu::cpu {

Elem elem_of(DType t) { return t == DType::f32 ? Elem::f32 : t == DType::f16 ? Elem::f16 : Elem::bf16; }

TileLayout tile_layout(std::int64_t head_dim, std::int64_t head_dim_v, bool v_codes) {
  TileLayout l{};
  l.head_dim = static_cast<int>(head_dim);
  l.head_dim_v = static_cast<int>(head_dim_v);
  l.dk = static_cast<int>(round_up(head_dim, 16));
  l.dv = v_codes ? static_cast<int>(round_up(head_dim_v, 16)) : 0;
  l.v = l.k + std::int64_t{kTile} * l.dk;
  l.head = l.v + std::int64_t{kTile} * l.dv;
  l.mean = l.head + 64;
  l.vbar = l.mean + 4 * std::int64_t{l.dk};
  l.token = l.vbar + 4 * std::int64_t{l.dv};
  l.bytes = l.token + 4 * kTile;
  return l;
}

ThreadScratch::ThreadScratch(core::Workspace& ws, std::int64_t bytes) : bytes_(round_up(bytes, 256)), slots_(parallel_slots()) {
  if (!ws.measuring()) {
    for (; slots_ > 1; --slots_) {
      core::Workspace trial = ws;
      if (trial.take<char>(bytes_ * slots_) != nullptr) break;
    }
  }
  memory_ = ws.take<char>(bytes_ * slots_);
}

Work::Work(const core::Call& call, core::Workspace& ws, int rows_per_item)
    : problem_(call.problem), args_(call.args), sequences_(ws.take<Sequence>(call.problem.batch + 1)), rows_per_item_(rows_per_item) {}

void Work::fill() {
  std::int64_t items = 0, tiles = 0;
  for (std::int64_t b = 0; b < problem_.batch; ++b) {
    const core::SequenceRange r = core::sequence_range(problem_, args_.sequences, b);
    sequences_[b] = {r, items, tiles};
    items += problem_.num_heads_kv * ((r.q_len * problem_.group() + rows_per_item_ - 1) / rows_per_item_);
    tiles += tiles_of(r.k_len);
  }
  sequences_[problem_.batch] = {{}, items, tiles};
}

std::int64_t Work::max_tiles() const {
  const core::Problem& p = problem_;
  return p.packed ? p.total_k / kTile + p.batch : p.batch * tiles_of(p.seqlen_k);
}

Work::Item Work::item(std::int64_t i) const {
  const Sequence* s = std::upper_bound(sequences_, sequences_ + problem_.batch, i, [](std::int64_t at, const Sequence& q) { return at < q.first_item; }) - 1;
  const std::int64_t per_head = ((s + 1)->first_item - s->first_item) / problem_.num_heads_kv, local = i - s->first_item;
  return {s - sequences_, local / per_head, per_head - 1 - local % per_head};
}
Work::Item Work::tile(std::int64_t t) const {
  const Sequence* s = std::upper_bound(sequences_, sequences_ + problem_.batch, t, [](std::int64_t at, const Sequence& q) { return at < q.first_tile; }) - 1;
  return {s - sequences_, 0, t - s->first_tile};
}

Rows Work::rows_of(const ConstTensorView& view, std::int64_t sequence, std::int64_t head) const {
  const core::SequenceRange& r = sequences_[sequence].range;
  const std::int64_t offset = r.tensor_batch * view.stride[0] + r.k_begin * view.stride[1] + head * view.stride[2];
  return {static_cast<const char*>(view.data) + offset * static_cast<std::int64_t>(dtype_size(view.dtype)), view.stride[1], elem_of(view.dtype)};
}
Rows Work::q_rows(std::int64_t sequence, std::int64_t head) const {
  const ConstTensorView& view = args_.q;
  const core::SequenceRange& r = sequences_[sequence].range;
  const std::int64_t offset = r.tensor_batch * view.stride[0] + r.q_begin * view.stride[1] + head * view.stride[2];
  return {static_cast<const char*>(view.data) + offset * static_cast<std::int64_t>(dtype_size(view.dtype)), view.stride[1], elem_of(view.dtype)};
}

AttendArgs Work::attend_args(const Item& item) const {
  const core::Problem& p = problem_;
  const core::SequenceRange& r = sequences_[item.sequence].range;
  const std::int64_t head_q = item.head * p.group();
  const core::Band band(p.mask, r.q_len, r.k_len);
  AttendArgs a{};
  a.q = q_rows(item.sequence, head_q);
  a.q_head_stride = args_.q.stride[2];
  const TensorView& out = args_.out;
  a.out = static_cast<char*>(out.data) +
          (r.tensor_batch * out.stride[0] + r.q_begin * out.stride[1] + head_q * out.stride[2]) * static_cast<std::int64_t>(dtype_size(out.dtype));
  a.out_stride = out.stride[1];
  a.out_head_stride = out.stride[2];
  a.out_elem = elem_of(out.dtype);
  if (p.has_lse) {
    const LseView& lse = args_.lse;
    a.lse = lse.data + r.tensor_batch * lse.stride[0] + head_q * lse.stride[1] + r.q_begin * lse.stride[2];
    a.lse_head_stride = lse.stride[1];
    a.lse_stride = lse.stride[2];
  }
  a.group = p.group();
  a.seqlen_q = r.q_len;
  a.seqlen_k = r.k_len;
  a.left = band.left;
  a.right = band.right;
  a.diagonal = band.diagonal;
  if (p.dense_mask != core::DenseMask::none) {
    const ConstTensorView& m = args_.mask;
    a.mask_kind = p.dense_mask == core::DenseMask::boolean ? MaskKind::boolean
                  : m.dtype == DType::f32                  ? MaskKind::f32
                  : m.dtype == DType::f16                  ? MaskKind::f16
                                                           : MaskKind::bf16;
    a.mask = static_cast<const char*>(m.data) + (r.tensor_batch * m.stride[0] + head_q * m.stride[1]) * static_cast<std::int64_t>(dtype_size(m.dtype));
    a.mask_head_stride = m.stride[1];
    a.mask_query_stride = m.stride[2];
    a.mask_key_stride = m.stride[3];
  }
  a.softmax_scale = p.softmax_scale;
  return a;
}

}  // namespace chitu::cpu
