// libFuzzer target: any bytes as a .safetensors file. Every input is either read or refused with a ParseError; anything else is a finding.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace chitu::cli;
  const MemorySource source("fuzz.safetensors", std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    const SafetensorsHeader header = read_safetensors_header(source);
    uint64_t bytes = 0;
    for (const auto& [name, entry] : header.tensors) {
      if (entry.begin > entry.end || entry.end > size) std::abort();
      bytes += entry.end - entry.begin;
      try {
        read_safetensors(source, name);
      } catch (const ParseError&) {  // a dtype that attention does not take
      }
    }
    if (bytes > size) std::abort();
  } catch (const ParseError& error) {
    if (error.reason().empty() || std::string_view(error.what()).find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
