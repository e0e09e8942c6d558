#pragma once

// THE interface between the front (attention.cc, registry.cc) and the backends (reference, cpu, cuda).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "chitu/attention.h"
#include "chitu/quantize.h"
#include "core/mask.h"
#include "core/scheme.h"
#include "core/workspace.h"

namespace chitu::core {

enum class DenseMask : std::uint8_t { none, boolean, additive };

/// What a GPU is; zero on the CPU.
struct DeviceCaps {
  int capability = 0;  ///< 90 for sm_90
  int sm_count = 0;
  friend bool operator==(const DeviceCaps&, const DeviceCaps&) = default;
};

/// One call in plain numbers: every optional resolved. Two calls with equal Problems take the same kernel and the same workspace.
struct Problem {
  Device device{};
  DeviceCaps caps{};
  DType dtype = DType::f32;                 ///< of q, k and v
  DType out_dtype = DType::f32;             ///< dtype, or f32
  Scheme scheme;                            ///< method and numerics
  std::int64_t batch = 0;                   ///< sequences
  std::int64_t seqlen_q = 0, seqlen_k = 0;  ///< per sequence; packed: the upper bounds max_seqlen_q, max_seqlen_k
  std::int64_t total_q = 0, total_k = 0;    ///< rows of the packed tensors; else batch * seqlen
  std::int64_t num_heads_q = 0, num_heads_kv = 0, head_dim = 0, head_dim_v = 0;
  MaskParams mask;
  DenseMask dense_mask = DenseMask::none;
  DType mask_dtype = DType::boolean;
  float softmax_scale = 0.0f;
  bool packed = false;  ///< cu_seqlens_q and cu_seqlens_k
  bool padded = false;  ///< seqlens_k
  bool has_lse = false;
  bool quantized_kv = false;  ///< args.kv instead of k and v
  bool aligned16 = false;     ///< base addresses and strides of q, k, v and out are multiples of 16 bytes, no stride is 0 (what TMA needs)
  std::int64_t group() const { return num_heads_kv == 0 ? 0 : num_heads_q / num_heads_kv; }  ///< a call without heads is legal
  friend bool operator==(const Problem&, const Problem&) = default;
};

struct Call {
  const Problem& problem;
  const AttentionArgs& args;
  Stream stream;
};

/// A row of a backend's table. Table order is preference order.
struct Kernel {
  const char* name;  ///< <family>_<qk>_<pv>; f16 stands for both 16-bit floats, i8 for s8 or u8; decode: few query rows
  DeviceType device;
  bool verified;   ///< has passed the suite on real hardware, in a build that docs/kernels names (README: what changed since); automatic takes another only if
                   ///< nothing else serves
  bool reference;  ///< a specification, not a kernel: automatic never picks it
  /// Empty: serves it. Else a sentence for the user.
  std::string (*why_not)(const Problem&);
  /// Takes all workspace first and returns while ws.measuring(); sizes depend on the Problem only.
  void (*run)(const Call&, Workspace& ws);
  /// The scheme the row executes for this problem (its exponential, tile order ..); problem.scheme when null.
  Scheme (*executes)(const Problem&);
};

/// Sizes of a quantize_kv call, resolved.
struct QuantizeProblem {
  Device device{};
  DeviceCaps caps{};
  DType dtype = DType::f32;
  Scheme scheme;
  std::int64_t batch = 0, seqlen_k = 0, num_heads_kv = 0, head_dim = 0, head_dim_v = 0;
  bool padded = false;
};
struct QuantizeCall {
  const QuantizeProblem& problem;
  const ConstTensorView& k;
  const ConstTensorView& v;
  const std::int32_t* seqlens_k;
  Stream stream;
};
struct MergeCall {
  const TensorView& out;
  const LseView& lse;
  const ConstTensorView& out_b;
  const LseView& lse_b;
  Stream stream;
};

struct Backend {
  DeviceType device;
  std::span<const Kernel> kernels;
  /// Empty: this machine has the device. Else a sentence.
  std::string (*unavailable)(Device);
  DeviceCaps (*caps)(Device);
  /// Null where the backend has no 8-bit K/V cache.
  std::string (*quantize_why_not)(const QuantizeProblem&);
  std::size_t (*quantized_kv_bytes)(const QuantizeProblem&);
  /// Measures when ws.measuring(); blob may then be null.
  void (*quantize_kv)(const QuantizeCall&, void* blob, Workspace& ws);
  void (*merge)(const MergeCall&);
  void* (*allocate)(Device, std::size_t bytes, Stream);
  void (*deallocate)(Device, void*, Stream);
};

/// Where sequence b lies: rows of q, out and lse; rows of k and v; the batch index into the tensors (0 when packed).
struct SequenceRange {
  std::int64_t tensor_batch, q_begin, q_len, k_begin, k_len;
};

/// Reads the arrays of `sequences` (host memory on the CPU, device memory in a kernel). Lengths are clamped to what the tensors hold, because device
/// arrays cannot be checked without a synchronization.
CHITU_HD inline SequenceRange sequence_range(bool packed, const std::int32_t* cu_q, const std::int32_t* cu_k, const std::int32_t* seqlens_k,
                                             std::int64_t seqlen_q, std::int64_t seqlen_k, std::int64_t total_q, std::int64_t total_k, std::int64_t b) {
  auto clamp = [](std::int64_t x, std::int64_t lo, std::int64_t hi) { return x < lo ? lo : (x > hi ? hi : x); };
  if (!packed) {
    const std::int64_t n = seqlens_k == nullptr ? seqlen_k : clamp(seqlens_k[b], 0, seqlen_k);
    return {b, 0, seqlen_q, 0, n};
  }
  const std::int64_t q0 = clamp(cu_q[b], 0, total_q), k0 = clamp(cu_k[b], 0, total_k);
  return {0, q0, clamp(cu_q[b + 1] - q0, 0, seqlen_q < total_q - q0 ? seqlen_q : total_q - q0), k0,
          clamp(cu_k[b + 1] - k0, 0, seqlen_k < total_k - k0 ? seqlen_k : total_k - k0)};
}
inline SequenceRange sequence_range(const Problem& p, const Sequences& s, std::int64_t b) {
  return sequence_range(p.packed, s.cu_seqlens_q, s.cu_seqlens_k, s.seqlens_k, p.seqlen_q, p.seqlen_k, p.total_q, p.total_k, b);
}

}  // namespace chitu::core

namespace chitu::ref {
const core::Backend& backend();
}
namespace chitu::cpu {
const core::Backend& backend();
}
namespace chitu::cuda {
const core::Backend& backend();
int device_count();
}  // namespace chitu::cuda
