#include "registry.h"

namespace chitu {

std::vector<const core::Backend*> backends(DeviceType device) {
  if (device == DeviceType::cuda) return {&cuda::backend()};
  return {&cpu::backend(), &ref::backend()};
}

const core::Backend& primary_backend(DeviceType device) { return device == DeviceType::cuda ? cuda::backend() : cpu::backend(); }

}  // namespace chitu
