// The subcommands: each function's result declares its options and, once they are parsed, does the work.
#pragma once

#include "arguments.h"

namespace chitu::cli {

Command run_command();
Command bench_command();
Command accuracy_command();
Command info_command();
Command explain_command();

}  // namespace chitu::cli
