#pragma once

// Pre-pass: statistics of K, V and Q, and the 8-bit copies of K and V. Each function is one parallel run.

#include "cpu/quantized.h"

namespace chitu::cpu {

std::int64_t quantize_scratch_bytes(const TileLayout& layout);

/// c[d] of C3.
void channel_weights(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch);
/// One int8 scale for all of V of a (sequence, head).
void tensor_scales(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch);
/// Powers of two that bring the channels of V into the range of f16.
void f16_ranges(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch);
/// Sign of the rotation and weight of every channel of K, as Q and K are multiplied by it.
void key_factors(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch);
/// Means of K over whole sequences; sums: [tiles of a head][dk] for every head.
void sequence_means(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch, float* sums);
/// Codes, after everything above that the view asks for.
void quantize_tiles(const core::Problem& p, const Work& work, const QuantizedView& view, const ThreadScratch& scratch);

/// Bits of the absolute maximum of every 128 queries of a head: [sequence][query head][blocks].
void query_blocks(const core::Problem& p, const Work& work, const ThreadScratch& scratch, std::int64_t blocks, std::int32_t* absmax);

}  // namespace chitu::cpu
