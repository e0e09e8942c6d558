// Facts about this machine and build, as JSON: stamped on every measurement.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace chitu::cli {

nlohmann::ordered_json machine_facts();

}  // namespace chitu::cli
