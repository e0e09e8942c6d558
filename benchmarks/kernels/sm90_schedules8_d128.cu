// Other shares of log-code and other numbers of warpgroups at head_dim 128. Names: warpgroups, share of log-code in percent.
#include "cuda/sm90/launch8.cuh"
#include "sm90_variants8.h"

using namespace chitu::cuda::sm90;

namespace {
template <Weights kWeights, uint32_t kWords, int kWarpgroups>
Variant8 variant(const char* name) {
  return {name, 128, static_cast<int>(kWeights), kWords, false, false, launch8<Traits8<kWeights, kWords, false, 128, kWarpgroups>>};
}
}  // namespace

std::vector<Variant8> schedule_variants8_d128() {
  return {
      variant<Weights::e4m3_tile, 0x00, 3>("f8_3_log0"),
      variant<Weights::e4m3_tile, 0x11, 3>("f8_3_log25"),
      variant<Weights::e4m3_tile, 0xff, 3>("f8_3_log100"),
      variant<Weights::e4m3_tile, 0x55, 2>("f8_2_log50"),
      variant<Weights::u8_tile, 0, 2>("i8_2"),
      variant<Weights::e4m3_running, 0, 2>("f8_running_2"),
  };
}
