#pragma once

// Closed-form prediction of the rounding error of any Scheme, row by row: first-order propagation of independent uniform roundings through the softmax
// (docs/methods.md 5). Bars of tests are z = measured rms / predicted rms; a z that is too small is a failure as well (something was not rounded).
//
// It derives all scales itself, in fp64, from the mathematical definition of the groups, not from the code that it judges.

#include <cstdint>
#include <span>
#include <vector>

#include "core/mask.h"
#include "core/scheme.h"

namespace chitu::eval {

/// One head of one sequence: contiguous rows.
struct HeadInputs {
  const float* q = nullptr;  ///< [seqlen_q, head_dim]
  const float* k = nullptr;  ///< [seqlen_k, head_dim]
  const float* v = nullptr;  ///< [seqlen_k, head_dim_v]
  std::int64_t seqlen_q = 0, seqlen_k = 0, head_dim = 0, head_dim_v = 0;
};

struct ErrorPrediction {
  std::vector<double> variance;   ///< [rows, head_dim_v], of out
  std::vector<double> lse_sigma;  ///< [rows]
  std::vector<double> exact;      ///< [rows, head_dim_v], the fp64 result the errors are around
  std::vector<double> lse;        ///< [rows]
};

/// rows: query indices. out_dtype: f32 adds nothing, 16-bit adds its own rounding. Cost per row: seqlen_k * head_dim * head_dim_v.
ErrorPrediction predict_error(const core::Scheme& scheme, const HeadInputs& head, const core::MaskParams& mask, double softmax_scale,
                              std::span<const std::int64_t> rows, DType out_dtype = DType::f32);

struct ZScore {
  double overall = 0;     ///< sqrt(sum error^2 / sum variance)
  double worst_row = 0;   ///< the same, per row, largest
  double lse_sigmas = 0;  ///< largest (|lse error| - 1e-5 - 2^-20 |lse|) / sigma, at least 0
};
/// out: [rows, head_dim_v], lse: [rows] or empty. Pools of several heads: add the predictions' vectors behind each other.
ZScore z_score(const ErrorPrediction& prediction, std::span<const float> out, std::span<const float> lse);

}  // namespace chitu::eval
