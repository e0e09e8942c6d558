#pragma once

// What cpu_int8_f16 and cpu_int8_i8 share: 8-bit Q and K.

#include <string>

#include "cpu/prepare.h"

namespace chitu::cpu {

/// Empty when `scheme` is the default of its method but for what `executes` changes and K's sequence mean; else a sentence.
std::string scheme_departure(const core::Problem& p);

/// The workspace of 8-bit K (and V) and its pre-pass for the float-softmax methods.
class Int8Keys {
 public:
  Int8Keys(const core::Call& call, core::Workspace& ws, const Work& work, bool v_codes);
  void prepare(const Work& work, const ThreadScratch& scratch);
  void fill(AttendArgs& a, const Work& work, const Work::Item& item) const;
  const TileLayout& layout() const { return view_.layout; }

 private:
  const core::Problem& p_;
  QuantizedView view_;
  float* sums_ = nullptr;
  std::int32_t* q_absmax_ = nullptr;
  std::int64_t q_blocks_ = 0;
};

}  // namespace chitu::cpu
