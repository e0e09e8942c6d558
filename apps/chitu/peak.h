// The device's own limit, measured in the same run as the kernels that are compared with it.
#pragma once

#include <optional>
#include <string>

#include "chitu/tensor.h"

namespace chitu::cli {

struct Peak {
  std::string name;
  double tflops = 0;  ///< of all threads in use
};

/// The fastest arithmetic of the device, measured at the first call; nothing where it is not measured.
std::optional<Peak> measured_peak(Device device);

}  // namespace chitu::cli
