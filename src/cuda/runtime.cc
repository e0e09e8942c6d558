#include "cuda/runtime.h"

#include <array>
#include <mutex>

namespace chitu::cuda {
namespace {

constexpr int kMaxDevices = 64;

struct Facts {
  core::DeviceCaps caps;
  std::int64_t max_shared = 0;
};

int attribute(cudaDeviceAttr what, int device) {
  int value = 0;
  CHITU_CUDA(cudaDeviceGetAttribute(&value, what, device));
  return value;
}

const Facts& facts(int device) {
  static std::array<std::once_flag, kMaxDevices> once;
  static std::array<Facts, kMaxDevices> known;
  CHITU_CHECK(device >= 0 && device < kMaxDevices, "device.index: want 0..", kMaxDevices - 1, ", got ", device);
  std::call_once(once[device], [device] {
    Facts& f = known[device];
    f.caps.capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device);
    f.caps.sm_count = attribute(cudaDevAttrMultiProcessorCount, device);
    f.max_shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  });
  return known[device];
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that a later call does not report this error again
  throw CudaError(core::concat(what, ": ", cudaGetErrorName(status), " (", cudaGetErrorString(status), ")"), static_cast<int>(status));
}

DeviceGuard::DeviceGuard(int device) {
  int current = 0;
  CHITU_CUDA(cudaGetDevice(&current));
  if (current == device) return;
  CHITU_CUDA(cudaSetDevice(device));
  previous_ = current;
}
DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

core::DeviceCaps device_caps(int device) { return facts(device).caps; }
std::int64_t max_shared_bytes(int device) { return facts(device).max_shared; }

int device_count() {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return n;
}

}  // namespace chitu::cuda
