#pragma once

// The rows of the tables, the specification beside them, and the two bars: a kernel against the specification of its scheme (tight: anything above is a
// bug), and a result against fp64 (derived from the scheme's roundings by src/eval/error_model.h).

#include <cstdint>
#include <string>
#include <vector>

#include "common/call.h"
#include "core/kernel.h"

namespace chitu::test {

/// Every CPU row, best first; `specification` rows (ref_*) last or left out.
std::vector<const core::Kernel*> cpu_rows(bool with_specification);
/// Every method of list_methods() that `row` serves for this call; `reason` gets the row's own text when there is none.
std::vector<Method> served_methods(const core::Kernel& row, const TestCall& call, std::string* reason = nullptr);

struct Results {
  std::vector<float> out, lse;  ///< contiguous [tensor batch, rows, heads, head_dim_v] and [tensor batch, heads, rows]
};
/// What `row` executes for this call.
core::Scheme executed_scheme(const core::Kernel& row, const TestCall& call, Method method);
/// The reference backend on the same inputs with any scheme; out in f32 whatever the call's type is, lse always.
Results run_specification(const TestCall& call, const core::Scheme& scheme);

/// Collects over many calls. A rounding of P may fall on the other side of a tie, since P itself is only equal to a few units of its last place: such a
/// row may differ by one step of P, and only so many rows may.
class TightComparison {
 public:
  explicit TightComparison(core::PFormat p) : p_(p) {}
  /// Empty, or the first row that no tie explains.
  std::string add(const TestCall& call, const Results& kernel, const Results& specification);
  std::int64_t rows() const { return rows_; }
  std::int64_t ties() const { return ties_; }
  /// As many rows with a tie as are to be expected.
  double expected_ties() const;
  double worst() const { return worst_; }  ///< largest difference in units of its bar, ties aside

 private:
  core::PFormat p_;
  std::int64_t rows_ = 0, keys_ = 0, ties_ = 0;
  double worst_ = 0;
};

/// Result of a call against fp64 on a sample of its rows.
struct AccuracySample {
  double error = 0, variance = 0;  ///< error^2 / predicted variance and 1, summed over rows that the linear model covers and that are large enough to average
  double worst_row = 0;            ///< z of the worst row
  double worst_lse = 0;            ///< |lse error| in units of its bar of 6 sigma
  std::int64_t rows = 0;
  std::int64_t lse_over = 0;  ///< rows beyond that bar
  std::string failure;        ///< empties, infinities, bounds that hold beyond the linear model
  void merge(const AccuracySample& other);
  double z() const;
};
/// rows_per_head: how many rows of each (sequence, head); 0 = all. Calls with a dense mask are held to the bounds only.
AccuracySample accuracy(const TestCall& call, const AttentionOptions& options, const core::Scheme& scheme, const Results& got, int rows_per_head);

}  // namespace chitu::test
