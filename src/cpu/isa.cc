#include "cpu/isa.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "chitu/error.h"
#include "core/check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace chitu::cpu {
namespace {

#if defined(__x86_64__)
// A register set is usable when the processor has the instructions *and* the operating system saves the registers (XCR0).
std::uint64_t xcr0() {
  std::uint32_t lo = 0, hi = 0;
  __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<std::uint64_t>(hi) << 32) | lo;
}

Isa detect() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return Isa::scalar;
  constexpr unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
  constexpr unsigned needed = fma | osxsave | avx | f16c;
  if ((c & needed) != needed) return Isa::scalar;
  const std::uint64_t saved = xcr0();
  constexpr std::uint64_t ymm = 0x6, zmm = 0xe6;
  if ((saved & ymm) != ymm || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (b & (1u << 5)) == 0) return Isa::scalar;
  constexpr unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, all512 = f | dq | bw | vl;
  constexpr unsigned vnni = 1u << 11;
  if ((saved & zmm) != zmm || (b & all512) != all512 || (c & vnni) == 0) return Isa::avx2;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & (1u << 5)) == 0) return Isa::avx512vnni;
  return Isa::avx512bf16;
}
#else
Isa detect() { return Isa::scalar; }
#endif

constexpr std::pair<const char*, Isa> kTierNames[] = {
    {"scalar", Isa::scalar}, {"avx2", Isa::avx2}, {"avx512vnni", Isa::avx512vnni}, {"avx512bf16", Isa::avx512bf16}, {"best", Isa::avx512bf16}};

Isa lowered(Isa best) {
  const char* text = std::getenv("CHITU_CPU_ISA");
  if (text == nullptr) return best;
  for (const auto& [name, tier] : kTierNames) {
    if (std::strcmp(text, name) == 0) return tier < best ? tier : best;
  }
  core::fail<InvalidArgument>("environment CHITU_CPU_ISA: want scalar, avx2, avx512vnni, avx512bf16 or best, got '", text, "'");
}

}  // namespace

Isa isa() {
  static const Isa chosen = lowered(detect());
  return chosen;
}

const IsaTable* isa_table(Isa tier) {
  if (tier > detect()) return nullptr;
#if defined(__x86_64__)
  switch (tier) {
    case Isa::avx512bf16: return &avx512bf16_table();
    case Isa::avx512vnni: return &avx512vnni_table();
    case Isa::avx2: return &avx2_table();
    case Isa::scalar: break;
  }
#endif
  return &scalar_table();
}
const IsaTable& isa_table() {
  static const IsaTable& table = *isa_table(isa());
  return table;
}

}  // namespace chitu::cpu
