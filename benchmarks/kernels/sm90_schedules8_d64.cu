// Other shares of log-code, warpgroups and schedules at head_dim 64. Names: warpgroups, o: overlapped, s: serial, share of log-code in percent.
#include "cuda/sm90/launch8.cuh"
#include "sm90_variants8.h"

using namespace chitu::cuda::sm90;

namespace {
template <Weights kWeights, uint32_t kWords, int kWarpgroups, bool kOverlap>
Variant8 variant(const char* name) {
  return {name, 64, static_cast<int>(kWeights), kWords, false, false, launch8<Traits8<kWeights, kWords, false, 64, kWarpgroups, kOverlap>>};
}
}  // namespace

std::vector<Variant8> schedule_variants8_d64() {
  return {
      variant<Weights::e4m3_tile, 0x00, 2, true>("f8_2o_log0"),
      variant<Weights::e4m3_tile, 0x11, 2, true>("f8_2o_log25"),
      variant<Weights::e4m3_tile, 0xff, 2, true>("f8_2o_log100"),
      variant<Weights::e4m3_tile, 0x55, 2, false>("f8_2s_log50"),
      variant<Weights::e4m3_tile, 0x55, 3, false>("f8_3s_log50"),
      variant<Weights::e4m3_tile, 0x00, 3, false>("f8_3s_log0"),
      variant<Weights::u8_tile, 0, 2, true>("i8_2o"),
      variant<Weights::u8_tile, 0, 2, false>("i8_2s"),
      variant<Weights::u8_tile, 0, 3, false>("i8_3s"),
      variant<Weights::e4m3_running, 0, 2, true>("f8_running_2o"),
  };
}
