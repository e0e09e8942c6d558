#pragma once

#include "core/kernel.h"

namespace chitu::cpu {
void merge(const core::MergeCall& call);
}
