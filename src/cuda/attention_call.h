#pragma once

// One attention call by the rows of this backend.

#include "cuda/params.h"
#include "cuda/prepass.h"

namespace chitu::cuda {

/// Operands of the attention kernels after the pre-pass.
struct Operands {
  Sequence sequence;
  KvBuffers kv;
  QBuffers q;
  View v;  ///< 16 bits, where the row has 16-bit PV
};

/// Takes the workspace of the pre-pass and, unless measuring, launches it. e4m3_tiles: KvShape's.
Operands prepare(const core::Call& call, core::Workspace& ws, bool e4m3_tiles = false);

void run_sm80_exact(const core::Call& call, core::Workspace& ws);
void run_sm80_quantized(const core::Call& call, core::Workspace& ws);
void run_sm80_decode(const core::Call& call, core::Workspace& ws);

/// What the rows of sm80 run in place of the scheme that was asked for.
core::Scheme sm80_executes(const core::Problem& p);

std::string quantize_why_not(const core::QuantizeProblem& p);
std::size_t quantized_kv_bytes(const core::QuantizeProblem& p);
void quantize_kv(const core::QuantizeCall& call, void* blob, core::Workspace& ws);
void merge(const core::MergeCall& call);

}  // namespace chitu::cuda
