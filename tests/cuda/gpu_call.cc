#include "gpu_call.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "core/validate.h"

namespace chitu::test {

void cuda_ok(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

void settle() { CUDA_OK(cudaDeviceSynchronize()); }

DeviceBuffer::DeviceBuffer(std::size_t bytes, std::size_t offset) : bytes_(bytes), offset_(offset) {
  CUDA_OK(cudaMalloc(reinterpret_cast<void**>(&memory_), bytes + offset + 2 * kCanary));
  CUDA_OK(cudaMemset(memory_, 0xC5, bytes + offset + 2 * kCanary));
}
DeviceBuffer::~DeviceBuffer() { cudaFree(memory_); }
DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept : memory_(other.memory_), bytes_(other.bytes_), offset_(other.offset_) { other.memory_ = nullptr; }
void DeviceBuffer::fill(std::uint8_t value) {
  if (bytes_ > 0) CUDA_OK(cudaMemset(data(), value, bytes_));
}
void DeviceBuffer::upload(const void* from) {
  if (bytes_ > 0) CUDA_OK(cudaMemcpy(data(), from, bytes_, cudaMemcpyHostToDevice));
}
std::vector<std::uint8_t> DeviceBuffer::download() const {
  std::vector<std::uint8_t> x(bytes_);
  if (bytes_ > 0) CUDA_OK(cudaMemcpy(x.data(), data(), bytes_, cudaMemcpyDeviceToHost));
  return x;
}
bool DeviceBuffer::intact() const {
  std::vector<std::uint8_t> x(bytes_ + offset_ + 2 * kCanary);
  CUDA_OK(cudaMemcpy(x.data(), memory_, x.size(), cudaMemcpyDeviceToHost));
  const auto whole = [](auto begin, auto end) { return std::all_of(begin, end, [](std::uint8_t b) { return b == 0xC5; }); };
  const auto first = static_cast<std::ptrdiff_t>(kCanary + offset_);
  return whole(x.begin(), x.begin() + first) && whole(x.begin() + first + static_cast<std::ptrdiff_t>(bytes_), x.end());
}

template <class View>
void GpuCall::mirror(View& v, bool output) {
  if (v.data == nullptr) return;
  std::int64_t last = 0;
  for (std::size_t i = 0; i < v.shape.size(); ++i) {
    if (v.shape[i] == 0) last = -1;
    if (last >= 0) last += (v.shape[i] - 1) * v.stride[i];
  }
  v.device = {DeviceType::cuda, 0};
  const std::size_t bytes = last < 0 ? 0 : (static_cast<std::size_t>(last) + 1) * dtype_size(v.dtype);
  const void* host = v.data;
  copies_.push_back({host, DeviceBuffer(bytes, reinterpret_cast<std::uintptr_t>(host) % 256), bytes, output});
  copies_.back().device.upload(host);
  v.data = reinterpret_cast<decltype(v.data)>(copies_.back().device.data());
}

const std::int32_t* GpuCall::mirror_array(const std::int32_t* x, std::size_t n) {
  if (x == nullptr) return nullptr;
  copies_.push_back({x, DeviceBuffer(n * 4), n * 4, false});
  copies_.back().device.upload(x);
  return reinterpret_cast<const std::int32_t*>(copies_.back().device.data());
}

GpuCall::GpuCall(TestCall& host) : host_(host), args_(host.args()) {
  copies_.reserve(12);
  mirror(args_.q, false);
  mirror(args_.k, false);
  mirror(args_.v, false);
  mirror(args_.mask, false);
  mirror(args_.out, true);
  mirror(args_.lse, true);
  args_.mask.device = args_.lse.device = args_.q.device;
  Sequences& s = args_.sequences;
  s.cu_seqlens_q = mirror_array(s.cu_seqlens_q, static_cast<std::size_t>(s.batch) + 1);
  s.cu_seqlens_k = mirror_array(s.cu_seqlens_k, static_cast<std::size_t>(s.batch) + 1);
  s.seqlens_k = mirror_array(s.seqlens_k, static_cast<std::size_t>(args_.q.shape[0]));
}

void GpuCall::refresh_inputs() {
  for (Copy& c : copies_)
    if (!c.output) c.device.upload(c.host);
}

void GpuCall::download_results() {
  for (Copy& c : copies_) {
    if (!c.output) continue;
    const auto bytes = c.device.download();
    std::copy(bytes.begin(), bytes.end(), static_cast<std::uint8_t*>(const_cast<void*>(c.host)));
  }
}

std::string GpuCall::run(const AttentionOptions& options, cudaStream_t stream, std::uint8_t poison) {
  for (Copy& c : copies_)
    if (c.output) c.device.fill(poison);
  const Plan p = plan(args_, options);
  DeviceBuffer workspace(p.workspace_bytes());
  workspace.fill(poison);
  settle();
  chitu::run(p, args_, workspace.data(), stream);
  settle();
  download_results();
  if (!workspace.intact()) return "wrote around the workspace";
  for (Copy& c : copies_) {
    if (!c.device.intact()) return c.output ? "wrote around an output" : "wrote around an input";
    if (c.output) continue;
    const auto now = c.device.download();
    if (!std::equal(now.begin(), now.end(), static_cast<const std::uint8_t*>(c.host))) return "changed an input";
  }
  return {};
}

core::Scheme GpuCall::executed(const AttentionOptions& options, std::string* row) {
  core::Problem p = core::validate(args_, options);
  p.caps = cuda::backend().caps(p.device);
  p.scheme = core::resolve_scheme(options.method, p.dtype, options.scheme);
  const std::string name(plan(args_, options).kernel());
  if (row != nullptr) *row = name;
  for (const core::Kernel& k : cuda::backend().kernels)
    if (name == k.name) return k.executes == nullptr ? p.scheme : k.executes(p);
  throw std::runtime_error("no such row: " + name);
}

std::vector<std::string> GpuCall::rows(const AttentionOptions& options, const AttentionArgs* args) {
  core::Problem p = core::validate(args != nullptr ? *args : args_, options);
  p.caps = cuda::backend().caps(p.device);
  p.scheme = core::resolve_scheme(options.method, p.dtype, options.scheme);
  std::vector<std::string> names;
  for (const core::Kernel& k : cuda::backend().kernels)
    if (k.why_not(p).empty()) names.push_back(k.name);
  return names;
}

void GpuCall::run_reference(const AttentionOptions& options) {
  const core::Scheme scheme = executed(options);
  AttentionOptions o = options;
  o.kernel.clear();
  core::Problem p = core::validate(host_.args(), o);
  p.scheme = scheme;
  core::Workspace none(nullptr, 0);
  const AttentionArgs expanded = core::with_expanded_mask(host_.args());
  const auto& table = ref::backend().kernels;
  table[options.method == Method::exact ? 0 : 1].run({p, expanded, nullptr}, none);
}

Difference difference(const std::vector<float>& a, const std::vector<float>& b) {
  double dd = 0, bb = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) != std::isnan(b[i])) return {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    if (std::isnan(a[i]) || a[i] == b[i]) continue;
    const double d = std::fabs(static_cast<double>(a[i]) - b[i]);
    dd += d * d;
    largest = std::max(largest, d);
  }
  for (float x : b)
    if (std::isfinite(x)) bb += static_cast<double>(x) * x;
  if (dd == 0) return {};
  const double rms = std::sqrt(bb / static_cast<double>(b.size()));
  return {largest / rms, std::sqrt(dd / bb)};
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::fabs(static_cast<double>(a[i]) - b[i]));
  }
  return largest;
}

}  // namespace chitu::test
