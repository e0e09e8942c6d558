#include "cpu/int8_rows.h"

#include "core/check.h"
#include "core/scheme.h"

namespace chitu::cpu {

std::string scheme_departure(const core::Problem& p) {
  core::Scheme s = p.scheme;
  const core::Scheme usual = core::default_scheme(s.method, p.dtype);
  const bool own = usual.k_center == core::Center::tile_mean;
  if (!own && s.k_center != core::Center::tile_mean) s.k_center = usual.k_center;
  if (s.method == Method::sage1 && s.accumulate == core::Accumulate::f32) s.accumulate = usual.accumulate;
  const std::string field = core::first_difference(s, usual);
  if (field.empty()) return {};
  return core::concat("computes ", method_name(s.method), " with its default ", field, " only");
}

Int8Keys::Int8Keys(const core::Call& call, core::Workspace& ws, const Work& work, bool v_codes) : p_(call.problem) {
  const core::Scheme& s = p_.scheme;
  view_.layout = tile_layout(p_.head_dim, p_.head_dim_v, v_codes);
  view_.k_quant = s.k_center == core::Center::tile_mean ? KQuant::tile_groups : s.k_grain.block == 64 ? KQuant::per_64 : KQuant::per_token;
  view_.v_c3 = s.v == core::VFormat::s8_c3;
  view_.heads = p_.num_heads_kv;
  view_.tiles_per_head = p_.packed ? work.max_tiles() : tiles_of(p_.seqlen_k);
  view_.channels = round_up(p_.head_dim_v, 16);
  view_.packed = p_.packed;
  view_.tiles = ws.take<unsigned char>(work.max_tiles() * p_.num_heads_kv * view_.layout.bytes);
  const bool narrow_v = s.v == core::VFormat::f16 && p_.dtype != DType::f16;
  if (v_codes || narrow_v) {
    view_.channel = ws.take<float>(p_.batch * p_.num_heads_kv * view_.channels);
    view_.channel_inv = ws.take<float>(p_.batch * p_.num_heads_kv * view_.channels);
  }
  if (s.k_center == core::Center::sequence_mean) {
    view_.k_mean = ws.take<float>(p_.batch * p_.num_heads_kv * view_.layout.dk);
    sums_ = ws.take<float>(work.max_tiles() * p_.num_heads_kv * view_.layout.dk);
  }
  if (s.rotate) {
    view_.q_factor = ws.take<float>(p_.batch * p_.num_heads_kv * view_.layout.dk);
    view_.k_factor = ws.take<float>(p_.batch * p_.num_heads_kv * view_.layout.dk);
  }
  if (s.q_grain.block == 128) {
    q_blocks_ = (p_.seqlen_q + 127) / 128;
    q_absmax_ = ws.take<std::int32_t>(p_.batch * p_.num_heads_q * q_blocks_);
  }
}

void Int8Keys::prepare(const Work& work, const ThreadScratch& scratch) {
  if (view_.v_c3) {
    channel_weights(p_, work, view_, scratch);
  } else if (view_.layout.dv != 0) {
    tensor_scales(p_, work, view_, scratch);
  } else if (view_.channel != nullptr) {
    f16_ranges(p_, work, view_, scratch);
  }
  if (view_.k_mean != nullptr) sequence_means(p_, work, view_, scratch, sums_);
  if (view_.k_factor != nullptr) key_factors(p_, work, view_, scratch);
  quantize_tiles(p_, work, view_, scratch);
  if (q_absmax_ != nullptr) query_blocks(p_, work, scratch, q_blocks_, q_absmax_);
}

void Int8Keys::fill(AttendArgs& a, const Work& work, const Work::Item& item) const {
  a.layout = view_.layout;
  a.tiles = view_.tiles_of_head(item.sequence, item.head, work.sequence(item.sequence).first_tile);
  a.channel = view_.factors(view_.channel, item.sequence, item.head);
  a.v_scale = view_.factors(view_.channel_inv, item.sequence, item.head);
  a.k_mean = view_.of_keys(view_.k_mean, item.sequence, item.head);
  a.factor = view_.of_keys(view_.q_factor, item.sequence, item.head);
  a.k_quant = view_.k_quant;
  a.q_blocks = q_blocks_;
  a.q_absmax = q_absmax_ == nullptr ? nullptr : q_absmax_ + (item.sequence * p_.num_heads_q + item.head * p_.group()) * q_blocks_;
}

}  // namespace chitu::cpu
