// The one exception of every file reader and writer of the command.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace chitu::cli {

/// Makes text from outside safe for a one-line message: control bytes and bytes that are not UTF-8 become \xNN, long text is cut.
std::string printable(std::string_view text, size_t max_bytes = 120);

/// A file that cannot be used. what() is one printable line, "FILE: REASON".
class ParseError : public std::runtime_error {
 public:
  ParseError(std::string_view file, std::string_view reason)
      : std::runtime_error(printable(file, 400) + ": " + std::string(reason)), file_(file), reason_(reason) {}
  const std::string& file() const { return file_; }
  const std::string& reason() const { return reason_; }

 private:
  std::string file_;
  std::string reason_;
};

}  // namespace chitu::cli
