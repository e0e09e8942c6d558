// In place of src/cuda/device/ptx/shared.cuh.
#pragma once
#include "emulated/block.h"

#define CHITU_DYNAMIC_SHARED(type, alignment, name) type* name = reinterpret_cast<type*>(::chitu::emulated::dynamic_shared())
