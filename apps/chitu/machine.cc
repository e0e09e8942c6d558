#include "machine.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "chitu/chitu.h"
#include "device.h"

namespace chitu::cli {
namespace {

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(line.find_first_not_of(" \t", colon + 1));
  }
  return "unknown";
}

}  // namespace

nlohmann::ordered_json machine_facts() {
  nlohmann::ordered_json facts;
  facts["chitu_version"] = CHITU_VERSION_STRING;
  facts["date"] = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  utsname system{};
  if (uname(&system) == 0) facts["system"] = fmt::format("{} {}", system.sysname, system.machine);
  facts["compiler"] = __VERSION__;
  facts["cpu"] = cpu_model();
  facts["cpu_isa"] = cpu_isa();
  facts["cpu_count"] = sysconf(_SC_NPROCESSORS_ONLN);
  facts["threads"] = num_threads();
  facts["memory_bytes"] = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  facts["gpus"] = nlohmann::ordered_json::array();
  for (const GpuFacts& gpu : gpu::list()) {
    facts["gpus"].push_back({{"name", gpu.name},
                             {"capability", fmt::format("{}.{}", gpu.capability / 10, gpu.capability % 10)},
                             {"sm_count", gpu.sm_count},
                             {"memory_bytes", gpu.memory_bytes},
                             {"clock_mhz", gpu.clock_mhz}});
  }
  const std::string cuda = gpu::versions();
  facts["cuda"] = cuda.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(cuda);
  return facts;
}

}  // namespace chitu::cli
