#pragma once

// Pre-pass: the 8-bit copies of K and V.

#include "cpu/quantized.h"

namespace chitu::cpu {

std::int64_t quantize_scratch_bytes(const TileLayout& layout);
/// K with tile means and rotation, V by C3.
void prepare_chitu_int8(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch);

}  // namespace chitu::cpu
