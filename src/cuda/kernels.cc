// The table of CUDA rows, in order of preference. Plain C++: not compiled by nvcc.

#include "core/kernel.h"
#include "cuda/attention_call.h"
#include "cuda/tuning.h"
#if defined(CHITU_CUDA_SM90)
#include "cuda/sm90_rows.h"
#endif

namespace chitu::cuda {
namespace {

using core::PFormat;
using core::Problem;
using core::VFormat;

std::string too_large(const Problem& p) {
  const std::int64_t q_blocks = p.batch * p.num_heads_q * div_up(p.seqlen_q, kTile) * 64;
  const std::int64_t k_blocks = p.batch * p.num_heads_kv * div_up(p.seqlen_k, kTile);
  if (q_blocks / 64 > kMaxBlocks / 64 || k_blocks > kMaxBlocks / 2) return "batch x heads x blocks of 128 rows exceeds what one launch holds (2^31 blocks)";
  if (p.seqlen_q >= 0x7fffff00 || p.seqlen_k >= 0x7fffff00) return "sequences are limited to 2^31 tokens";
  return {};
}

std::string sm80_common(const Problem& p) {
  if (p.caps.capability < 80) return core::concat("needs compute capability 8.0 or newer, this GPU has ", p.caps.capability / 10, ".", p.caps.capability % 10);
  if (p.scheme.reverse) return "visits key tiles first to last";
  return too_large(p);
}

std::string f16_f16_why_not(const Problem& p) {
  if (p.scheme.method != Method::exact) return "computes method exact only";
  if (p.dtype == DType::f32) return "exact attention of f32 tensors is not available on CUDA; convert to f16 or bf16, or name a quantized method";
  if (p.quantized_kv) return "reads k and v, not a QuantizedKV";
  return sm80_common(p);
}

/// What all rows with int8 Q and K ask of a scheme.
std::string int8_qk(const Problem& p) {
  const core::Scheme& s = p.scheme;
  if (!s.q_grain.quantized() || !s.k_grain.quantized()) return "multiplies Q and K in int8; this scheme keeps them in 16 bits";
  if (s.smooth_q) return "does not smooth Q (scheme.smooth_q); the scheme without it serves, or ref_scheme on the CPU";
  if (s.smooth_v) return "does not smooth V (scheme.smooth_v); the scheme without it serves, or ref_scheme on the CPU";
  const bool q_known = s.q_grain.block <= kTile && kTile % s.q_grain.block == 0;
  const bool k_known = s.k_grain.block == 1 || ((s.k_grain.block == 64 || s.k_grain.block == 128) && (s.k_grain.groups == 1 || s.k_grain.groups == 4));
  if (!q_known || !k_known) return "has no kernel for scales of this granularity";
  return sm80_common(p);
}

std::string int8_f16_why_not(const Problem& p) {
  const core::Scheme& s = p.scheme;
  if (std::string why = int8_qk(p); !why.empty()) return why;
  const bool half = (s.p == PFormat::f16 && s.v == VFormat::f16) || (s.p == PFormat::bf16 && s.v == VFormat::bf16);
  if (!half || s.p_ref == core::PReference::tile) return "multiplies P and V in 16 bits against the running maximum; this scheme does not";
  if (s.accumulate == core::Accumulate::f16) {
    return "does not keep one f16 sum over a whole row (scheme.pv_accumulation fp16 overflows on long rows); fp16_fp32 and fp32 serve";
  }
  return {};
}

std::string int8_f8_why_not(const Problem& p) {
  if (std::string why = int8_qk(p); !why.empty()) return why;
  if (p.scheme.p != PFormat::e4m3 || p.scheme.v != VFormat::e4m3_channel) return "rounds P and V to e4m3; this scheme does not";
  return {};
}

std::string int8_i8_why_not(const Problem& p) {
  const core::Scheme& s = p.scheme;
  if (std::string why = int8_qk(p); !why.empty()) return why;
  const bool c3 = s.p == PFormat::u8 && s.v == VFormat::s8_c3 && s.p_ref == core::PReference::tile && s.p_sum == core::PSum::corrected;
  const bool running = s.p == PFormat::s8 && s.v == VFormat::s8_tensor && s.p_ref == core::PReference::running && s.p_sum == core::PSum::raw;
  if (!c3 && !running) return "multiplies 8-bit integers P and V as chitu_int8 and int_flash do; this scheme does not";
  return {};
}

std::string decode_int8_i8_why_not(const Problem& p) {
  if (p.scheme.method != Method::chitu_int8) return "computes method chitu_int8 only";
  if (p.seqlen_q > kDecodeRows) return core::concat("takes up to ", kDecodeRows, " query rows per head, a decoding step, not ", p.seqlen_q);
  if (p.packed) return "does not take packed sequences (cu_seqlens)";
  if (p.dense_mask != core::DenseMask::none) return "does not take a dense mask";
  return int8_i8_why_not(p);
}

constexpr core::Kernel kTable[] = {
    {"sm80_decode_int8_i8", DeviceType::cuda, true, false, decode_int8_i8_why_not, run_sm80_decode, sm80_executes},
#if defined(CHITU_CUDA_SM90)
    {"sm90_int8_f16", DeviceType::cuda, true, false, sm90_int8_f16_why_not, run_sm90_int8_f16, sm90_int8_f16_executes},
    {"sm90_f16_f16", DeviceType::cuda, true, false, sm90_f16_f16_why_not, run_sm90_f16_f16, sm90_executes},
    {"sm90_int8_f8", DeviceType::cuda, true, false, sm90_int8_f8_why_not, run_sm90_int8_f8, sm90_int8_f8_executes},
    {"sm90_int8_i8", DeviceType::cuda, true, false, sm90_int8_i8_why_not, run_sm90_int8_i8, sm90_int8_i8_executes},
#endif
    {"sm80_int8_f16", DeviceType::cuda, true, false, int8_f16_why_not, run_sm80_quantized, sm80_executes},
    {"sm80_f16_f16", DeviceType::cuda, true, false, f16_f16_why_not, run_sm80_exact, sm80_executes},
    {"sm80_int8_i8", DeviceType::cuda, true, false, int8_i8_why_not, run_sm80_quantized, sm80_executes},
    {"sm80_int8_f8", DeviceType::cuda, true, false, int8_f8_why_not, run_sm80_quantized, sm80_executes},
};

std::string unavailable(Device d) {
  const int n = device_count();
  if (n == 0) return "no CUDA device is visible (no GPU, no driver, or CUDA_VISIBLE_DEVICES hides them)";
  if (d.index < 0 || d.index >= n) return core::concat("there is no CUDA device ", d.index, ": ", n, " visible");
  return {};
}

core::DeviceCaps caps(Device d) { return device_caps(d.index); }

void* allocate(Device d, std::size_t bytes, Stream stream) {
  const DeviceGuard guard(d.index);
  void* memory = nullptr;
  CHITU_CUDA(cudaMallocAsync(&memory, bytes, stream_of(stream)));
  return memory;
}

void deallocate(Device d, void* memory, Stream stream) {
  const DeviceGuard guard(d.index);
  CHITU_CUDA(cudaFreeAsync(memory, stream_of(stream)));
}

}  // namespace

const core::Backend& backend() {
  static const core::Backend table{DeviceType::cuda, kTable, unavailable, caps, quantize_why_not, quantized_kv_bytes, quantize_kv, merge, allocate, deallocate};
  return table;
}

}  // namespace chitu::cuda
