// Repeated timing of one call.
#pragma once

#include <functional>
#include <vector>

#include "chitu/attention.h"

namespace chitu::cli {

struct Latency {
  std::vector<double> ms;  ///< sorted
  bool empty() const { return ms.empty(); }
  double quantile(double q) const;  ///< linear between neighbours
  double median() const { return quantile(0.5); }
};

struct MeasureOptions {
  int repeats = 0;  ///< 0: up to 20, at least 3, as many as fit the budget
  double budget_s = 2;
  std::function<void(double fraction)> progress;  ///< after each call
};

/// One warm-up, then the repeats. A call longer than 1.5 s needs no warm-up: there the first one counts.
Latency measure(Device device, const MeasureOptions& options, const std::function<void()>& call);

/// Visible (query, key) pairs of one head: what FLOP counts are made of.
double visible_pairs(int64_t seqlen_q, int64_t seqlen_k, const Mask& mask);

/// Largest growth of this process's memory during the call, in bytes; -1 where the system does not tell.
int64_t memory_growth(const std::function<void()>& call);

}  // namespace chitu::cli
