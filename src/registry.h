#pragma once

#include <vector>

#include "core/kernel.h"

namespace chitu {

/// The backends that serve a device type, in order of preference.
std::vector<const core::Backend*> backends(DeviceType device);
/// The one that allocates, quantizes and merges for a device type.
const core::Backend& primary_backend(DeviceType device);

}  // namespace chitu
