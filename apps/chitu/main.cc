// Entry of the command: parses, executes, and turns every failure into one message and one exit code.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <vector>

#include "chitu/chitu.h"
#include "commands.h"
#include "common.h"
#include "parse_error.h"

namespace {

using namespace chitu::cli;

int report(int code, const std::string& text) {
  fmt::print(stderr, "chitu: {}\n", text);
  return code;
}

int execute(const Command& command) {
  try {
    return command.execute();
  } catch (const ParseError& error) {
    return report(kBadInput, error.what());
  } catch (const UsageError& error) {
    return report(kBadInput, error.what());
  } catch (const chitu::InvalidArgument& error) {
    return report(kBadInput, error.what());
  } catch (const chitu::Unsupported& error) {
    return report(kUnsupported, error.what());
  } catch (const std::bad_alloc&) {
    return report(kInternal, "not enough memory");
  } catch (const std::exception& error) {
    return report(kInternal, fmt::format("internal error: {}", error.what()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("ChituAttention: quantized attention, its accuracy and its speed.", "chitu");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("chitu ") + CHITU_VERSION_STRING);
  app.footer("Exit codes: 0 done, 1 internal error, 2 bad input, 3 threshold exceeded, 4 unsupported here.");
  const std::vector<Command> commands = {add_run(app), add_bench(app), add_accuracy(app), add_info(app), add_explain(app)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::string text = error.what();
    for (char& c : text) {
      if (c == '\n') c = ' ';
    }
    return report(kBadInput, fmt::format("{} (chitu --help, chitu COMMAND --help)", text));
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return execute(command);
  }
  return kInternal;
}
