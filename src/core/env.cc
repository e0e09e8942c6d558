#include "core/env.h"

#include <algorithm>
#include <cstdlib>

#include "chitu/error.h"
#include "core/check.h"

namespace chitu::core {

const Environment& environment() {
  static const Environment env = [] {
    Environment e;
    if (const char* text = std::getenv("CHITU_METHOD"); text != nullptr && *text != '\0') {
      e.method = parse_method(text);
      CHITU_CHECK(e.method, "environment CHITU_METHOD: want a method name, got '", text, "'");
    }
    if (const char* text = std::getenv("CHITU_DISABLE")) e.disabled = parse_disabled(text);
    return e;
  }();
  return env;
}

std::vector<std::string> parse_disabled(std::string_view text) {
  std::vector<std::string> names;
  if (text.empty()) return names;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    CHITU_CHECK(end > begin, "environment CHITU_DISABLE: want names of rows separated by commas, got an empty one in '", text, "'");
    names.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

}  // namespace chitu::core
