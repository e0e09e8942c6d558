// Memory and time of the device a call runs on. device_cuda.cc or device_none.cc supplies the GPU half.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "chitu/tensor.h"

namespace chitu::cli {

struct GpuFacts {
  std::string name;
  int capability = 0;  ///< 90 for sm_90
  int sm_count = 0;
  size_t memory_bytes = 0;
  int clock_mhz = 0;
};

namespace gpu {
std::vector<GpuFacts> list();
std::string versions();  ///< driver and runtime, empty without CUDA
void* allocate(int index, size_t bytes);
void release(int index, void* memory);
void upload(int index, void* to, const void* from, size_t bytes);
void download(int index, void* to, const void* from, size_t bytes);
/// Time between two events around the call on the default stream.
double timed_ms(int index, const std::function<void()>& call);
}  // namespace gpu

/// Device memory of a call's tensors and workspace, 256-byte aligned. Empty buffers have a null pointer.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device device, size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void upload(const void* from);
  void download(void* to) const;

 private:
  void swap(Buffer& other) noexcept;
  Device device_{};
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Wall time on the CPU, events on a GPU; returns when the work is done.
double timed_ms(Device device, const std::function<void()>& call);

}  // namespace chitu::cli
