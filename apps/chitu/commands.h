// The subcommands. Each add_*() declares its options on the app and returns what to do once they are parsed; that returns the exit code.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace chitu::cli {

struct Command {
  CLI::App* app;
  std::function<int()> execute;
};

Command add_run(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_accuracy(CLI::App& app);
Command add_info(CLI::App& app);
Command add_explain(CLI::App& app);

}  // namespace chitu::cli
