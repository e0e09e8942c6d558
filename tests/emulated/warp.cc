#include "emulated/warp.h"

#include "emulated/block.h"

namespace chitu::emulated {
namespace {

struct Exchange {
  std::uint32_t value;
  int source;
  std::uint32_t result;
};

Exchange& of(void* operand) { return *static_cast<Exchange*>(operand); }

void whole(unsigned mask, const char* name) {
  if (mask != ~0u) fault("%s with mask %#x: the emulator knows whole warps only", name, mask);
}

}  // namespace

void sync_warp(unsigned mask) {
  whole(mask, "__syncwarp");
  collective(
      "__syncwarp", [](void* const*) {}, nullptr);
}

std::uint32_t shuffle(unsigned mask, std::uint32_t value, int source) {
  whole(mask, "__shfl_sync");
  Exchange mine{value, source, 0};
  collective(
      "__shfl_sync",
      [](void* const* operands) {
        for (int l = 0; l < 32; ++l) of(operands[l]).result = of(operands[of(operands[l]).source]).value;
      },
      &mine);
  return mine.result;
}

std::uint32_t ballot(const char* name, unsigned mask, bool predicate) {
  whole(mask, name);
  Exchange mine{predicate, 0, 0};
  collective(
      name,
      [](void* const* operands) {
        std::uint32_t r = 0;
        for (int l = 0; l < 32; ++l) r |= of(operands[l]).value << l;
        for (int l = 0; l < 32; ++l) of(operands[l]).result = r;
      },
      &mine);
  return mine.result;
}

std::uint32_t reduce_max(unsigned mask, std::uint32_t value) {
  whole(mask, "__reduce_max_sync");
  Exchange mine{value, 0, 0};
  collective(
      "__reduce_max_sync",
      [](void* const* operands) {
        std::uint32_t r = 0;
        for (int l = 0; l < 32; ++l) r = of(operands[l]).value > r ? of(operands[l]).value : r;
        for (int l = 0; l < 32; ++l) of(operands[l]).result = r;
      },
      &mine);
  return mine.result;
}

}  // namespace chitu::emulated
