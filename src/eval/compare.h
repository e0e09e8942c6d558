#pragma once

// Metrics of an output against the fp64 definition. All sums in double; rows may come from any sample of the tensor.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace chitu::eval {

struct Metrics {
  std::int64_t rows = 0;
  double cos_sim = 1;                        ///< <O, R> / (|O| |R|)
  double rel_l1 = 0;                         ///< sum |O - R| / sum |R|
  double rmse = 0;                           ///< sqrt(mean (O - R)^2)
  double nrmse = 0;                          ///< |O - R| / |R|, the figure that bars are stated in
  double max_diff = 0;                       ///< max |O - R|
  double mean_diff = 0;                      ///< mean |O - R|
  double mean_abs = 0;                       ///< mean |R|
  double worst_row = 0;                      ///< largest |O_i - R_i| / |R_i| over rows (rows with |R_i| = 0 count only if O_i differs: then infinite)
  std::int64_t worst_row_index = -1;         ///< in order of add()
  double lse_max = 0;                        ///< max |lse - ref| over rows finite in both
  double lse_p999 = 0;                       ///< its 99.9th percentile
  std::int64_t nan = 0, inf = 0;             ///< elements of O that are NaN or Inf, whatever R is
  std::int64_t laundered = 0;                ///< elements of O that are finite where R is not: an error of the input that the caller no longer sees
  std::int64_t compared = 0;                 ///< elements finite in both; 0: the sums above say nothing
  std::int64_t lse_compared = 0;             ///< rows finite in both
  std::int64_t lse_not_finite_mismatch = 0;  ///< rows where exactly one of lse, ref is finite, or the infinities differ
  bool clean() const { return nan == 0 && inf == 0 && laundered == 0 && lse_not_finite_mismatch == 0; }
};

/// Add rows, then ask. Elements that are not finite in O or R stay out of the sums (and are counted).
class Comparison {
 public:
  void add(std::span<const float> out, std::span<const double> reference);
  void add_lse(double lse, double reference);
  /// Everything another one has seen (threads, heads).
  void merge(const Comparison& other);
  Metrics metrics() const;

 private:
  std::int64_t rows_ = 0, count_ = 0, nan_ = 0, inf_ = 0, laundered_ = 0, mismatch_ = 0, worst_index_ = -1;
  double dot_ = 0, oo_ = 0, rr_ = 0, dd_ = 0, abs_diff_ = 0, abs_ref_ = 0, max_ = 0, worst_ = 0;
  std::vector<double> lse_errors_;
};

/// The whole of two row-major [rows, dim] arrays; lse may be empty.
Metrics compare(std::span<const float> out, std::span<const double> reference, std::int64_t dim, std::span<const float> lse = {},
                std::span<const double> lse_reference = {});

}  // namespace chitu::eval
