#include "cuda/sm90_rows.h"

#include <algorithm>

#include "cuda/attention_call.h"
#include "cuda/sm90/params.h"
#include "cuda/tuning.h"

namespace chitu::cuda {
namespace {

using core::Problem;

sm90::Float float_of(DType t) { return t == DType::f32 ? sm90::Float::f32 : t == DType::bf16 ? sm90::Float::bf16 : sm90::Float::f16; }
sm90::View view_of(const View& v) { return {v.data, v.batch, v.seq, v.head}; }

// A fragment of an 8-bit wgmma: word k of a quad's thread t takes positions 4t .. 4t + 3 of 16 keys. The kernels put there what the thread has scores of.
constexpr bool values_lie_as_fragments() {
  for (int t = 0; t < 4; ++t)
    for (int i = 0; i < 4; ++i)
      if (value_position(2 * t + i % 2 + i / 2 * 8) != 4 * t + i) return false;
  return true;
}
static_assert(values_lie_as_fragments());

/// The numbers of a problem; pointers and strides are filled in later, and stand here for 16-byte aligned ones.
sm90::AttentionParams params_of(const Problem& p) {
  sm90::AttentionParams x{};
  const core::VFormat v = p.scheme.v;  // sage1 turns V into f16, and then nothing is read that is not
  x.input = v == core::VFormat::f16 ? sm90::Float::f16 : v == core::VFormat::bf16 ? sm90::Float::bf16 : float_of(p.dtype);
  x.output = float_of(p.out_dtype);
  x.batch = static_cast<int>(p.batch);
  x.num_heads_q = static_cast<int>(p.num_heads_q);
  x.num_heads_kv = static_cast<int>(p.num_heads_kv);
  x.head_dim = static_cast<int>(p.head_dim);
  x.seqlen_q = static_cast<int>(p.seqlen_q);
  x.seqlen_k = static_cast<int>(p.seqlen_k);
  const Sequence s = make_sequence(p, {});
  x.seqlen_q_padded = static_cast<int>(s.q_rows);
  x.tiles_k = static_cast<int>(s.tiles_k);
  x.packed = p.packed;
  if (p.packed) x.total_q = static_cast<int>(p.total_q), x.total_k = static_cast<int>(p.total_k);
  x.softmax_scale = p.softmax_scale;
  x.window_left = p.mask.left < core::kNoLimit ? p.mask.left : sm90::kUnbounded;
  x.window_right = p.mask.right < core::kNoLimit ? p.mask.right : sm90::kUnbounded;
  x.diagonal = p.mask.diagonal;
  x.diagonal_from_length = p.mask.bottom_right;
  x.num_sms = p.caps.sm_count;
  x.q = x.k = x.v = {nullptr, 8, 8, 8};
  return x;
}

/// reads_inputs: the kernel reads q, k or v as they came, else copies in other formats.
std::string why_not(const Problem& p, bool reads_inputs = true) {
  if (p.caps.capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  if (p.dense_mask != core::DenseMask::none) return "does not take a dense mask";
  if (p.head_dim_v != p.head_dim) return "wants head_dim_v equal to head_dim";
  if (reads_inputs && p.dtype == DType::f32) return "reads f16 and bf16, not f32";
  if (!p.aligned16) return "wants rows that start at multiples of 16 bytes, and none repeated by a stride of 0";
  if (p.seqlen_k == 0) return "wants at least one key";
  if (p.batch * p.num_heads_kv * div_up(p.seqlen_k, kTile) > kMaxBlocks / 2)
    return "batch x heads x tiles of 128 keys exceeds what one launch holds (2^31 blocks)";
  const std::int64_t tokens = p.packed ? std::max(p.total_q, p.total_k) : std::max(p.seqlen_q, p.seqlen_k);
  if (tokens >= 0x7fffff00 || p.batch * p.num_heads_q > (1 << 20)) return "wants at most 2^20 heads and 2^29 tokens";
  return {};
}

std::string supported(const char* reason) { return reason == nullptr ? std::string() : std::string("the Hopper kernel does not take this call: ") + reason; }

std::string eight_bit_why_not(const Problem& p) {
  if (std::string why = why_not(p); !why.empty()) return why;
  sm90::AttentionParams x = params_of(p);
  const std::int8_t some = 0;
  if (p.scheme.k_center == core::Center::tile_mean) x.k_mean = &some;  // supports() asks only whether there is one
  return supported(sm90::supports_8bit(x));
}

void fill_tensors(const core::Call& call, sm90::AttentionParams& x) {
  const AttentionArgs& a = call.args;
  x.q = view_of(make_view(a.q));
  x.out = a.out.data;
  x.out_batch_stride = a.out.stride[0], x.out_seq_stride = a.out.stride[1], x.out_head_stride = a.out.stride[2];
  x.lse = call.problem.has_lse ? a.lse.data : nullptr;
  x.lse_batch_stride = a.lse.stride[0], x.lse_head_stride = a.lse.stride[1], x.lse_seq_stride = a.lse.stride[2];
  x.seqlens_k = call.problem.padded ? a.sequences.seqlens_k : nullptr;
  x.cu_seqlens_q = a.sequences.cu_seqlens_q;
  x.cu_seqlens_k = a.sequences.cu_seqlens_k;
}

/// Memory for the order of work: packed sequences, and pieces that differ in length, which are then taken by whoever is free.
void take_order(const core::Call& call, core::Workspace& ws, sm90::AttentionParams& x) {
  if (x.packed) x.order = {ws.take<std::int32_t>(x.batch), ws.take<std::int32_t>(x.batch + 1)};
  const bool uneven = call.problem.padded || x.window_left != sm90::kUnbounded || x.window_right != sm90::kUnbounded;
  if (x.packed || uneven) x.work_counter = ws.take<std::int32_t>(1);
  if (!x.packed && uneven && !ws.measuring()) CHITU_CUDA(cudaMemsetAsync(x.work_counter, 0, sizeof(std::int32_t), stream_of(call.stream)));
}

void fill_codes(const Operands& o, int k_block, sm90::AttentionParams& x) {
  x.q8 = o.q.codes;
  x.q_scale = o.q.scale;
  x.k8 = o.kv.k8;
  x.k_scale = o.kv.k_scale;
  x.k_block = k_block;
  x.k_mean = o.kv.k_mean;
  x.mean_dot = o.q.mean_dot;
  x.v8t = o.kv.v8t;
  x.v_scale = o.kv.v_scale;
  x.token_scale = o.kv.token_scale;
  x.tile_mean = o.kv.tile_mean;
  x.shift_limit = o.kv.shift_limit;
}

/// e4m3_tiles: V as the e4m3 products want it.
void run_quantized(const core::Call& call, core::Workspace& ws, bool e4m3_tiles, cudaError_t (*launch)(const sm90::AttentionParams&, cudaStream_t)) {
  const DeviceGuard guard(call.problem.device.index);
  sm90::AttentionParams x = params_of(call.problem);
  take_order(call, ws, x);
  const Operands o = prepare(call, ws, e4m3_tiles);
  if (ws.measuring()) return;
  fill_tensors(call, x);
  fill_codes(o, static_cast<int>(call.problem.scheme.k_grain.block), x);
  x.v = view_of(o.v);
  CHITU_CUDA(launch(x, stream_of(call.stream)));
}

}  // namespace

core::Scheme sm90_executes(const Problem& p) {
  core::Scheme s = p.scheme;
  s.reverse = true;
  return s;
}

core::Scheme sm90_int8_f16_executes(const Problem& p) {
  core::Scheme s = sm90_executes(p);
  if (s.method == Method::chitu) return s;
  const core::Scheme own = core::default_scheme(Method::chitu, s.p == core::PFormat::bf16 ? DType::bf16 : DType::f16);
  s.p_ref = own.p_ref;
  s.p_range = own.p_range;
  s.lazy_octaves = own.lazy_octaves;
  s.tile_n = p.head_dim == 256 ? 64 : 128;
  return s;
}

core::Scheme sm90_int8_i8_executes(const Problem& p) {
  core::Scheme s = sm90_executes(p);
  s.tile_n = kTile;
  return s;
}

core::Scheme sm90_int8_f8_executes(const Problem& p) {
  core::Scheme s = sm90_executes(p);
  s.accumulate = core::Accumulate::fp8_tile;
  return s;
}

std::string sm90_int8_f16_why_not(const Problem& p) {
  const core::Scheme& s = p.scheme;
  const bool own = s.method == Method::chitu;
  if (!own && s.method != Method::sage1 && s.method != Method::int_flash_half) return "computes methods chitu, sage1 and int_flash_half only";
  if (s.smooth_q || s.smooth_v) return "does not smooth Q or V";
  if (!own && s.accumulate != core::Accumulate::f32) return "sums P.V in f32 (scheme.pv_accumulation fp32), not in f16";
  if (std::string why = why_not(p, own); !why.empty()) return why;
  sm90::AttentionParams x = params_of(p);
  const std::int8_t some = 0;
  if (own) x.k_mean = &some;  // supports() asks only whether there is one
  return supported(sm90::supports_int8_f16(x));
}

std::string sm90_f16_f16_why_not(const Problem& p) {
  if (p.scheme.method != Method::exact) return "computes method exact only";
  if (p.quantized_kv) return "reads k and v, not a QuantizedKV";
  if (std::string why = why_not(p); !why.empty()) return why;
  return supported(sm90::supports_f16_f16(params_of(p)));
}

std::string sm90_int8_i8_why_not(const Problem& p) {
  const core::Scheme& s = p.scheme;
  if (s.method != Method::chitu_int8 && s.method != Method::int_flash) return "computes methods chitu_int8 and int_flash only";
  if (s.smooth_q || s.smooth_v) return "does not smooth Q or V";
  return eight_bit_why_not(p);
}

std::string sm90_int8_f8_why_not(const Problem& p) {
  const core::Scheme& s = p.scheme;
  if (s.method != Method::chitu_fast && s.method != Method::sage2) return "computes methods chitu_fast and sage2 only";
  if (p.quantized_kv && p.seqlen_q <= kDecodeRows && p.num_heads_q < kHeadsWorthTiles)
    return core::concat("turns V of a QuantizedKV into tiles for every call, which a decoding step of fewer than ", kHeadsWorthTiles, " heads is not worth");
  if (s.smooth_q || s.smooth_v) return "does not smooth Q or V";
  if (s.k_grain.block != 128) return "wants K scales that 128 keys share";
  const bool fp8 = s.method == Method::chitu_fast || (s.accumulate == core::Accumulate::fp8_tile && s.tile_n == 128);
  if (!fp8) return "sums products in FP8 accumulators of 128 keys";
  return eight_bit_why_not(p);
}

void run_sm90_int8_f16(const core::Call& call, core::Workspace& ws) {
  run_quantized(call, ws, false, call.problem.scheme.method == Method::chitu ? sm90::launch_int8_f16 : sm90::launch_int8_f16_peers);
}

void run_sm90_f16_f16(const core::Call& call, core::Workspace& ws) {
  sm90::AttentionParams x = params_of(call.problem);
  const DeviceGuard guard(call.problem.device.index);
  take_order(call, ws, x);
  if (ws.measuring()) return;
  fill_tensors(call, x);
  x.k = view_of(make_view(call.args.k));
  x.v = view_of(make_view(call.args.v));
  CHITU_CUDA(sm90::launch_f16_f16(x, stream_of(call.stream)));
}

void run_sm90_int8_i8(const core::Call& call, core::Workspace& ws) {
  run_quantized(call, ws, false, call.problem.scheme.method == Method::chitu_int8 ? sm90::launch_int8_i8 : sm90::launch_int8_i8_running);
}

void run_sm90_int8_f8(const core::Call& call, core::Workspace& ws) {
  run_quantized(call, ws, true, call.problem.scheme.method == Method::chitu_fast ? sm90::launch_int8_f8 : sm90::launch_int8_f8_running);
}

}  // namespace chitu::cuda
