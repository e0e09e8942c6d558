#pragma once

#include <string>

#include "cpu/device/table.h"

namespace chitu::cpu {

enum class Isa { scalar, avx2, avx512vnni, avx512bf16 };

/// Best tier of this processor and operating system, lowered by CHITU_CPU_ISA=scalar|avx2|avx512vnni|avx512bf16 (best: not
/// lowered). Read once; any other value throws InvalidArgument.
Isa isa();
const IsaTable& isa_table();
/// A given tier, for tests; null where the processor lacks it.
const IsaTable* isa_table(Isa tier);

}  // namespace chitu::cpu
