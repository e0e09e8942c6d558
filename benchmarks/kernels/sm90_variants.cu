#include "sm90_variants.h"

#include "../../src/cuda/sm90/launch.cuh"

using namespace chitu::cuda::sm90;

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"int8_f16_d128", 128, false, false, false, true, launch<Traits<true, false, 128, 128, 2>>},
      {"int8_f16_d128_pp", 128, false, false, false, true, launch<Traits<true, false, 128, 128, 2, true, true>>},
      {"int8_f16_d128_w3n64pp", 128, false, false, false, true, launch<Traits<true, false, 128, 64, 3, true, true>>},
      {"int8_f16_d64_w3s", 64, false, false, false, true, launch<Traits<true, false, 64, 128, 3, false>>},
      {"int8_f16_d64_w3n64pp", 64, false, false, false, true, launch<Traits<true, false, 64, 64, 3, true, true>>},
      {"int8_f16_d64_w2pp", 64, false, false, false, true, launch<Traits<true, false, 64, 128, 2, true, true>>},
      {"int8_f16_d256", 256, false, false, false, true, launch<Traits<true, false, 256, 64, 2>>},
      {"int8_f16_d256_pp", 256, false, false, false, true, launch<Traits<true, false, 256, 64, 2, true, true>>},
      {"exact_f16_d128", 128, false, true, false, true, launch<Traits<false, false, 128, 128, 2>>},
      {"exact_f16_d128_pp", 128, false, true, false, true, launch<Traits<false, false, 128, 128, 2, true, true>>},
  };
  return all;
}
