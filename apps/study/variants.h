#pragma once

#include <string>
#include <vector>

#include "core/scheme.h"

namespace chitu::study {

struct Variant {
  std::string name;
  core::Scheme scheme;
};

std::vector<Variant> method_variants(bool all);  ///< the methods as they are; all: with the peers' int_flash and sage1
std::vector<Variant> qk_variants();              ///< QK alone: P and V exact
std::vector<Variant> pv_variants();              ///< PV alone: Q and K exact
std::vector<Variant> int8_variants();            ///< chitu_int8 whole: normaliser, tile, threshold
std::vector<Variant> fast_variants();            ///< chitu_fast whole: log-code patterns, and sage2

}  // namespace chitu::study
