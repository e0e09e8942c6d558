#include "device.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace chitu::cli {

Buffer::Buffer(Device device, size_t bytes) : device_(device), bytes_(bytes) {
  if (bytes == 0) return;
  if (device.type == DeviceType::cuda) {
    data_ = gpu::allocate(device.index, bytes);
    return;
  }
  constexpr size_t kAlign = 256;
  if (bytes > SIZE_MAX - kAlign) throw std::bad_alloc();
  data_ = std::aligned_alloc(kAlign, (bytes + kAlign - 1) / kAlign * kAlign);
  if (data_ == nullptr) throw std::bad_alloc();
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_.type == DeviceType::cuda) {
    gpu::release(device_.index, data_);
  } else {
    std::free(data_);
  }
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

void Buffer::upload(const void* from) {
  if (bytes_ == 0) return;
  if (device_.type == DeviceType::cuda) {
    gpu::upload(device_.index, data_, from, bytes_);
  } else {
    std::memcpy(data_, from, bytes_);
  }
}

void Buffer::download(void* to) const {
  if (bytes_ == 0) return;
  if (device_.type == DeviceType::cuda) {
    gpu::download(device_.index, to, data_, bytes_);
  } else {
    std::memcpy(to, data_, bytes_);
  }
}

double timed_ms(Device device, const std::function<void()>& call) {
  if (device.type == DeviceType::cuda) return gpu::timed_ms(device.index, call);
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace chitu::cli
