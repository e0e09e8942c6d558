// The device's own limit, measured in the same run as the kernels that are compared with it.
#pragma once

#include <optional>
#include <string>

#include "chitu/tensor.h"

namespace chitu::cli {

struct Peak {
  std::string name;   ///< "8-bit dot products", "bf16 dot products", "fp32 FMA"
  double tflops = 0;  ///< of all threads in use
};

/// Peak of the arithmetic of a kernel's Q.K product; nothing where it is not measured.
std::optional<Peak> measured_peak(Device device, const std::string& kernel);

}  // namespace chitu::cli
