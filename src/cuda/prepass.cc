#include "cuda/prepass.h"

#include <bit>

namespace chitu::cuda {

using core::Center;
using core::VFormat;

View make_view(const ConstTensorView& v) {
  const auto bytes = static_cast<std::int64_t>(dtype_size(v.dtype));
  bool aligned = reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0;
  for (int i = 0; i < 3; ++i) aligned = aligned && (v.shape[i] <= 1 || v.stride[i] * bytes % 16 == 0);
  return {v.data, v.stride[0], v.stride[1], v.stride[2], v.dtype, aligned};
}

Sequence make_sequence(const core::Problem& p, const Sequences& s) {
  const std::int64_t q_rows = p.packed ? p.total_q : div_up(p.seqlen_q, kTile) * kTile;
  const std::int64_t tiles_k = p.packed ? p.total_k / kTile + p.batch : div_up(p.seqlen_k, kTile);
  return {s.cu_seqlens_q, s.cu_seqlens_k, s.seqlens_k, p.seqlen_q, p.seqlen_k, p.total_q, p.total_k, q_rows, tiles_k, static_cast<int>(p.batch), p.packed};
}

namespace {

std::int64_t tensor_batches(const Sequence& s) { return s.packed ? 1 : s.batch; }
std::int64_t tiles_of(const KvShape& s) { return tensor_batches(s.sequence) * s.heads * s.sequence.tiles_k; }
/// Sums of a tile in f16: V then keeps room for them (docs/methods.md part 3).
bool sums_in_f16(const KvShape& s) { return s.scheme.v == VFormat::f16 && s.scheme.accumulate == core::Accumulate::tile_f16; }
/// V is read where it lies when nothing rounds it.
bool v_as_it_is(const KvShape& s) {
  if (sums_in_f16(s)) return false;
  return s.scheme.v == VFormat::input || (s.scheme.v == VFormat::f16 && s.dtype == DType::f16) || (s.scheme.v == VFormat::bf16 && s.dtype == DType::bf16);
}

VCodes v_codes(const KvShape& s) {
  switch (s.scheme.v) {
    case VFormat::e4m3_channel:
      return s.blob ? VCodes::e4m3 : s.e4m3_tiles ? VCodes::e4m3_tiles : VCodes::e4m3_as_f16;
    case VFormat::s8_tensor:
      return VCodes::s8_tensor;
    case VFormat::s8_c3:
      return VCodes::s8_c3;
    default:
      return v_as_it_is(s) ? VCodes::copy : VCodes::f16;
  }
}

Statistic v_statistic(VCodes codes) {
  switch (codes) {
    case VCodes::f16:
      return Statistic::f16;
    case VCodes::s8_tensor:
      return Statistic::s8_tensor;
    case VCodes::s8_c3:
      return Statistic::weights;
    default:
      return Statistic::e4m3;
  }
}
float v_range(const KvShape& s, VCodes codes) {
  if (codes == VCodes::s8_tensor) return 127.0f;
  if (codes != VCodes::f16) return s.scheme.v_range;
  return sums_in_f16(s) ? 65504.0f / static_cast<float>(s.scheme.tile_n) : 65504.0f;
}

}  // namespace

KvBuffers take_kv(const KvShape& s, core::Workspace& ws) {
  KvBuffers b;
  const std::int64_t tiles = tiles_of(s), channels = std::int64_t{s.sequence.batch} * s.heads;
  if (s.scheme.k_grain.quantized()) {
    const int dim = code_dim(s.head_dim), block = static_cast<int>(s.scheme.k_grain.block);
    b.k8 = ws.take<std::int8_t>(tiles * kTile * dim);
    b.k_scale = ws.take<float>(block == 1 ? tiles * kTile : tiles * (kTile / block) * 4);
    if (s.scheme.k_center == Center::tile_mean) b.k_mean = ws.take<std::uint8_t>(tiles * dim * static_cast<std::int64_t>(dtype_size(s.dtype)));
    if (s.scheme.k_center == Center::sequence_mean) b.sequence_mean = ws.take<float>(channels * s.head_dim);
    if (s.scheme.rotate) b.q_factor = ws.take<float>(channels * dim);
  }
  const VCodes codes = v_codes(s);
  if (codes == VCodes::copy && !s.blob) return b;
  if (codes != VCodes::copy) b.v_scale = ws.take<float>(channels * s.head_dim_v);
  const std::int64_t rows = s.sequence.packed ? s.sequence.total_k : s.sequence.batch * s.sequence.seqlen_k;
  const std::int64_t elements = rows * s.heads * code_dim(s.head_dim_v);
  if (codes == VCodes::copy || codes == VCodes::f16 || codes == VCodes::e4m3_as_f16) b.v16 = ws.take<std::uint16_t>(elements);
  if (codes == VCodes::e4m3) b.v8 = ws.take<std::uint8_t>(elements);
  if (codes == VCodes::s8_tensor || codes == VCodes::s8_c3 || codes == VCodes::e4m3_tiles) b.v8t = ws.take<std::int8_t>(tiles * s.head_dim_v * kTile);
  if (codes == VCodes::s8_c3) {
    b.token_scale = ws.take<float>(tiles * kTile);
    b.tile_mean = ws.take<float>(tiles * s.head_dim_v);
    b.shift_limit = ws.take<float>(tiles);
  }
  return b;
}

KvScratch take_scratch(const KvShape& s, core::Workspace& ws) {
  KvScratch x;
  if (s.scheme.k_grain.quantized() && s.scheme.k_center == Center::sequence_mean) x.k_tiles = ws.take<float>(tiles_of(s) * s.head_dim);
  if (s.scheme.rotate) x.k_factor = ws.take<float>(std::int64_t{s.sequence.batch} * s.heads * code_dim(s.head_dim));
  if (!v_as_it_is(s)) {
    x.v_tiles = ws.take<float>(tiles_of(s) * s.head_dim_v);
    x.v_factor = ws.take<float>(std::int64_t{s.sequence.batch} * s.heads * s.head_dim_v);
    if (v_codes(s) == VCodes::s8_c3) x.v_bounds = ws.take<std::uint32_t>(tiles_of(s) * 16);
  }
  return x;
}

QBuffers take_q(const core::Problem& p, const Sequence& s, bool mean_dot, core::Workspace& ws) {
  const std::int64_t rows = tensor_batches(s) * p.num_heads_q * s.q_rows;
  QBuffers b;
  b.codes = ws.take<std::int8_t>(rows * code_dim(p.head_dim));
  b.scale = ws.take<float>(rows);
  if (mean_dot) b.mean_dot = ws.take<float>(rows);
  return b;
}

void prepare_statistics(const KvShape& s, const KvBuffers& b, const KvScratch& scratch, const View& k, const View& v, cudaStream_t stream) {
  if (b.q_factor != nullptr) key_factors({k, s.sequence, s.heads, s.head_dim, s.scheme.k_weights, b.q_factor, scratch.k_factor}, stream);
  const VCodes codes = v_codes(s);
  const StatisticsParams of_k{k, s.sequence, s.heads, s.head_dim, Statistic::mean, 0.0f, scratch.k_tiles, nullptr, b.sequence_mean, nullptr};
  const StatisticsParams of_v{
      v, s.sequence, s.heads, s.head_dim_v, v_statistic(codes), v_range(s, codes), scratch.v_tiles, scratch.v_bounds, scratch.v_factor, b.v_scale};
  statistics(b.sequence_mean != nullptr ? &of_k : nullptr, scratch.v_factor != nullptr ? &of_v : nullptr, stream);
}

void prepare_v(const KvShape& s, const KvBuffers& b, const KvScratch& scratch, const View& v, cudaStream_t stream) {
  const VCodes codes = v_codes(s);
  if (codes == VCodes::copy && !s.blob) return;
  quantize_v({v, s.sequence, s.heads, s.head_dim_v, s.scheme.flag_ratio, scratch.v_factor, b.v16, b.v8, b.v8t, b.token_scale, b.tile_mean, b.shift_limit},
             codes, stream);
}

void set_grain(QuantizeRowsParams& p, const core::Grain& g) {
  p.log2_block = std::countr_zero(static_cast<std::uint32_t>(g.block));
  p.log2_groups = std::countr_zero(static_cast<std::uint32_t>(g.groups));
}

QuantizeRowsParams k_rows(const KvShape& s, const KvBuffers& b, const KvScratch& scratch, const View& k) {
  QuantizeRowsParams r{};
  r.x = k;
  r.sequence = s.sequence;
  r.factor = scratch.k_factor;
  r.tile_mean = b.k_mean != nullptr;
  r.heads = s.heads;
  r.head_dim = s.head_dim;
  r.heads_per_kv = 1;
  set_grain(r, s.scheme.k_grain);
  r.sequence_mean = b.sequence_mean;
  r.codes = b.k8;
  r.scale = b.k_scale;
  r.mean = b.k_mean;
  return r;
}

KvShape blob_shape(const core::Scheme& scheme, DType dtype, std::int64_t batch, std::int64_t seqlen, std::int64_t heads, std::int64_t head_dim,
                   std::int64_t head_dim_v, const std::int32_t* seqlens_k) {
  const Sequence s{nullptr, nullptr, seqlens_k, 0, seqlen, 0, batch * seqlen, 0, div_up(seqlen, kTile), static_cast<int>(batch), false};
  return {scheme, dtype, s, static_cast<int>(heads), static_cast<int>(head_dim), static_cast<int>(head_dim_v), true};
}

std::size_t blob_bytes(const KvShape& s) {
  core::Workspace measure;
  take_kv(s, measure);
  return sizeof(BlobHeader) + measure.used();
}

KvBuffers blob_buffers(const KvShape& s, const void* blob) {
  core::Workspace carve(static_cast<char*>(const_cast<void*>(blob)) + sizeof(BlobHeader), blob_bytes(s) - sizeof(BlobHeader));
  return take_kv(s, carve);
}

}  // namespace chitu::cuda
