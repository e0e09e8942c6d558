#include "arguments.h"

#include <CLI/CLI.hpp>
#include <string_view>

#include "chitu/version.h"
#include "common.h"

namespace chitu::cli {
namespace {

/// An empty value comes from a script whose variable was not set: taking it for "not given" would compute something else.
std::string refuse_empty(const std::string& text) { return text.empty() ? "the value is empty" : ""; }

class Cli11Arguments : public Arguments {
 public:
  explicit Cli11Arguments(CLI::App& app) : app_(app) {}
  void value(const char* name, std::string& value, const std::string& help, const char* type) override {
    CLI::Option* option = app_.add_option(name, value, help)->type_name(type)->check(refuse_empty);
    if (!value.empty()) option->capture_default_str();
  }
  void value(const char* name, int64_t& value, const std::string& help, const char* type) override {
    app_.add_option(name, value, help)->type_name(type)->check(refuse_empty);
  }
  void required(const char* name, std::string& value, const std::string& help, const char* type) override {
    app_.add_option(name, value, help)->type_name(type)->required()->check(refuse_empty);
  }
  void flag(const char* name, bool& value, const std::string& help) override { app_.add_flag(name, value, help); }

 private:
  CLI::App& app_;
};

}  // namespace

Parsed parse_arguments(const std::vector<Command>& commands, int argc, char** argv) {
  CLI::App app("ChituAttention: quantized attention, its accuracy and its speed.", "chitu");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("chitu ") + CHITU_VERSION_STRING);
  app.footer("Exit codes: 0 done, 1 internal error, 2 bad input, 3 threshold exceeded, 4 unsupported here, 130 interrupted.");
  std::vector<CLI::App*> apps;
  for (const Command& command : commands) {
    apps.push_back(app.add_subcommand(command.name, command.help));
    Cli11Arguments arguments(*apps.back());
    command.declare(arguments);
  }
  Parsed parsed;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (!word.starts_with("--") || !word.ends_with('=')) continue;  // CLI11 would take the next word, even another option, for the value
    parsed.code = kBadInput;
    parsed.error = std::string(word.substr(0, word.size() - 1)) + ": the value is empty";
    return parsed;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    parsed.code = app.exit(help);
    return parsed;
  } catch (const CLI::ParseError& error) {
    parsed.code = kBadInput;
    parsed.error = error.what();
    return parsed;
  }
  for (size_t i = 0; i < commands.size(); ++i) {
    if (apps[i]->parsed()) parsed.command = &commands[i];
  }
  return parsed;
}

}  // namespace chitu::cli
