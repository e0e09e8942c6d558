#include "sm90_variants.h"

#include "../../src/cuda/sm90/launch.cuh"

using namespace chitu::cuda::sm90;

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"int8_f16_d128", 128, false, false, false, true, launch<Traits<true, false, 128, 128, 2>>},
      {"int8_bf16_d128", 128, true, false, false, true, launch<Traits<true, true, 128, 128, 2>>},
      {"int8_f16_d128_n64w3", 128, false, false, false, true, launch<Traits<true, false, 128, 64, 3>>},
      {"int8_f16_d96", 96, false, false, false, true, launch<Traits<true, false, 96, 128, 2>>},
      {"int8_f16_d64_n64w3", 64, false, false, false, true, launch<Traits<true, false, 64, 64, 3>>},
      {"int8_f16_d64_w2", 64, false, false, false, true, launch<Traits<true, false, 64, 128, 2>>},
      {"int8_f16_d256", 256, false, false, false, true, launch<Traits<true, false, 256, 64, 2>>},
      {"exact_f16_d128", 128, false, true, false, true, launch<Traits<false, false, 128, 128, 2>>},
  };
  return all;
}
