#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "chitu/export.h"

namespace chitu {

/// What is rounded, and how. docs/methods.md has the arithmetic of each.
enum class Method : std::uint8_t {
  automatic,       ///< the fastest of exact, chitu and chitu_int8 by recorded measurements; never chitu_fast
  exact,           ///< 16- or 32-bit FlashAttention
  sage1,           ///< SageAttention (arXiv 2410.02367): INT8 QK per block, K smoothed, f16 PV
  sage2,           ///< SageAttention2 (arXiv 2411.10958): INT8 QK per thread group, K smoothed, e4m3 PV
  int_flash,       ///< INT-FlashAttention (arXiv 2409.16997): token-level INT8 QK, INT8 PV
  int_flash_half,  ///< the same with 16-bit PV
  chitu,           ///< INT8 QK in self-contained rotated tiles, 16-bit PV
  chitu_int8,      ///< the same QK, u8 P against the tile's maximum, int8 V per channel x tile or token
  chitu_fast       ///< the same QK, e4m3 PV, part of the exponentials as log-code
};

/// "sage1" -> Method::sage1; nullopt for an unknown name.
CHITU_API std::optional<Method> parse_method(std::string_view name);
CHITU_API std::string_view method_name(Method method);
/// Every method but automatic, in the order of the enum.
CHITU_API std::vector<Method> list_methods();

}  // namespace chitu
