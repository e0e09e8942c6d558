#pragma once

#include "core/kernel.h"

namespace chitu::core {

/// Checks everything a user can get wrong in one call and resolves every optional into a number, except the scheme and the device's caps
/// (they depend on the method chosen). Reads the sequence arrays of CPU calls. Throws InvalidArgument naming the argument, what was wanted, what came.
Problem validate(const AttentionArgs& args, const AttentionOptions& options);

/// The same for quantize_kv; the scheme is the method's default.
QuantizeProblem validate_quantize(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& options);

void validate_merge(const TensorView& out, const LseView& lse, const ConstTensorView& out_b, const LseView& lse_b);

/// args with size-1 dimensions of the mask expanded by stride 0.
AttentionArgs with_expanded_mask(const AttentionArgs& args);

}  // namespace chitu::core
