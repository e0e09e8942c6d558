// baseline flags: runs everywhere
#include "cpu/device/ops_scalar.h"

#define CHITU_ISA_TABLE scalar_table
#define CHITU_ISA_NAME "scalar"
#include "cpu/device/export-inl.h"
