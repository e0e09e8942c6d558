#pragma once

// One head with sampled query rows, its fp64 result, and any Scheme run on it.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eval/compare.h"
#include "eval/exact64.h"
#include "eval/fill.h"
#include "reference/scheme.h"

namespace chitu::study {

struct Head {
  std::int64_t seqlen_q = 0, seqlen_k = 0, head_dim = 0;
  std::vector<float> q, k, v;
  bool causal = false;
};

class Case {
 public:
  /// `rows` query rows, spread evenly with a seeded jitter.
  Case(Head head, std::int64_t rows, std::uint64_t seed);
  Case(const Case&) = delete;

  struct Result {
    eval::Metrics metrics;
    double flagged = 0;  ///< share of V tiles that are flagged
  };
  Result run(const core::Scheme& scheme);
  /// Judges an output computed elsewhere (rows().size() x head_dim).
  Result judge(const std::vector<float>& out, const std::vector<float>& lse) const;

  const Head& head() const { return head_; }
  const std::vector<std::int64_t>& rows() const { return rows_; }
  core::Band band() const;
  float scale() const;

 private:
  Head head_;
  std::vector<unsigned char> q16_, k16_, v16_;
  std::vector<std::int64_t> rows_;
  eval::ExactRows exact_;
  std::map<std::string, ref::Keys> keys_;  ///< by what they depend on: variants of a method's PV side share them
};

/// One line of the result file.
struct Record {
  std::string part, set, variant;
  std::int64_t head_dim = 0, seqlen = 0;
  bool causal = false;
  std::uint64_t seed = 0;
};
void print(const Record& record, const Case::Result& result);

}  // namespace chitu::study
