#include "cuda/attention_call.h"

#include <cmath>

#include "cuda/sm80/launch.h"
#include "cuda/tuning.h"

namespace chitu::cuda {

using core::Call;
using core::Center;
using core::PFormat;
using core::Problem;
using core::Workspace;

namespace {

constexpr float kLog2e = 1.4426950408889634f;

KvShape kv_shape(const Problem& p, const Sequence& s) {
  return {p.scheme, p.dtype, s, static_cast<int>(p.num_heads_kv), static_cast<int>(p.head_dim), static_cast<int>(p.head_dim_v), false};
}

QuantizeRowsParams q_rows(const Call& call, const Operands& o) {
  const Problem& p = call.problem;
  QuantizeRowsParams r{};
  r.x = make_view(call.args.q);
  r.sequence = o.sequence;
  r.is_q = true;
  r.negate = p.softmax_scale < 0;
  r.factor = o.kv.q_factor;
  r.heads = static_cast<int>(p.num_heads_q);
  r.head_dim = static_cast<int>(p.head_dim);
  r.heads_per_kv = static_cast<int>(p.group());
  set_grain(r, p.scheme.q_grain);
  r.sequence_mean = o.q.mean_dot != nullptr ? o.kv.sequence_mean : nullptr;
  r.mean_dot = o.q.mean_dot;
  r.softmax_scale = p.softmax_scale;
  r.codes = o.q.codes;
  r.scale = o.q.scale;
  return r;
}

View v16_view(const KvShape& s, const std::uint16_t* v16) {
  const std::int64_t row = std::int64_t{s.heads} * code_dim(s.head_dim_v);
  const std::int64_t rows = s.sequence.packed ? s.sequence.total_k : s.sequence.seqlen_k;
  const bool bf16 = s.scheme.v == core::VFormat::bf16 || (s.scheme.v == core::VFormat::input && s.dtype == DType::bf16);
  return {v16, rows * row, row, code_dim(s.head_dim_v), bf16 ? DType::bf16 : DType::f16, true};
}

}  // namespace

Operands prepare(const Call& call, Workspace& ws, bool e4m3_tiles) {
  const Problem& p = call.problem;
  const AttentionArgs& a = call.args;
  Operands o{};
  o.sequence = make_sequence(p, a.sequences);
  KvShape shape = kv_shape(p, o.sequence);
  shape.e4m3_tiles = e4m3_tiles;
  const bool mean_dot = p.has_lse && p.scheme.k_center == Center::sequence_mean;
  o.q = take_q(p, o.sequence, mean_dot, ws);
  const cudaStream_t stream = stream_of(call.stream);
  const auto blocks_of = [&](std::int64_t heads, std::int64_t rows) { return p.batch * heads * div_up(rows, kTile); };
  const std::int64_t q_blocks = blocks_of(p.num_heads_q, p.seqlen_q);
  if (p.quantized_kv) {
    shape.blob = true;
    o.kv = blob_buffers(shape, a.kv->data);
    const std::int64_t n = p.batch * p.seqlen_k * p.num_heads_kv * code_dim(p.head_dim_v);
    const std::uint8_t* v8 = o.kv.v8;
    const bool e4m3 = p.scheme.v == core::VFormat::e4m3_channel, to_tiles = e4m3 && e4m3_tiles, to_f16 = e4m3 && !e4m3_tiles;
    if (to_tiles) o.kv.v8t = ws.take<std::int8_t>(p.batch * o.sequence.tiles_k * p.num_heads_kv * p.head_dim_v * kTile);
    if (to_f16) o.kv.v16 = ws.take<std::uint16_t>(n);
    o.v = v16_view(shape, o.kv.v16);
    if (ws.measuring()) return o;
    if (to_tiles) tile_codes({o.sequence, shape.heads, shape.head_dim_v, v8, o.kv.v8t}, stream);
    if (to_f16) unpack_v(v8, o.kv.v16, n, stream);
    quantize_rows({{}, q_rows(call, o), 0, q_blocks, {}, {}, {}}, stream);
    return o;
  }
  o.kv = take_kv(shape, ws);
  const KvScratch scratch = take_scratch(shape, ws);
  o.v = o.kv.v16 != nullptr ? v16_view(shape, o.kv.v16) : make_view(a.v);
  if (ws.measuring()) return o;
  const View k = make_view(a.k), v = make_view(a.v);
  prepare_statistics(shape, o.kv, scratch, k, v, stream);
  const std::int64_t k_blocks = blocks_of(p.num_heads_kv, p.seqlen_k);
  quantize_rows({k_rows(shape, o.kv, scratch, k), q_rows(call, o), k_blocks, k_blocks + q_blocks, {}, {}, {}}, stream);
  prepare_v(shape, o.kv, scratch, v, stream);
  return o;
}

core::Scheme sm80_executes(const Problem& p) {
  core::Scheme s = p.scheme;
  s.exponential = core::Exponential::f32;
  s.log_code_mask = 0;
  if (s.p == PFormat::e4m3) {
    s.accumulate = core::Accumulate::tile_f32;  // e4m3 codes multiplied in f16, summed in f32
    s.tile_n = s.tile_n == 64 ? 64 : 128;
  } else if (s.method != Method::exact) {
    s.tile_n = s.accumulate == core::Accumulate::tile_f16 ? 64 : 128;
  }
  return s;
}

namespace {

using sm80::Variant;

Variant variant_of(const Problem& p) {
  const core::Scheme s = sm80_executes(p);
  if (!s.q_grain.quantized()) return p.dtype == DType::bf16 ? Variant::bf16 : Variant::f16;
  switch (s.p) {
    case PFormat::u8:
      return Variant::int8_u8;
    case PFormat::s8:
      return Variant::int8_s8;
    case PFormat::e4m3:
      return s.tile_n == 64 ? Variant::int8_e4m3_64 : Variant::int8_e4m3;
    case PFormat::bf16:
      return Variant::int8_bf16;
    default:
      return s.accumulate == core::Accumulate::tile_f16 ? Variant::int8_f16_f16 : Variant::int8_f16;
  }
}

template <class V>
sm80::AttentionKernel by_head_dim(std::int64_t dim, V v, sm80::AttentionKernel (*d64)(V), sm80::AttentionKernel (*d128)(V), sm80::AttentionKernel (*d256)(V)) {
  return dim <= 64 ? d64(v) : dim <= 128 ? d128(v) : d256(v);
}

std::int64_t widest_head(const Problem& p) { return std::max(p.head_dim, p.head_dim_v); }

sm80::AttentionKernel kernel_of(const Problem& p) {
  using namespace sm80;
  const std::int64_t dim = widest_head(p);
  const Variant v = variant_of(p);
  switch (v) {
    case Variant::f16:
    case Variant::bf16:
      return by_head_dim(dim, v, f16_f16_d64, f16_f16_d128, f16_f16_d256);
    case Variant::int8_u8:
    case Variant::int8_s8:
      return by_head_dim(dim, v, int8_i8_d64, int8_i8_d128, int8_i8_d256);
    case Variant::int8_e4m3:
    case Variant::int8_e4m3_64:
      return by_head_dim(dim, v, int8_f8_d64, int8_f8_d128, int8_f8_d256);
    default:
      return by_head_dim(dim, v, int8_f16_d64, int8_f16_d128, int8_f16_d256);
  }
}

AttentionParams common_params(const Call& call, const Sequence& sequence) {
  const Problem& p = call.problem;
  const AttentionArgs& a = call.args;
  AttentionParams x{};
  x.sequence = sequence;
  x.q = make_view(a.q);
  x.out = a.out.data;
  x.out_batch = a.out.stride[0], x.out_seq = a.out.stride[1], x.out_head = a.out.stride[2];
  x.out_dtype = p.out_dtype;
  x.lse = p.has_lse ? a.lse.data : nullptr;
  x.lse_batch = a.lse.stride[0], x.lse_head = a.lse.stride[1], x.lse_seq = a.lse.stride[2];
  if (p.dense_mask != core::DenseMask::none) {
    x.dense = a.mask.data;
    x.dense_batch = a.mask.stride[0], x.dense_head = a.mask.stride[1], x.dense_row = a.mask.stride[2], x.dense_col = a.mask.stride[3];
    x.dense_dtype = p.mask_dtype;
  }
  x.heads_q = static_cast<int>(p.num_heads_q);
  x.heads_kv = static_cast<int>(p.num_heads_kv);
  x.head_dim = static_cast<int>(p.head_dim);
  x.head_dim_v = static_cast<int>(p.head_dim_v);
  x.mask = p.mask;
  x.scale_log2 = std::fabs(p.softmax_scale) * kLog2e;
  x.bias_log2 = p.softmax_scale * kLog2e;
  x.range_log2 = p.scheme.p == PFormat::u8 || p.scheme.p == PFormat::s8 || p.scheme.method == Method::exact ? 0.0f : std::log2(p.scheme.p_range);
  return x;
}

/// Attention by x.q_tiles blocks for each split of each of `heads`, and the merge of the splits. x.splits and x.stages are set here; the workspace of the
/// splits is taken even while measuring.
void attend(const Call& call, Workspace& ws, AttentionParams x, const sm80::AttentionKernel& k, std::int64_t heads) {
  const Problem& p = call.problem;
  const SplitPlan split = split_plan(p);
  x.splits = static_cast<int>(split.count);
  x.split_keys = split.keys;
  const std::int64_t rows = (p.packed ? 1 : p.batch) * p.num_heads_q * x.sequence.q_rows;
  if (x.splits > 1) {
    x.partial_out = ws.take<float>(x.splits * rows * p.head_dim_v);
    x.partial_sum = ws.take<float>(x.splits * rows * 2);
  }
  if (ws.measuring()) return;
  x.stages = k.stages * k.stage_bytes + 1024 <= max_shared_bytes(p.device.index) ? k.stages : 1;
  launch(k.kernel, p.batch * heads * x.splits * x.q_tiles, k.threads, std::int64_t{k.stage_bytes} * x.stages, stream_of(call.stream), x);
  if (x.splits == 1) return;
  combine_splits({x.sequence, x.partial_out, x.partial_sum, x.mean_dot, x.splits, x.heads_q, x.head_dim_v, x.out, x.out_batch, x.out_seq, x.out_head,
                  x.out_dtype, x.lse, x.lse_batch, x.lse_head, x.lse_seq},
                 stream_of(call.stream));
}

/// By the kernels that take blocks of 128 rows of a head.
void attend_by_row_blocks(const Call& call, Workspace& ws, AttentionParams x) {
  x.q_tiles = static_cast<int>(div_up(call.problem.seqlen_q, kTile));
  attend(call, ws, x, kernel_of(call.problem), call.problem.num_heads_q);
}

AttentionParams quantized_params(const Call& call, const Operands& o) {
  const Problem& p = call.problem;
  AttentionParams x = common_params(call, o.sequence);
  x.q8 = o.q.codes;
  x.q_scale = o.q.scale;
  x.mean_dot = o.q.mean_dot;
  x.k8 = o.kv.k8;
  x.k_scale = o.kv.k_scale;
  x.k_mean = o.kv.k_mean;
  x.k_block = static_cast<int>(p.scheme.k_grain.block);
  x.v = o.v;
  x.v8t = o.kv.v8t;
  x.token_scale = o.kv.token_scale;
  x.tile_mean = o.kv.tile_mean;
  x.shift_limit = o.kv.shift_limit;
  x.v_scale = o.kv.v_scale;
  x.lazy_octaves = p.scheme.p_ref == core::PReference::lazy ? p.scheme.lazy_octaves : 0.0f;
  x.tile_reference = p.scheme.p_ref == core::PReference::tile;
  x.sum_quantized = p.scheme.p_sum == core::PSum::quantized;
  return x;
}

}  // namespace

void run_sm80_exact(const Call& call, Workspace& ws) {
  const DeviceGuard guard(call.problem.device.index);
  AttentionParams x = common_params(call, make_sequence(call.problem, call.args.sequences));
  x.scale_log2 = x.bias_log2;  // no codes to fold the sign into
  x.k = make_view(call.args.k);
  x.v = make_view(call.args.v);
  attend_by_row_blocks(call, ws, x);
}

void run_sm80_quantized(const Call& call, Workspace& ws) {
  const DeviceGuard guard(call.problem.device.index);
  const Operands o = prepare(call, ws);
  attend_by_row_blocks(call, ws, quantized_params(call, o));
}

void run_sm80_decode(const Call& call, Workspace& ws) {
  const Problem& p = call.problem;
  const DeviceGuard guard(p.device.index);
  const Operands o = prepare(call, ws);
  AttentionParams x = quantized_params(call, o);
  const std::int64_t rows = p.group() * p.seqlen_q;
  const int halves = rows <= 8 ? 1 : 2;
  x.q_tiles = static_cast<int>(div_up(rows, 8 * halves));
  attend(call, ws, x, by_head_dim(widest_head(p), halves, sm80::decode_int8_i8_d64, sm80::decode_int8_i8_d128, sm80::decode_int8_i8_d256), p.num_heads_kv);
}

std::string quantize_why_not(const core::QuantizeProblem& p) {
  if (p.caps.capability < 80) return "needs compute capability 8.0 or newer";
  // Statistics of K and of V share a launch.
  if (p.batch * p.num_heads_kv * div_up(p.seqlen_k, kTile) > kMaxBlocks / 2) return "batch x heads x tiles of 128 keys: wants fewer than 2^30";
  return {};
}

namespace {
KvShape shape_of(const core::QuantizeProblem& p, const std::int32_t* seqlens_k) {
  return blob_shape(p.scheme, p.dtype, p.batch, p.seqlen_k, p.num_heads_kv, p.head_dim, p.head_dim_v, seqlens_k);
}
}  // namespace

std::size_t quantized_kv_bytes(const core::QuantizeProblem& p) { return blob_bytes(shape_of(p, nullptr)); }

void quantize_kv(const core::QuantizeCall& call, void* blob, Workspace& ws) {
  const core::QuantizeProblem& p = call.problem;
  const KvShape shape = shape_of(p, call.seqlens_k);
  const KvScratch scratch = take_scratch(shape, ws);
  if (ws.measuring()) return;
  const DeviceGuard guard(p.device.index);
  const cudaStream_t stream = stream_of(call.stream);
  BlobHeader h;
  h.method = static_cast<std::uint32_t>(p.scheme.method);
  h.dtype = static_cast<std::uint32_t>(p.dtype);
  h.batch = p.batch, h.seqlen = p.seqlen_k, h.heads = p.num_heads_kv, h.head_dim = p.head_dim, h.head_dim_v = p.head_dim_v;
  write_header(h, blob, stream);
  const KvBuffers b = blob_buffers(shape, blob);
  const View k = make_view(call.k), v = make_view(call.v);
  prepare_statistics(shape, b, scratch, k, v, stream);
  const std::int64_t blocks = p.batch * p.num_heads_kv * div_up(p.seqlen_k, kTile);
  quantize_rows({k_rows(shape, b, scratch, k), {}, blocks, blocks, {}, {}, {}}, stream);
  prepare_v(shape, b, scratch, v, stream);
}

void merge(const core::MergeCall& call) {
  const DeviceGuard guard(call.out.device.index);
  MergeParams m{};
  m.out = static_cast<float*>(call.out.data);
  m.lse = call.lse.data;
  m.out_b = static_cast<const float*>(call.out_b.data);
  m.lse_b = call.lse_b.data;
  m.batch = call.out.shape[0], m.seqlen = call.out.shape[1], m.heads = call.out.shape[2], m.dim = call.out.shape[3];
  for (int i = 0; i < 3; ++i) {
    m.out_stride[i] = call.out.stride[i];
    m.out_b_stride[i] = call.out_b.stride[i];
    m.lse_stride[i] = call.lse.stride[i];
    m.lse_b_stride[i] = call.lse_b.stride[i];
  }
  merge_partials(m, stream_of(call.stream));
}

}  // namespace chitu::cuda
