#pragma once

// The rows of the CPU's table: which problems each serves, the scheme it executes, how it runs.

#include "core/kernel.h"

namespace chitu::cpu {

namespace int8_i8 {  // chitu_int8 and int_flash: 8-bit dot products throughout
std::string why_not(const core::Problem& p);
void run(const core::Call& call, core::Workspace& ws);
core::Scheme executes(const core::Problem& p);
}  // namespace int8_i8

}  // namespace chitu::cpu
