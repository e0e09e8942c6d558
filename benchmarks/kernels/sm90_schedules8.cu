// Other shares of log-code and other numbers of warpgroups. Names: warpgroups, share of log-code in percent.
#include "cuda/sm90/launch8.cuh"
#include "sm90_variants8.h"

using namespace chitu::cuda::sm90;

namespace {

template <Weights kWeights, uint32_t kWords, int kHeadDim, int kWarpgroups>
Variant8 variant(const char* name) {
  return {name, kHeadDim, static_cast<int>(kWeights), kWords, false, false, launch8<Traits8<kWeights, kWords, false, kHeadDim, kWarpgroups>>};
}

template <int kHeadDim>
void add_schedules(std::vector<Variant8>& all) {
  all.push_back(variant<Weights::e4m3_tile, 0x00, kHeadDim, 3>("f8_3_log0"));
  all.push_back(variant<Weights::e4m3_tile, 0x11, kHeadDim, 3>("f8_3_log25"));
  all.push_back(variant<Weights::e4m3_tile, 0xff, kHeadDim, 3>("f8_3_log100"));
  all.push_back(variant<Weights::e4m3_tile, 0x55, kHeadDim, 2>("f8_2_log50"));
  all.push_back(variant<Weights::e4m3_tile, 0x55, kHeadDim, 3>("f8_3_log50"));
  all.push_back(variant<Weights::u8_tile, 0, kHeadDim, 2>("i8_2"));
  all.push_back(variant<Weights::e4m3_running, 0, kHeadDim, 2>("f8_running_2"));
}

}  // namespace

std::vector<Variant8> schedule_variants8() {
  std::vector<Variant8> all;
  add_schedules<64>(all);
  add_schedules<128>(all);
  return all;
}
