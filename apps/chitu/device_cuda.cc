// The GPU half of device.h. Plain C++ over the CUDA runtime.
#include <cuda_runtime.h>

#include "chitu/error.h"
#include "device.h"

namespace chitu::cli::gpu {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw CudaError(std::string(what) + ": " + cudaGetErrorString(status), static_cast<int>(status));
}

class Current {
 public:
  explicit Current(int index) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    check(cudaSetDevice(index), "cudaSetDevice");
  }
  ~Current() { cudaSetDevice(previous_); }

 private:
  int previous_ = 0;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event_); }
  void record() { check(cudaEventRecord(event_, nullptr), "cudaEventRecord"); }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

std::vector<GpuFacts> list() {
  std::vector<GpuFacts> gpus;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver is not an error here
    return gpus;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
    int clock_khz = 0;
    check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, i), "cudaDeviceGetAttribute");
    gpus.push_back({properties.name, properties.major * 10 + properties.minor, properties.multiProcessorCount, properties.totalGlobalMem, clock_khz / 1000});
  }
  return gpus;
}

std::string versions() {
  const auto text = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess) return {};
  return "driver " + text(driver) + ", runtime " + text(runtime);
}

void* allocate(int index, size_t bytes) {
  const Current current(index);
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "cudaMalloc");
  return memory;
}

void release(int index, void* memory) {
  const Current current(index);
  cudaFree(memory);
}

void upload(int index, void* to, const void* from, size_t bytes) {
  const Current current(index);
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}

void download(int index, void* to, const void* from, size_t bytes) {
  const Current current(index);
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

double timed_ms(int index, const std::function<void()>& call) {
  const Current current(index);
  Event begin, end;
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  begin.record();
  call();
  end.record();
  check(cudaEventSynchronize(end.get()), "cudaEventSynchronize");
  float ms = 0;
  check(cudaEventElapsedTime(&ms, begin.get(), end.get()), "cudaEventElapsedTime");
  return ms;
}

}  // namespace chitu::cli::gpu
