// chitu info: what this build is, what this machine has, which kernels run here and why the others do not.
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "common.h"
#include "machine.h"
#include "table.h"

namespace chitu::cli {
namespace {

constexpr const char* kVariables[] = {"CHITU_METHOD", "CHITU_DISABLE", "CHITU_NUM_THREADS", "CHITU_CPU_ISA"};

int execute(bool json) {
  nlohmann::ordered_json facts = machine_facts();
  std::vector<KernelInfo> kernels = list_kernels(Device{});
  const auto gpus = list_kernels(Device{DeviceType::cuda, 0});
  kernels.insert(kernels.end(), gpus.begin(), gpus.end());
  if (json) {
    for (const char* name : kVariables) {
      const char* value = std::getenv(name);
      facts["environment"][name] = value != nullptr ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
    }
    facts["kernels"] = nlohmann::ordered_json::array();
    for (const KernelInfo& kernel : kernels) {
      facts["kernels"].push_back({{"name", kernel.name},
                                  {"device", device_text({kernel.device, 0})},
                                  {"verified", kernel.verified},
                                  {"runs_here", kernel.reason.empty()},
                                  {"reason", kernel.reason}});
    }
    fmt::print("{}\n", facts.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return kDone;
  }
  fmt::print("chitu {}, built with {}\n", CHITU_VERSION_STRING, facts["compiler"].get<std::string>());
  fmt::print("CPU: {}, {} logical, {} threads used, instruction set {}\n", facts["cpu"].get<std::string>(), facts["cpu_count"].get<int64_t>(), num_threads(),
             cpu_isa());
  if (facts["gpus"].empty()) fmt::print("GPU: none visible{}\n", facts["cuda"].is_null() ? "" : " (CUDA " + facts["cuda"].get<std::string>() + ")");
  for (const auto& gpu : facts["gpus"]) {
    fmt::print("GPU: {}, sm_{}, {} SMs, {} MiB, CUDA {}\n", gpu["name"].get<std::string>(), gpu["capability"].get<std::string>(), gpu["sm_count"].get<int>(),
               gpu["memory_bytes"].get<size_t>() >> 20, facts["cuda"].get<std::string>());
  }
  for (const char* name : kVariables) {
    if (const char* value = std::getenv(name)) fmt::print("{} = {}\n", name, value);
  }
  Table table({"kernel", "device", "verified", "runs here"});
  for (const KernelInfo& kernel : kernels) {
    table.add(
        {kernel.name, std::string(device_text({kernel.device, 0})), kernel.verified ? "yes" : "no", kernel.reason.empty() ? "yes" : "no: " + kernel.reason});
  }
  fmt::print("\n{}", table.text());
  return kDone;
}

}  // namespace

Command info_command() {
  auto json = std::make_shared<bool>(false);
  const auto declare = [json](Arguments& arguments) { arguments.flag("--json", *json, "As JSON on stdout"); };
  return {"info", "Version, CPU, GPUs, kernels and why each cannot run here", declare, [json] { return execute(*json); }};
}

}  // namespace chitu::cli
