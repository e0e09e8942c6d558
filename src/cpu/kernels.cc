// The CPU's table of rows.

#include <cstdlib>
#include <new>

#include "chitu/kernels.h"
#include "cpu/isa.h"
#include "cpu/merge.h"
#include "cpu/quantized.h"
#include "cpu/rows.h"

namespace chitu {
namespace cpu {
namespace {

constexpr core::Kernel kKernels[] = {
    {"cpu_int8_i8", DeviceType::cpu, true, false, int8_i8::why_not, int8_i8::run, int8_i8::executes},
    {"cpu_int8_f16", DeviceType::cpu, true, false, int8_f16::why_not, int8_f16::run, int8_f16::executes},
    {"cpu_f32_f32", DeviceType::cpu, true, false, f32_f32::why_not, f32_f32::run, nullptr},
    {"cpu_f16_f16", DeviceType::cpu, true, false, f16_f16::why_not, f16_f16::run, nullptr},
};

std::string unavailable(Device) { return {}; }
core::DeviceCaps caps(Device) { return {}; }
void* allocate(Device, std::size_t bytes, Stream) { return ::operator new(bytes, std::align_val_t{256}); }
void deallocate(Device, void* memory, Stream) { ::operator delete(memory, std::align_val_t{256}); }

}  // namespace

const core::Backend& backend() {
  static const core::Backend b{DeviceType::cpu, kKernels, unavailable, caps, quantize_why_not, quantized_kv_bytes, quantize_kv, merge, allocate, deallocate};
  return b;
}

}  // namespace cpu

std::string cpu_isa() { return cpu::isa_table().name; }
std::int64_t cpu_dot_peak(std::int64_t rounds) { return cpu::isa_table().dot_peak(rounds); }

}  // namespace chitu
