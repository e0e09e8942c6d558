#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "chitu/attention.h"
#include "chitu/export.h"
#include "chitu/tensor.h"

namespace chitu {

struct KernelInfo {
  std::string name;
  Method method = Method::automatic;  ///< explain() only: the method the row was considered for
  DeviceType device = DeviceType::cpu;
  bool verified = false;  ///< has passed the suite on real hardware of this kind, if not in this version (docs/kernels)
  bool chosen = false;    ///< explain() only: this row would run
  std::string reason;     ///< why not; empty = would serve (or, in explain, was chosen)
};

/// Every row of the device's type, and why it cannot run here.
CHITU_API std::vector<KernelInfo> list_kernels(Device device);
/// Every row of the device's type in order of preference, and why it was not chosen for this call. Throws InvalidArgument as plan() does.
CHITU_API std::vector<KernelInfo> explain(const AttentionArgs& args, const AttentionOptions& options = {});
/// Number of CUDA devices the library can see (0 when built without CUDA or without a driver).
CHITU_API int cuda_device_count();
/// Instruction set the CPU backend uses: "scalar", "avx2", "avx512vnni" or "avx512bf16".
CHITU_API std::string cpu_isa();
/// Runs `rounds` rounds of the instruction set's u8 x s8 dot products from registers on the calling thread and returns the operations done
/// (a multiply and an add count two). Timing it gives the peak that 8-bit kernels are measured against.
CHITU_API std::int64_t cpu_dot_peak(std::int64_t rounds);

}  // namespace chitu
