#include "peak.h"

namespace chitu::cli {

std::optional<Peak> measured_peak(Device, const std::string&) { return std::nullopt; }

}  // namespace chitu::cli
