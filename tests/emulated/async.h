#pragma once

// Copies that land as late as the program allows. What they will overwrite holds poison from the moment of the copy on: reading too early and copying too
// early both show.

#include <cstdint>

namespace chitu::emulated {

/// cp.async: lands when its thread waits for the group.
void copy_async(std::uint32_t to, const void* from, int bytes);
void copy_commit();
void copy_wait(int pending);

}  // namespace chitu::emulated
