// -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c
#include "cpu/device/ops_avx512.h"

#define CHITU_ISA_TABLE avx512vnni_table
#define CHITU_ISA_NAME "avx512vnni"
#include "cpu/device/export-inl.h"
