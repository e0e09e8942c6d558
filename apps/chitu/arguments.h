// The options of one subcommand. The parser behind it (CLI11) is slow to compile, so that it is included in arguments.cc alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace chitu::cli {

/// References must outlive parsing. The value that an option has when it is declared is its default and shown in the help.
class Arguments {
 public:
  virtual ~Arguments() = default;
  virtual void value(const char* name, std::string& value, const std::string& help, const char* type = "TEXT") = 0;
  virtual void value(const char* name, int64_t& value, const std::string& help, const char* type = "N") = 0;
  virtual void required(const char* name, std::string& value, const std::string& help, const char* type = "TEXT") = 0;
  virtual void flag(const char* name, bool& value, const std::string& help) = 0;
};

struct Command {
  const char* name;
  const char* help;
  std::function<void(Arguments&)> declare;
  std::function<int()> execute;  ///< returns the exit code
};

struct Parsed {
  const Command* command = nullptr;  ///< null: nothing to execute
  int code = 0;                      ///< then the exit code: 0 after --help or --version
  std::string error;                 ///< then what is wrong, empty for help
};

Parsed parse_arguments(const std::vector<Command>& commands, int argc, char** argv);

}  // namespace chitu::cli
