#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "chitu/export.h"
#include "chitu/method.h"
#include "chitu/tensor.h"

namespace chitu {

struct QuantizedKV;

/// Key j is visible to query i iff i + diagonal - left <= j <= i + diagonal + right. Causal is right = 0.
/// diagonal defaults to seqlen_k - seqlen_q of each sequence (bottom-right, as FlashAttention); 0 is top-left (as PyTorch's SDPA).
struct Mask {
  std::optional<std::int64_t> left, right, diagonal;
  static Mask causal() { return {std::nullopt, 0, std::nullopt}; }
  static Mask causal_top_left() { return {std::nullopt, 0, 0}; }
  static Mask window(std::int64_t left, std::int64_t right) { return {left, right, std::nullopt}; }
};

/// Variable length. Packed (cu_seqlens_q and cu_seqlens_k set): q is [1, total_q, heads, dim], k and v [1, total_k, heads, dim], sequence b
/// is rows [cu_seqlens[b], cu_seqlens[b+1]), batch + 1 entries each. Padded (only seqlens_k set): the first seqlens_k[b] keys of batch b count.
/// Arrays live on the device of q. max_seqlen_* are host-side upper bounds, so planning and launching never synchronize. Empty sequences are legal.
struct Sequences {
  const std::int32_t* cu_seqlens_q = nullptr;
  const std::int32_t* cu_seqlens_k = nullptr;
  const std::int32_t* seqlens_k = nullptr;
  std::int64_t batch = 0;         ///< number of packed sequences; ignored unless cu_seqlens are set
  std::int64_t max_seqlen_q = 0;  ///< packed only: no sequence is longer
  std::int64_t max_seqlen_k = 0;
};

/// Everything one call reads and writes.
struct AttentionArgs {
  ConstTensorView q, k, v;          ///< one dtype among f32, f16, bf16; num_heads_q is a multiple of num_heads_kv (GQA, MQA)
  const QuantizedKV* kv = nullptr;  ///< instead of k and v
  ConstTensorView mask;             ///< optional (data == nullptr: none), [batch, num_heads_q, seqlen_q, seqlen_k], stride 0 broadcasts, any strides;
                                    ///< boolean: true = visible; f32, f16, bf16: added to softmax_scale * q.k in natural-log units. Not with packed sequences.
  TensorView out;                   ///< [batch, seqlen_q, num_heads_q, head_dim_v]; dtype of q, or f32. Must not overlap an input.
  LseView lse;                      ///< optional (data == nullptr: none): natural log-sum-exp of the masked scaled logits, -inf for a row without a key
  Sequences sequences;
};

enum class Granularity : std::uint8_t { per_block, per_warp, per_thread, per_token };
/// How the P.V product of sage1 and sage2 is accumulated (numerics in docs/methods.md).
enum class PvAccumulation : std::uint8_t { fp32, fp32_fp32, fp32_fp16, fp16, fp16_fp32 };
/// The two published groupings of SageAttention's scales: its Hopper kernel and its mma.sync kernels.
enum class FragmentFamily : std::uint8_t { sm90, mma_sync };

/// Departures from a method's default scheme. Only the sage and int_flash methods take them; any field a method cannot honour is an error, and so is any
/// departure beside a QuantizedKV, which is made in the default scheme.
struct SchemeOptions {
  std::optional<Granularity> granularity;
  std::optional<FragmentFamily> family;
  std::optional<PvAccumulation> pv_accumulation;
  std::optional<bool> smooth_k, smooth_q, smooth_v;
};

/// Numbers only: with the shapes they decide the plan.
struct AttentionOptions {
  Method method = Method::automatic;
  Mask mask;
  std::optional<float> softmax_scale;  ///< default 1/sqrt(head_dim); any finite value
  SchemeOptions scheme;
  std::string kernel;  ///< force one row by name (see list_kernels); empty = choose
};

/// Immutable, cheap to copy, shareable between threads; holds no device memory.
class CHITU_API Plan {
 public:
  std::size_t workspace_bytes() const;
  std::string_view kernel() const;
  Method method() const;
  std::string describe() const;

  struct Impl;
  explicit Plan(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

/// Validates and chooses a kernel. Reads shapes and numbers, no tensor contents (on the CPU also the sequence arrays, to check them); pure, thread-safe.
/// Throws InvalidArgument or Unsupported.
CHITU_API Plan plan(const AttentionArgs& args, const AttentionOptions& options = {});
/// Runs a plan made for arguments of the same shapes, dtypes and strides. workspace: at least workspace_bytes(), 256-byte aligned, on the device of q
/// (host memory on the CPU). No allocation, no synchronization, no device query: safe to capture in a CUDA graph.
CHITU_API void run(const Plan& plan, const AttentionArgs& args, void* workspace, Stream stream = {});
/// plan + allocate + run. CUDA: the workspace comes from the stream-ordered allocator.
CHITU_API void attention(const AttentionArgs& args, const AttentionOptions& options = {}, Stream stream = {});

/// (out, lse) <- merge of two partial results over disjoint keys, both normalised. out and out_b are f32 [batch, seqlen, heads, head_dim].
/// An empty side (lse = -inf) is the identity; two empty sides give (0, -inf).
CHITU_API void merge_states(const TensorView& out, const LseView& lse, const ConstTensorView& out_b, const LseView& lse_b, Stream stream = {});

/// Runs body(i) for i in [0, n), in any order and on any threads, and returns when all are done.
using ParallelFor = std::function<void(std::int64_t n, const std::function<void(std::int64_t)>& body)>;
/// CPU threads of later calls (0 = default: CHITU_NUM_THREADS, else the affinity mask). Thread-safe; do not call while a call is running.
CHITU_API void set_num_threads(int n);
CHITU_API int num_threads();
/// Replaces the library's thread pool by a host framework's parallel loop; an empty function restores the pool.
CHITU_API void set_parallel_for(ParallelFor parallel_for);

}  // namespace chitu
