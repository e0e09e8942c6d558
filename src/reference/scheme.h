#pragma once

// The executable specification: any Scheme, in plain loops (docs/methods.md). Kernel tests compare these objects bit for bit: codes, scales, means, flags,
// integer scores. Everything here is about one head of one sequence.

#include <cstdint>
#include <span>
#include <vector>

#include "chitu/attention.h"
#include "core/mask.h"
#include "core/scheme.h"

namespace chitu::ref {

/// Rows of one (sequence, head) of a tensor; head_dim is contiguous.
struct HeadView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t stride = 0;  ///< elements from row to row
  std::int64_t rows = 0, dim = 0;
  /// Row i in f32 (exact).
  void load(std::int64_t i, float* out) const;
};
HeadView head_view(const ConstTensorView& t, std::int64_t batch, std::int64_t head, std::int64_t first_row, std::int64_t rows);

struct Keys {
  std::int64_t seqlen = 0, head_dim = 0;
  std::vector<float> center;       ///< tile_mean: mu [tiles, head_dim], rounded to the inputs' type; sequence_mean: [head_dim]; none: empty
  std::vector<float> weights;      ///< k_weights: w [head_dim], powers of two; else empty
  std::vector<std::int8_t> codes;  ///< [seqlen, head_dim]; empty when the scheme does not quantize K
  std::vector<float> scales;       ///< [k_grain.count(seqlen)], index k_grain.group(token)
  std::vector<float> values;       ///< centred, weighted and rotated f32 K [seqlen, head_dim]: kept only where something needs it (no codes, or smooth_q)
};
Keys quantize_keys(const core::Scheme& scheme, const HeadView& k);

struct Values {
  std::int64_t seqlen = 0, head_dim_v = 0;
  std::vector<float> decoded;         ///< [seqlen, head_dim_v]: what the PV product multiplies. 8-bit formats: the code's own value (-127..127, or e4m3)
  std::vector<float> channel_scale;   ///< [head_dim_v], applied once at the end: scale of a channel or tensor, c[d] of C3, power of two of f16
  std::vector<float> tile_scale;      ///< s8_c3: t of each plain tile (0 in flagged ones); s8_channel_tile: [tiles, head_dim_v]
  std::vector<std::uint8_t> flagged;  ///< s8_c3: [tiles]
  std::vector<float> token_scale;     ///< s8_c3: t[j], [tiles * tile_n], only meaningful in flagged tiles
  std::vector<float> code_mean;       ///< s8_c3: vbar [tiles, head_dim_v]
  std::vector<float> shift_limit;     ///< s8_c3: tau [tiles], bounds the correction in flagged tiles
  std::vector<float> mean;            ///< smooth_v: [head_dim_v], added back at the end
  std::int8_t code(std::int64_t token, std::int64_t d) const { return static_cast<std::int8_t>(decoded[static_cast<std::size_t>(token * head_dim_v + d)]); }
};
Values quantize_values(const core::Scheme& scheme, const HeadView& v);
/// Channel weights of C3 (docs/methods.md 1), [head_dim_v].
std::vector<float> channel_weights(const HeadView& v);

/// Q is quantized in units of this many rows: every group and mean of a row lies within its unit.
std::int64_t query_unit(const core::Scheme& scheme, std::int64_t seqlen_q);

struct Queries {
  std::int64_t first = 0, rows = 0, head_dim = 0;
  std::vector<float> raw;          ///< [rows, head_dim]: q in f32, negated when softmax_scale < 0
  std::vector<float> mean;         ///< smooth_q: [ceil(rows / 128), head_dim]
  std::vector<std::int8_t> codes;  ///< [rows, head_dim]; empty when the scheme does not quantize Q
  std::vector<float> scales;       ///< [rows]: scale of the row's group
  std::vector<float> values;       ///< only without codes: centred, weighted and rotated f32 q
};
/// Rows [first, first + query_unit) of q, as far as they exist; first is a multiple of query_unit. key_weights: Keys::weights of the KV head.
Queries quantize_queries(const core::Scheme& scheme, const HeadView& q, bool negate, std::int64_t first, const std::vector<float>& key_weights);

/// q8 . k8 of one row (index within q) and keys [begin, end).
void integer_scores(const Queries& q, std::int64_t row, const Keys& k, std::int64_t begin, std::int64_t end, std::int32_t* scores);

/// Dense mask of one (batch, head): element (i, j) is data[i * row_stride + j * key_stride].
struct MaskView {
  const void* data = nullptr;
  DType dtype = DType::boolean;
  std::int64_t row_stride = 0, key_stride = 0;
};

struct HeadProblem {
  const core::Scheme& scheme;
  float softmax_scale;
  core::Band band;
  MaskView mask;
};
/// The rows `rows` (ascending) of one head: out is [rows.size(), head_dim_v], lse [rows.size()] or null.
void attend(const HeadProblem& problem, const HeadView& q, const Keys& k, const Values& v, std::span<const std::int64_t> rows, float* out, float* lse);

/// The definition in fp64: unquantized, the same contract. k and v are the head's own rows.
void attend_exact(const HeadProblem& problem, const HeadView& q, const HeadView& k, const HeadView& v, std::span<const std::int64_t> rows, float* out,
                  float* lse);

}  // namespace chitu::ref
