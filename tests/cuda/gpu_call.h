#pragma once

// A TestCall of the CPU suite repeated on a GPU: inputs copied byte for byte, outputs and workspace poisoned, canaries around everything.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/call.h"
#include "common/effort.h"
#include "core/kernel.h"

namespace chitu::test {

/// Skips the test (with a sentence) when there is no GPU.
#define CHITU_NEED_GPU() \
  if (::chitu::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device is visible"

void cuda_ok(cudaError_t status, const char* what);
#define CUDA_OK(call) ::chitu::test::cuda_ok((call), #call)

/// Waits for everything on the device. Before a stream of its own uses buffers: cudaMemset does not wait, nor does a copy from pageable memory, a non-blocking
/// stream has no order with them, and a fill that comes late lands in a workspace that a call is using.
void settle();

/// Device memory between two canaries; `offset` bytes behind a 256-byte boundary. What fills it may come late: see settle().
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t bytes, std::size_t offset = 0);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;

  std::uint8_t* data() const { return memory_ + kCanary + offset_; }
  std::size_t size() const { return bytes_; }
  void fill(std::uint8_t value);
  void upload(const void* from);
  std::vector<std::uint8_t> download() const;
  template <class T>
  std::vector<T> download_as() const {
    const auto raw = download();
    std::vector<T> x(raw.size() / sizeof(T));
    std::memcpy(x.data(), raw.data(), x.size() * sizeof(T));
    return x;
  }
  bool intact() const;

 private:
  static constexpr std::size_t kCanary = 4096;
  std::uint8_t* memory_ = nullptr;
  std::size_t bytes_ = 0, offset_ = 0;
};

class GpuCall {
 public:
  explicit GpuCall(TestCall& host);

  AttentionArgs& args() { return args_; }
  /// Runs the plan; "" or what a canary or an unwritten byte tells. The results are then in the host call's out and lse.
  std::string run(const AttentionOptions& options, cudaStream_t stream = nullptr, std::uint8_t poison = 0xFF);
  /// Copies q, k, v of the host again.
  void refresh_inputs();
  void download_results();
  /// Runs the specification of the scheme that `kernel` executes, into the host call's out and lse.
  void run_reference(const AttentionOptions& options);
  /// Names of the rows that serve these options. args: instead of args().
  std::vector<std::string> rows(const AttentionOptions& options, const AttentionArgs* args = nullptr);
  static constexpr int kAllRows = -1;
  /// body(options), once for each row that serves them; with less effort for some of them, others for another turn, unless turn is kAllRows.
  template <class Body>
  void with_every_row(const AttentionOptions& options, int turn, const Body& body, const AttentionArgs* args = nullptr) {
    const auto names = rows(options, args);
    ASSERT_FALSE(names.empty()) << "no row serves " << method_name(options.method);
    for (int i = 0, n = static_cast<int>(names.size()); i < n; ++i) {
      if (turn != kAllRows && !chosen(i, n, turn)) continue;
      AttentionOptions named = options;
      named.kernel = names[static_cast<std::size_t>(i)];
      SCOPED_TRACE(std::string(method_name(options.method)) + " by " + named.kernel);
      body(named);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
  /// The scheme that the row chosen for these options executes.
  core::Scheme executed(const AttentionOptions& options, std::string* row = nullptr);

 private:
  struct Copy {
    const void* host;
    DeviceBuffer device;
    std::size_t bytes;
    bool output;
  };
  template <class View>
  void mirror(View& v, bool output);
  const std::int32_t* mirror_array(const std::int32_t* x, std::size_t n);

  TestCall& host_;
  AttentionArgs args_;
  std::vector<Copy> copies_;
};

/// Largest |a - b| relative to the root mean square of b, and |a - b| / |b| over everything. NaN in one but not the other: infinite.
struct Difference {
  double largest = 0, nrmse = 0;
};
Difference difference(const std::vector<float>& a, const std::vector<float>& b);
/// Largest |a - b|; equal infinities and a NaN in both count as 0.
double largest_difference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace chitu::test
