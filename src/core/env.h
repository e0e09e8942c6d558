#pragma once

#include <optional>
#include <string>

#include "chitu/method.h"

namespace chitu::core {

/// CHITU_* variables, read once at first use. Throws InvalidArgument for a value that means nothing.
struct Environment {
  std::optional<Method> method;  ///< CHITU_METHOD: what `automatic` means
  std::string disabled;          ///< CHITU_DISABLE: row names, comma separated, that are never chosen
};
const Environment& environment();
/// True when `row` stands in the comma-separated list.
bool is_disabled(const std::string& list, const std::string& row);

}  // namespace chitu::core
