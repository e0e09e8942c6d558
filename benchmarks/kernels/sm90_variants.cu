// The rows as the library launches them.
#include "sm90_variants.h"

using namespace chitu::cuda::sm90;

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"int8_f16_d64", 64, false, false, false, true, launch_int8_f16},        {"int8_f16_d96", 96, false, false, false, true, launch_int8_f16},
      {"int8_f16_d128", 128, false, false, false, true, launch_int8_f16},      {"int8_f16_d256", 256, false, false, false, true, launch_int8_f16},
      {"int8_bf16_d64", 64, true, false, false, true, launch_int8_f16},        {"int8_bf16_d96", 96, true, false, false, true, launch_int8_f16},
      {"int8_bf16_d128", 128, true, false, false, true, launch_int8_f16},      {"int8_bf16_d256", 256, true, false, false, true, launch_int8_f16},
      {"int8_f16_d128_bias", 128, false, false, true, false, launch_int8_f16}, {"exact_f16_d64", 64, false, true, false, true, launch_f16_f16},
      {"exact_f16_d96", 96, false, true, false, true, launch_f16_f16},         {"exact_f16_d128", 128, false, true, false, true, launch_f16_f16},
      {"exact_f16_d256", 256, false, true, false, true, launch_f16_f16},       {"exact_bf16_d64", 64, true, true, false, true, launch_f16_f16},
      {"exact_bf16_d96", 96, true, true, false, true, launch_f16_f16},         {"exact_bf16_d128", 128, true, true, false, true, launch_f16_f16},
      {"exact_bf16_d256", 256, true, true, false, true, launch_f16_f16},
  };
  return all;
}
