#include "core/env.h"

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
    if (const char* text = std::getenv("CHITU_DISABLE")) e.disabled = text;
    return e;
  }();
  return env;
}

bool is_disabled(const std::string& list, const std::string& row) {
  for (std::size_t begin = 0; begin < list.size();) {
    const std::size_t comma = list.find(',', begin);
    const std::size_t end = comma == std::string::npos ? list.size() : comma;
    if (list.compare(begin, end - begin, row) == 0) return true;
    begin = end + 1;
  }
  return false;
}

}  // namespace chitu::core
