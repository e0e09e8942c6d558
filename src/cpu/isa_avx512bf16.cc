// -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c -mavx512bf16
#include "cpu/device/ops_avx512.h"

#define CHITU_ISA_TABLE avx512bf16_table
#define CHITU_ISA_NAME "avx512bf16"
#include "cpu/device/export-inl.h"
