#pragma once

// What `automatic` tries, by recorded measurements (docs/design.md, "Selection"). It never sees tensor contents, and never takes chitu_fast unasked.

#include <vector>

#include "core/kernel.h"

namespace chitu::core {

/// Fewest keys for which the 8-bit method is faster than `exact` on this device, quantization included.
inline std::int64_t break_even_keys(const Problem& p) {
  if (p.device.type == DeviceType::cpu) return 256;
  if (p.head_dim <= 64) return 65536;
  return p.head_dim <= 128 ? 16384 : 8192;
}

/// Methods in the order in which `automatic` tries them.
inline std::vector<Method> automatic_methods(const Problem& p) {
  const Method fast = p.device.type == DeviceType::cpu ? Method::chitu_int8 : Method::chitu;
  // Quantizing K and V once pays only when several query rows read them.
  const bool enough_rows = p.seqlen_q * p.group() >= 64;
  if (p.seqlen_k < break_even_keys(p) || !enough_rows) return {Method::exact, fast};
  return {fast, Method::exact};
}

}  // namespace chitu::core
