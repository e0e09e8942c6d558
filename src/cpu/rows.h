#pragma once

// The rows of the CPU's table: which problems each serves, the scheme it executes, how it runs.

#include <string>

#include "core/kernel.h"

namespace chitu::cpu {

namespace f32_f32 {  // exact, f32 inputs
std::string why_not(const core::Problem& p);
void run(const core::Call& call, core::Workspace& ws);
}  // namespace f32_f32

namespace f16_f16 {  // exact, 16-bit inputs: bf16 dot products where the processor has them, else f32 products of 16-bit operands
std::string why_not(const core::Problem& p);
void run(const core::Call& call, core::Workspace& ws);
}  // namespace f16_f16

namespace int8_f16 {  // chitu, sage1, int_flash_half: 8-bit QK, 16-bit PV
std::string why_not(const core::Problem& p);
void run(const core::Call& call, core::Workspace& ws);
core::Scheme executes(const core::Problem& p);
}  // namespace int8_f16

namespace int8_i8 {  // chitu_int8, int_flash: 8-bit dot products throughout
std::string why_not(const core::Problem& p);
void run(const core::Call& call, core::Workspace& ws);
core::Scheme executes(const core::Problem& p);
}  // namespace int8_i8

}  // namespace chitu::cpu
