#pragma once

// One attention call as data, and the same with memory behind it.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "chitu/chitu.h"
#include "common/memory.h"

namespace chitu::test {

/// bshd, bhsd: contiguous. fused: q, k, v are slices of one [batch, seqlen, 3, heads, dim] tensor where shapes allow, else like gaps.
/// gaps: rows and heads with unused elements between them. odd: bases and strides that are multiples of one element only.
enum class Layout : std::uint8_t { bshd, bhsd, fused, gaps, odd };
enum class DenseKind : std::uint8_t { none, boolean, additive_f32, additive_same };
const char* layout_name(Layout layout);

struct CallSpec {
  std::int64_t batch = 1, seqlen_q = 1, seqlen_k = 1, heads_q = 1, heads_kv = 1, head_dim = 8, head_dim_v = 8;
  DType dtype = DType::f16, out_dtype = DType::f32;
  Mask mask{};
  DenseKind dense = DenseKind::none;
  bool dense_broadcast = false;  ///< one mask for all batches and heads
  Layout layout = Layout::bshd;
  bool lse = true;
  std::vector<std::int32_t> lens_q, lens_k;  ///< both: packed (batch, seqlen_* are derived); only lens_k: padded
  std::optional<float> softmax_scale;
  const char* input_set = "1";
  std::uint64_t seed = 1;

  bool packed() const { return !lens_q.empty(); }
  std::string text() const;
};

/// Lengths of one sequence and where its rows lie in the tensors.
struct SequenceSpan {
  std::int64_t tensor_batch, q_begin, q_len, k_begin, k_len;
};

/// Owns inputs (made from the seed), outputs (poisoned) and their canaries.
class TestCall {
 public:
  explicit TestCall(const CallSpec& spec);
  TestCall(TestCall&&) = delete;  // args() points into this object

  const CallSpec& spec() const { return spec_; }
  const AttentionArgs& args() const { return args_; }
  AttentionArgs& mutable_args() { return args_; }
  AttentionOptions options(Method method, const std::string& kernel = {}) const;

  /// Inputs as the kernel reads them, in f32, contiguous [tensor batch, rows, heads, dim]. set_* writes both copies.
  const std::vector<float>& q() const { return values_[0]; }
  const std::vector<float>& k() const { return values_[1]; }
  const std::vector<float>& v() const { return values_[2]; }
  void set_q(const std::vector<float>& values) { write(0, values); }
  void set_k(const std::vector<float>& values) { write(1, values); }
  void set_v(const std::vector<float>& values) { write(2, values); }
  /// Value of the dense mask: 0, -inf (hidden) or what is added.
  double dense_value(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const;

  std::int64_t sequences() const { return spec_.packed() ? static_cast<std::int64_t>(spec_.lens_q.size()) : spec_.batch; }
  SequenceSpan span(std::int64_t b) const;

  /// Poisons outputs and workspace, plans, runs, and checks canaries, inputs and bytes between the elements of out and lse.
  /// Returns an empty text, or what was wrong. Exceptions of the library pass through.
  std::string run(const AttentionOptions& options, std::uint8_t poison = 0xFF);
  /// Runs with two poisons and two workspace contents: everything must come out the same, bit for bit, so every element is written from inputs alone.
  std::string run_checked(const AttentionOptions& options);

  std::vector<float> out() const;  ///< [tensor batch, rows, heads, head_dim_v]
  std::vector<float> lse() const;  ///< [tensor batch, heads, rows]
  std::int64_t rows_q() const { return rows_q_; }
  std::int64_t rows_k() const { return rows_k_; }
  std::int64_t tensor_batch() const { return tensor_batch_; }

 private:
  void write(int which, const std::vector<float>& values);
  void make_inputs();
  void make_outputs();
  void make_dense_mask();
  std::string memory_fault(const std::vector<std::vector<std::uint8_t>>& inputs_before, std::uint8_t poison) const;

  CallSpec spec_;
  std::int64_t tensor_batch_ = 1, rows_q_ = 0, rows_k_ = 0;
  AttentionArgs args_;
  std::vector<float> values_[3];
  std::vector<float> dense_;
  std::vector<GuardedBuffer> inputs_;  ///< q, k, v (fused: one), mask
  GuardedBuffer out_, lse_;
  std::vector<std::int32_t> cu_q_, cu_k_, seqlens_k_;
};

/// NaN-free bitwise comparison is what most properties want: true when every float has the same bits.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace chitu::test
