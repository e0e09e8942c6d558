#pragma once

// What a row of the table is held to, and the calls it is tried on.

#include <string>
#include <vector>

#include "gpu_call.h"

namespace chitu::test {

constexpr Method kMethods[] = {Method::exact, Method::chitu, Method::chitu_int8, Method::chitu_fast,
                               Method::sage1, Method::sage2, Method::int_flash,  Method::int_flash_half};

struct Case {
  const char* name;
  CallSpec spec;
};

/// Shapes, masks, sequences, layouts and inputs, in f16.
std::vector<Case> cases();
CallSpec shape(std::int64_t b, std::int64_t sq, std::int64_t sk, std::int64_t hq, std::int64_t hkv, std::int64_t d, std::int64_t dv);
/// Whether there is a row for the method and the call's dtype.
bool takes(const CallSpec& s, Method m);

/// Departures from a method's scheme that rows serve: every granularity, sage1 also with f32 sums, int_flash with the mean of K taken off.
std::vector<AttentionOptions> departures();
std::string departure_text(const AttentionOptions& o);

/// Runs the row that `options` names twice, and the specification of its scheme; "" or what is wrong.
std::string check_row(TestCall& host, GpuCall& gpu, const AttentionOptions& options, bool against_fp64);
/// The same for every row that serves the call; no row is a fault.
std::string check(const CallSpec& spec, Method method, bool against_fp64 = false);

}  // namespace chitu::test
