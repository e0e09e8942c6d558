#include "eval/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace chitu::eval {

void Comparison::add(std::span<const float> out, std::span<const double> reference) {
  double dd = 0, rr = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double o = out[i], r = reference[i];
    if (!std::isfinite(o) || !std::isfinite(r)) {
      (std::isfinite(o) ? laundered_ : std::isnan(o) ? nan_ : inf_) += 1;
      continue;
    }
    const double d = o - r;
    dot_ += o * r;
    oo_ += o * o;
    rr += r * r;
    dd += d * d;
    abs_diff_ += std::fabs(d);
    abs_ref_ += std::fabs(r);
    max_ = std::max(max_, std::fabs(d));
    ++count_;
  }
  rr_ += rr;
  dd_ += dd;
  const double row = dd == 0 ? 0 : rr == 0 ? std::numeric_limits<double>::infinity() : std::sqrt(dd / rr);
  if (worst_index_ < 0 || row > worst_) {
    worst_ = row;
    worst_index_ = rows_;
  }
  ++rows_;
}

void Comparison::add_lse(double lse, double reference) {
  if (std::isfinite(lse) && std::isfinite(reference)) {
    lse_errors_.push_back(std::fabs(lse - reference));
  } else if (!(lse == reference || (std::isnan(lse) && std::isnan(reference)))) {
    ++mismatch_;
  }
}

void Comparison::merge(const Comparison& o) {
  if (o.worst_index_ >= 0 && (worst_index_ < 0 || o.worst_ > worst_)) {
    worst_ = o.worst_;
    worst_index_ = rows_ + o.worst_index_;
  }
  rows_ += o.rows_;
  count_ += o.count_;
  nan_ += o.nan_;
  inf_ += o.inf_;
  laundered_ += o.laundered_;
  mismatch_ += o.mismatch_;
  dot_ += o.dot_;
  oo_ += o.oo_;
  rr_ += o.rr_;
  dd_ += o.dd_;
  abs_diff_ += o.abs_diff_;
  abs_ref_ += o.abs_ref_;
  max_ = std::max(max_, o.max_);
  lse_errors_.insert(lse_errors_.end(), o.lse_errors_.begin(), o.lse_errors_.end());
}

Metrics Comparison::metrics() const {
  Metrics m;
  const double n = static_cast<double>(std::max<std::int64_t>(count_, 1));
  m.rows = rows_;
  m.cos_sim = oo_ > 0 && rr_ > 0 ? dot_ / std::sqrt(oo_ * rr_) : (oo_ == rr_ ? 1.0 : 0.0);
  m.rel_l1 = abs_ref_ > 0 ? abs_diff_ / abs_ref_ : (abs_diff_ > 0 ? std::numeric_limits<double>::infinity() : 0);
  m.rmse = std::sqrt(dd_ / n);
  m.nrmse = rr_ > 0 ? std::sqrt(dd_ / rr_) : (dd_ > 0 ? std::numeric_limits<double>::infinity() : 0);
  m.max_diff = max_;
  m.mean_diff = abs_diff_ / n;
  m.mean_abs = abs_ref_ / n;
  m.worst_row = worst_;
  m.worst_row_index = worst_index_;
  m.nan = nan_;
  m.inf = inf_;
  m.laundered = laundered_;
  m.compared = count_;
  m.lse_compared = static_cast<std::int64_t>(lse_errors_.size());
  m.lse_not_finite_mismatch = mismatch_;
  if (!lse_errors_.empty()) {
    std::vector<double> sorted = lse_errors_;
    std::sort(sorted.begin(), sorted.end());
    m.lse_max = sorted.back();
    m.lse_p999 = sorted[static_cast<std::size_t>(0.999 * static_cast<double>(sorted.size() - 1))];
  }
  return m;
}

Metrics compare(std::span<const float> out, std::span<const double> reference, std::int64_t dim, std::span<const float> lse,
                std::span<const double> lse_reference) {
  Comparison c;
  const std::size_t d = static_cast<std::size_t>(dim);
  for (std::size_t i = 0; d > 0 && i + d <= reference.size(); i += d) c.add(out.subspan(i, d), reference.subspan(i, d));
  for (std::size_t i = 0; i < lse.size(); ++i) c.add_lse(lse[i], lse_reference[i]);
  return c.metrics();
}

}  // namespace chitu::eval
