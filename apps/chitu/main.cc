// Entry of the command: parses, executes, and turns every failure into one message and one exit code.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <new>
#include <vector>

#include "chitu/chitu.h"
#include "commands.h"
#include "common.h"
#include "file_io.h"
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

/// A full disk behind a redirection shows only when the buffer is written.
int flushed(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  const int failed = report(kInternal, "cannot write to standard output");
  return code == kDone ? failed : code;
}

}  // namespace

int main(int argc, char** argv) {
  remove_unfinished_outputs_on_signals();
  command_line().assign(argv, argv + argc);
  const std::vector<Command> commands = {run_command(), bench_command(), accuracy_command(), info_command(), explain_command()};
  const Parsed parsed = parse_arguments(commands, argc, argv);
  if (parsed.command != nullptr) return flushed(execute(*parsed.command));
  if (!parsed.error.empty()) return report(parsed.code, printable(parsed.error, 1000) + " (see chitu --help, chitu COMMAND --help)");
  return flushed(parsed.code);
}
