#pragma once

// Attention of one row in fp64, straight from the text of include/chitu/attention.h. Shares no code with src/eval or the backends (except the decoding
// of 16-bit floats, which test_codec checks exhaustively), so it also judges src/eval.

#include <cstdint>
#include <vector>

#include "chitu/attention.h"

namespace chitu::test {

struct OracleRow {
  std::vector<double> out;        ///< [head_dim_v]
  double lse = 0;                 ///< -inf when no key is visible
  std::int64_t visible = 0;       ///< keys
  double largest_weight = 0;      ///< max_j p_j
  double weight_norm = 0;         ///< sqrt(sum p_j^2)
  double largest_score = 0;       ///< max_j |softmax_scale q.k_j + mask|
  std::vector<double> low, high;  ///< per channel: range of v over the visible keys
  double largest_v = 0;           ///< max |v| over the visible keys
  /// Nothing that rounds rows of q and k to int8 with a scale of at least their group's absmax / 127 can move a logit by more (numerics: hard bound).
  double logit_bound = 0;
};

/// Row i of head h of sequence b (i counts within the sequence). Reads CPU tensors.
OracleRow oracle_row(const AttentionArgs& args, const AttentionOptions& options, std::int64_t b, std::int64_t h, std::int64_t i);

/// Number of sequences of a call, and of queries of one.
std::int64_t oracle_sequences(const AttentionArgs& args);
std::int64_t oracle_queries(const AttentionArgs& args, std::int64_t b);
/// out and lse as the call left them.
float read_out(const AttentionArgs& args, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c);
float read_lse(const AttentionArgs& args, std::int64_t b, std::int64_t h, std::int64_t i);

}  // namespace chitu::test
