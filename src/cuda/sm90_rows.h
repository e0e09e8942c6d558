#pragma once

// The Hopper kernels (sm90/) as rows of the table.

#include <string>

#include "core/kernel.h"

namespace chitu::cuda {

std::string sm90_int8_f16_why_not(const core::Problem& p);
std::string sm90_f16_f16_why_not(const core::Problem& p);
std::string sm90_int8_i8_why_not(const core::Problem& p);
std::string sm90_int8_f8_why_not(const core::Problem& p);
void run_sm90_int8_f16(const core::Call& call, core::Workspace& ws);
void run_sm90_f16_f16(const core::Call& call, core::Workspace& ws);
void run_sm90_int8_i8(const core::Call& call, core::Workspace& ws);
void run_sm90_int8_f8(const core::Call& call, core::Workspace& ws);
/// Key tiles are visited last to first.
core::Scheme sm90_executes(const core::Problem& p);
/// The same; P of the peers' methods, too, is measured against a running maximum that lags, as in chitu.
core::Scheme sm90_int8_f16_executes(const core::Problem& p);
/// As sm90_executes; tiles of 128 keys.
core::Scheme sm90_int8_i8_executes(const core::Problem& p);
/// As sm90_executes; e4m3 products are summed by the FP8 accumulator, tile by tile.
core::Scheme sm90_int8_f8_executes(const core::Problem& p);

}  // namespace chitu::cuda
