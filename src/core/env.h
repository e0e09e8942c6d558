#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chitu/method.h"

namespace chitu::core {

/// CHITU_* variables, read once at first use. Throws InvalidArgument for a value that means nothing.
struct Environment {
  std::optional<Method> method;       ///< CHITU_METHOD: what `automatic` means
  std::vector<std::string> disabled;  ///< CHITU_DISABLE: rows that are never chosen; this layer does not know which exist
};
const Environment& environment();
/// The names of a CHITU_DISABLE; none for an empty text. Throws InvalidArgument for an empty name between commas.
std::vector<std::string> parse_disabled(std::string_view text);

}  // namespace chitu::core
