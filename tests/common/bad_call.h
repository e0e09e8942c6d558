#pragma once

// A small legal call of each kind, for tests that spoil one field of it.

#include <string>
#include <vector>

#include "chitu/chitu.h"

namespace chitu::test {

/// "" when body returns, else "<class of the exception>: <text>".
template <class Body>
std::string refusal(const Body& body) {
  try {
    body();
    return {};
  } catch (const InvalidArgument& e) {
    return std::string("InvalidArgument: ") + e.what();
  } catch (const Unsupported& e) {
    return std::string("Unsupported: ") + e.what();
  } catch (const Error& e) {
    return std::string("Error: ") + e.what();
  }
}

enum class Kind { dense, masked, packed, quantized };

/// f16, 2 batches (packed: 2 sequences in one), 5 queries, 7 keys, 4 query heads over 2, head_dim 8.
struct ValidCall {
  std::vector<std::uint16_t> memory = std::vector<std::uint16_t>(8192);  ///< disjoint stretches for every tensor
  std::vector<float> lse_memory = std::vector<float>(256), mask_memory = std::vector<float>(1024);
  alignas(256) char blob[32768] = {};  // more than its shape needs
  std::vector<std::int32_t> cu_q{0, 3, 5}, cu_k{0, 4, 7}, seqlens{1, 2};
  QuantizedKV kv;
  ConstTensorView k_view, v_view;
  AttentionArgs args;
  AttentionOptions options;

  explicit ValidCall(Kind kind) {
    const std::int64_t b = kind == Kind::packed ? 1 : 2;
    args.q = contiguous_view<const void*, 4>(&memory[0], DType::f16, {b, 5, 4, 8});
    k_view = args.k = contiguous_view<const void*, 4>(&memory[1024], DType::f16, {b, 7, 2, 8});
    v_view = args.v = contiguous_view<const void*, 4>(&memory[2048], DType::f16, {b, 7, 2, 8});
    args.out = contiguous_view<void*, 4>(&memory[3072], DType::f16, {b, 5, 4, 8});
    args.lse = contiguous_view<float*, 3>(lse_memory.data(), DType::f32, {b, 4, 5});
    if (kind == Kind::masked) add_mask();
    if (kind == Kind::packed) args.sequences = {cu_q.data(), cu_k.data(), nullptr, 2, 3, 4};
    if (kind == Kind::quantized) {
      kv = {blob, sizeof blob, {}, Method::chitu_int8, DType::f16, 2, 7, 2, 8, 8};
      args.kv = &kv;
      args.k = args.v = {};
      options.method = Method::chitu_int8;
    }
  }
  ValidCall(const ValidCall&) = delete;

  void add_mask() { args.mask = contiguous_view<const void*, 4>(mask_memory.data(), DType::f32, {args.q.shape[0], 4, 5, 7}); }
  void pad(std::int32_t first, std::int32_t second) {
    seqlens = {first, second};
    args.sequences.seqlens_k = seqlens.data();
  }
  void one_batch() { args.q.shape[0] = args.k.shape[0] = args.v.shape[0] = args.out.shape[0] = args.lse.shape[0] = 1; }
  void resize_q(std::int64_t n) { args.q.shape[1] = args.out.shape[1] = args.lse.shape[2] = n; }
  void resize_k(std::int64_t n) { args.k.shape[1] = args.v.shape[1] = n; }
  void widen_out() { args.out = contiguous_view<void*, 4>(&memory[3072], DType::f32, {2, 5, 4, 8}); }
  void move_to(Device d) { args.q.device = args.k.device = args.v.device = args.out.device = args.lse.device = d; }
  /// q, k, v and out as slices of one tensor [2, 5, 12, 8]: heads 0..3, 4..5, 6..7, 8..11 of each row.
  void fuse() {
    const std::array<std::int64_t, 4> stride = {5 * 96, 96, 8, 1};
    args.q = {&memory[4096], DType::f16, {}, {2, 5, 4, 8}, stride};
    args.k = {&memory[4096 + 32], DType::f16, {}, {2, 5, 2, 8}, stride};
    args.v = {&memory[4096 + 48], DType::f16, {}, {2, 5, 2, 8}, stride};
    args.out = {&memory[4096 + 64], DType::f16, {}, {2, 5, 4, 8}, stride};
  }
};

struct MergeOperands {
  std::vector<float> memory = std::vector<float>(1024);
  TensorView out = contiguous_view<void*, 4>(&memory[0], DType::f32, {1, 3, 2, 4});
  LseView lse = contiguous_view<float*, 3>(&memory[128], DType::f32, {1, 2, 3});
  ConstTensorView out_b = contiguous_view<const void*, 4>(&memory[256], DType::f32, {1, 3, 2, 4});
  LseView lse_b = contiguous_view<float*, 3>(&memory[384], DType::f32, {1, 2, 3});
  MergeOperands() = default;
  MergeOperands(const MergeOperands&) = delete;
};

}  // namespace chitu::test
