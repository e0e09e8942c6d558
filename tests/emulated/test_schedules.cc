// CHITU_EMULATED_SCHEDULE=name: another schedule of the benchmark (benchmarks/kernels/sm90_schedules_d*.cu) takes the place of the Hopper kernel of `chitu` at
// its head_dim, in all tests of this program.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/sm90/params.h"
#include "kernels/sm90_variants.h"

namespace chitu::test {
namespace {

std::vector<Variant> schedules() {
  std::vector<Variant> all = schedule_variants_d64();
  for (const Variant& v : schedule_variants_d128()) all.push_back(v);
  return all;
}

/// The one that was asked for; null: none.
const Variant* chosen_schedule() {
  static const std::vector<Variant> all = schedules();
  const char* name = std::getenv("CHITU_EMULATED_SCHEDULE");
  if (name == nullptr) return nullptr;
  for (const Variant& v : all)
    if (v.name == std::string(name)) return &v;
  std::fprintf(stderr, "CHITU_EMULATED_SCHEDULE: there is no schedule %s\n", name);
  std::exit(2);
}

int launches = 0;

/// A filter that never reaches the kernel must not pass.
class SchedulesRan : public testing::Environment {
  void TearDown() override { EXPECT_TRUE(chosen_schedule() == nullptr || launches > 0) << "no test launched the schedule that was asked for"; }
};
[[maybe_unused]] const auto* const environment = testing::AddGlobalTestEnvironment(new SchedulesRan);

}  // namespace

// The linker puts these in the place of, and behind, launch_int8_f16 (CMakeLists.txt).
cudaError_t library_launch(const cuda::sm90::AttentionParams& p,
                           cudaStream_t stream) asm("__real__ZN5chitu4cuda4sm9015launch_int8_f16ERKNS1_15AttentionParamsEP14EmulatedStream");
cudaError_t chosen_launch(const cuda::sm90::AttentionParams& p,
                          cudaStream_t stream) asm("__wrap__ZN5chitu4cuda4sm9015launch_int8_f16ERKNS1_15AttentionParamsEP14EmulatedStream");

cudaError_t chosen_launch(const cuda::sm90::AttentionParams& p, cudaStream_t stream) {
  const Variant* v = chosen_schedule();
  if (v == nullptr || p.head_dim != v->head_dim) return library_launch(p, stream);
  ++launches;
  return v->launch(p, stream);
}

}  // namespace chitu::test
