// libFuzzer target: any bytes as a .npy file. Every input is either read or refused with a ParseError; anything else is a finding.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace chitu::cli;
  const MemorySource source("fuzz.npy", std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    const HostTensor tensor = read_npy(source);
    int64_t bytes = element_size(tensor.type);
    for (const int64_t n : tensor.shape) bytes *= n;
    if (static_cast<uint64_t>(bytes) != tensor.data.size()) std::abort();
  } catch (const ParseError& error) {
    if (error.reason().empty() || std::string_view(error.what()).find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
