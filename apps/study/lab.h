#pragma once

// What the Scheme cannot say: ideas for the cases where 8-bit QK itself is the limit. Each is emulated on the QK side alone (P and V exact), in fp64
// around int8 codes.

#include <string>
#include <vector>

#include "case.h"

namespace chitu::study {

struct LabResult {
  std::string name;
  Case::Result result;
  double share = 0;  ///< of tiles that take the expensive path, where there is one
};

std::vector<LabResult> run_lab(const Case& c);
/// PV side: flagged tiles of chitu_int8 in e4m3.
LabResult run_c4(const Case& c, float flag_ratio);

}  // namespace chitu::study
