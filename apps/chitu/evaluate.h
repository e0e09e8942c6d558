// Accuracy of one method on one call, against attention in fp64 on sampled rows.
#pragma once

#include <vector>

#include "call.h"
#include "chitu/chitu.h"
#include "eval/compare.h"
#include "eval/exact64.h"

namespace chitu::cli {

/// Rows come from whole blocks of 128 queries, the same for all heads: a method that has only its specification here runs on those blocks alone, and
/// every group of rows that shares a scale is then complete.
struct Sample {
  static constexpr int64_t kBlock = 128;
  struct Block {
    int64_t start, length;
  };
  std::vector<Block> blocks;         ///< start is a multiple of kBlock
  std::vector<eval::RowIndex> rows;  ///< sorted by sequence, head, row
  bool all = false;                  ///< every row of the call
};

/// About max_rows rows (0: as many as an fp64 reference of `multiply_adds` affords, at least 64), at least one per head; all rows when that is not more.
Sample choose_sample(const AttentionArgs& args, int64_t max_rows, double multiply_adds);

/// Output rows in the order of Sample::rows.
struct SampledOutput {
  int64_t head_dim_v = 0;
  std::vector<float> out;
  std::vector<float> lse;
};

SampledOutput sample_output(const ConstTensorView& out, const float* lse, const Sample& sample);

/// Runs the call on the blocks of the sample only, heads in parallel (a specification computes one head at a time). `host` has inputs in host memory.
SampledOutput run_blocks(const AttentionArgs& host, const AttentionOptions& options, const Sample& sample);

struct Accuracy {
  eval::Metrics overall;
  std::vector<eval::Metrics> heads;  ///< one per (batch, query head), batch-major
  eval::RowIndex worst{};            ///< row with the largest relative error
};

Accuracy judge(const SampledOutput& got, const eval::ExactRows& reference, const Sample& sample, int64_t batch, int64_t num_heads);

/// Share of the 128-key tiles whose V has token scales spread over more than 4x (chitu_int8 then takes a scale per token; docs/methods.md 2).
double flagged_tile_share(const ConstTensorView& v);

}  // namespace chitu::cli
