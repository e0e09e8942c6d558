// The rows as the library launches them.
#include "sm90_variants8.h"

using namespace chitu::cuda::sm90;

std::vector<Variant8> library_variants8() {
  std::vector<Variant8> all;
  for (int d : {64, 96, 128, 256}) {
    all.push_back({"f8", d, 0, 0x55, false, true, launch_int8_f8});
    all.push_back({"f8_bf16", d, 0, 0x55, true, true, launch_int8_f8});
    all.push_back({"f8_running", d, 1, 0, false, true, launch_int8_f8_running});
    all.push_back({"i8", d, 2, 0, false, true, launch_int8_i8});
    all.push_back({"i8_bf16", d, 2, 0, true, true, launch_int8_i8});
  }
  return all;
}

std::vector<Variant8> variants8() {
  std::vector<Variant8> all = library_variants8();
  for (const Variant8& v : schedule_variants8()) all.push_back(v);
  return all;
}
