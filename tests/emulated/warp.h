#pragma once

// Exchanges between the lanes of a warp. Masks must name all lanes: nothing in src/cuda uses less.

#include <cstdint>

namespace chitu::emulated {

void sync_warp(unsigned mask);
std::uint32_t shuffle(unsigned mask, std::uint32_t value, int source);
std::uint32_t ballot(const char* name, unsigned mask, bool predicate);  ///< name: of the instruction
std::uint32_t reduce_max(unsigned mask, std::uint32_t value);

}  // namespace chitu::emulated
