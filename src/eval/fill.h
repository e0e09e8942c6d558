#pragma once

// The seeded input sets of the accuracy study, the tests and `chitu bench` (definitions in fill.cc, one function each; docs/accuracy-study.md lists them).

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "chitu/tensor.h"

namespace chitu::eval {

struct Shape {
  std::int64_t batch = 1, seqlen_q = 0, seqlen_k = 0, num_heads_q = 1, num_heads_kv = 1, head_dim = 0, head_dim_v = 0;
};

/// Three tensors [batch, seqlen, num_heads, head_dim], contiguous f32; the values are already rounded to the dtype the set was made for.
struct Inputs {
  Shape shape;
  std::vector<float> q, k, v;
};

enum class Family : std::uint8_t {
  gaussian,
  uniform,
  rare_outliers,
  k_bias,
  k_bias_rope,
  k_first_tile,
  sinks,
  student_t,
  v_channels,
  v_token,
  k_tokens,
  logit_std,
  v_mean,
  ar1,
  dominant_key,
  weak_v_token,
  k_drift,
  k_segments,
  constant_v,
  zero_rows,
  constant_channels
};

/// A family with its parameters. Sets "1" .. "15" are those of the published tables; "16*" have one dominant key per tile, "17*" one weak V token per tile.
struct InputSet {
  const char* name;   ///< "1", "7", "16-gap6-mean1", "drift" ..: what the command line and the tables say
  const char* title;  ///< a few words
  Family family;
  double strength = 0;  ///< bias norm, gap in nats, correlation, factor: see fill.cc
  double v_mean = 0;    ///< added to V (dominant_key)
  bool flat = false;    ///< dominant_key: all other scores nearly equal
};

std::span<const InputSet> input_sets();
/// nullptr for an unknown name.
const InputSet* find_input_set(std::string_view name);

/// Fills the whole problem. Values are rounded to round_to; softmax_scale enters the sets that are defined by a gap in nats (0 = 1/sqrt(head_dim)).
/// The values do not depend on the number of threads, which share the KV heads (0 = one per core).
Inputs make_inputs(const InputSet& set, const Shape& shape, std::uint64_t seed, DType round_to = DType::f16, double softmax_scale = 0, int threads = 1);

/// The values in `dtype` (f32, f16 or bf16), packed: what a TensorView points at.
std::vector<unsigned char> encode(std::span<const float> values, DType dtype);
/// The inverse.
std::vector<float> decode(const void* data, std::int64_t n, DType dtype);

}  // namespace chitu::eval
