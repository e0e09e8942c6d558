// Which problems the sm_90 kernels serve, and the way to the right instantiation.
#include "params.h"

namespace chitu::cuda::sm90 {

cudaError_t launch_int8_f16_d64(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f16_d96(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f16_d128(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f16_d256(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f16_peers_d64(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f16_peers_d96(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f16_peers_d128(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f16_peers_d256(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_f16_f16_d64(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_f16_f16_d96(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_f16_f16_d128(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_f16_f16_d256(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f8_d64(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f8_d96(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f8_d128(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f8_d256(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f8_running_d64(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f8_running_d96(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f8_running_d128(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_f8_running_d256(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_i8_d64(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_i8_d96(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_i8_d128(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_i8_d256(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_i8_running_d64(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_i8_running_d96(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_i8_running_d128(const AttentionParams& p, cudaStream_t stream);
cudaError_t launch_int8_i8_running_d256(const AttentionParams& p, cudaStream_t stream);

namespace {

bool aligned16(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// What a tensor map can describe: 16-byte strides, positive where they are used, below 2^40 bytes.
bool mappable(const View& v, int seqlen, int heads, int batch) {
  auto fits = [](int64_t stride, int size) { return size <= 1 || (stride > 0 && stride % 8 == 0 && stride < (int64_t{1} << 38)); };
  return aligned16(v.data) && fits(v.seq_stride, seqlen) && fits(v.head_stride, heads) && fits(v.batch_stride, batch);
}

const char* supports_common(const AttentionParams& p) {
  constexpr int kMaxLength = 1 << 29;  // sums of rows and window offsets stay inside 32 bits
  if (p.head_dim != 64 && p.head_dim != 96 && p.head_dim != 128 && p.head_dim != 256) return "head_dim is not 64, 96, 128 or 256";
  if (p.input == Float::f32) return "f32 inputs";
  if (p.num_heads_kv <= 0 || p.num_heads_q % p.num_heads_kv != 0) return "num_heads_q is not a multiple of num_heads_kv";
  if (p.rows_q() > kMaxLength || p.rows_k() > kMaxLength) return "more than 2^29 tokens";
  if (int64_t{p.batch} * p.num_heads_q > (1 << 20) || int64_t{p.batch} * p.num_heads_q * ((p.seqlen_q + 127) / 128) > (1 << 30)) return "too many heads";
  return nullptr;
}

bool makes_bias(const AttentionParams& p) { return p.k_mean && !p.bias; }

const char* supports_v(const AttentionParams& p) {
  return p.seqlen_k > 0 && !mappable(p.v, p.rows_k(), p.num_heads_kv, p.tensor_batch()) ? "v does not have 16-byte aligned, positive strides" : nullptr;
}

const char* supports_int8_q(const AttentionParams& p) {
  return makes_bias(p) && !mappable(p.q, p.rows_q(), p.num_heads_q, p.tensor_batch()) ? "q does not have 16-byte aligned, positive strides" : nullptr;
}

}  // namespace

const char* supports_int8_f16(const AttentionParams& p) {
  if (const char* reason = supports_common(p)) return reason;
  if (const char* reason = supports_v(p)) return reason;
  return supports_int8_q(p);
}

const char* supports_8bit(const AttentionParams& p) {
  if (const char* reason = supports_common(p)) return reason;
  if (int64_t{p.tensor_batch()} * p.num_heads_kv * p.tiles_k > (1 << 30)) return "too many key tiles";
  return supports_int8_q(p);
}

const char* supports_f16_f16(const AttentionParams& p) {
  if (const char* reason = supports_common(p)) return reason;
  if (const char* reason = supports_v(p)) return reason;
  if (!(p.softmax_scale >= 0)) return "negative softmax_scale";  // the row maximum would be a minimum
  if (!mappable(p.q, p.rows_q(), p.num_heads_q, p.tensor_batch())) return "q does not have 16-byte aligned, positive strides";
  if (p.seqlen_k > 0 && !mappable(p.k, p.rows_k(), p.num_heads_kv, p.tensor_batch())) return "k does not have 16-byte aligned, positive strides";
  return nullptr;
}

namespace {
using Launch = cudaError_t (*)(const AttentionParams&, cudaStream_t);

cudaError_t by_head_dim(const AttentionParams& p, cudaStream_t stream, Launch d64, Launch d96, Launch d128, Launch d256) {
  const Launch launch = p.head_dim == 64 ? d64 : p.head_dim == 96 ? d96 : p.head_dim == 128 ? d128 : p.head_dim == 256 ? d256 : nullptr;
  return launch != nullptr ? launch(p, stream) : cudaErrorInvalidValue;
}
}  // namespace

cudaError_t launch_int8_f16(const AttentionParams& p, cudaStream_t stream) {
  return by_head_dim(p, stream, launch_int8_f16_d64, launch_int8_f16_d96, launch_int8_f16_d128, launch_int8_f16_d256);
}
cudaError_t launch_int8_f16_peers(const AttentionParams& p, cudaStream_t stream) {
  return by_head_dim(p, stream, launch_int8_f16_peers_d64, launch_int8_f16_peers_d96, launch_int8_f16_peers_d128, launch_int8_f16_peers_d256);
}
cudaError_t launch_f16_f16(const AttentionParams& p, cudaStream_t stream) {
  return by_head_dim(p, stream, launch_f16_f16_d64, launch_f16_f16_d96, launch_f16_f16_d128, launch_f16_f16_d256);
}
cudaError_t launch_int8_f8(const AttentionParams& p, cudaStream_t stream) {
  return by_head_dim(p, stream, launch_int8_f8_d64, launch_int8_f8_d96, launch_int8_f8_d128, launch_int8_f8_d256);
}
cudaError_t launch_int8_f8_running(const AttentionParams& p, cudaStream_t stream) {
  return by_head_dim(p, stream, launch_int8_f8_running_d64, launch_int8_f8_running_d96, launch_int8_f8_running_d128, launch_int8_f8_running_d256);
}
cudaError_t launch_int8_i8(const AttentionParams& p, cudaStream_t stream) {
  return by_head_dim(p, stream, launch_int8_i8_d64, launch_int8_i8_d96, launch_int8_i8_d128, launch_int8_i8_d256);
}
cudaError_t launch_int8_i8_running(const AttentionParams& p, cudaStream_t stream) {
  return by_head_dim(p, stream, launch_int8_i8_running_d64, launch_int8_i8_running_d96, launch_int8_i8_running_d128, launch_int8_i8_running_d256);
}

}  // namespace chitu::cuda::sm90
