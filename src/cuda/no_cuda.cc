// The CUDA backend of a library built without CUDA: no rows, and one sentence.

#include <new>

#include "chitu/error.h"
#include "core/kernel.h"

namespace chitu::cuda {
namespace {

constexpr const char* kWhy = "this library was built without CUDA (configure with -DCHITU_CUDA=ON and nvcc 12.8 or newer)";

std::string unavailable(Device) { return kWhy; }
core::DeviceCaps caps(Device) { return {}; }
std::string quantize_why_not(const core::QuantizeProblem&) { return kWhy; }
std::size_t quantized_kv_bytes(const core::QuantizeProblem&) { throw Unsupported(kWhy); }
void quantize_kv(const core::QuantizeCall&, void*, core::Workspace&) { throw Unsupported(kWhy); }
void merge(const core::MergeCall&) { throw Unsupported(kWhy); }
void* allocate(Device, std::size_t, Stream) { throw Unsupported(kWhy); }
void deallocate(Device, void*, Stream) {}

}  // namespace

const core::Backend& backend() {
  static const core::Backend b{DeviceType::cuda, {}, unavailable, caps, quantize_why_not, quantized_kv_bytes, quantize_kv, merge, allocate, deallocate};
  return b;
}
int device_count() { return 0; }

}  // namespace chitu::cuda
