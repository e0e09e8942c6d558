// -mavx2 -mfma -mf16c
#include "cpu/device/ops_avx2.h"

#define CHITU_ISA_TABLE avx2_table
#define CHITU_ISA_NAME "avx2"
#include "cpu/device/export-inl.h"
