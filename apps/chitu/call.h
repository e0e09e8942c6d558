// The tensors of one call: loaded from files, viewed for the library, moved to the device that runs it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "chitu/chitu.h"
#include "device.h"
#include "host_tensor.h"

namespace chitu::cli {

/// File options of `run` and `accuracy`.
struct CallFiles {
  std::string q, k, v, mask;
  std::string layout = "bhsd";
  void declare(Arguments& arguments);
};

/// q, k, v and mask in host memory.
class HostCall {
 public:
  /// Reads the files. Throws ParseError or UsageError for a wrong file, rank, dtype or layout.
  explicit HostCall(const CallFiles& files);
  /// Inputs only: out and lse are left empty.
  AttentionArgs args() const;
  DType dtype() const { return dtype_; }
  bool bhsd() const { return bhsd_; }

 private:
  bool bhsd_;
  DType dtype_;
  HostTensor q_, k_, v_;
  std::optional<HostTensor> mask_;
};

/// The same call on its device: on the CPU the inputs are used where they are, on a GPU they are copied. Owns out and lse.
class DeviceCall {
 public:
  /// `host` has dense inputs in host memory. out gets the dtype of q and its layout (bhsd or bshd).
  DeviceCall(const AttentionArgs& host, Device device, bool bhsd, bool with_lse);
  const AttentionArgs& args() const { return args_; }
  AttentionArgs& args() { return args_; }
  Device device() const { return device_; }
  /// Shape of out as stored: in the layout of the call.
  std::vector<int64_t> out_shape() const;
  std::vector<int64_t> lse_shape() const;
  /// Host copies. On the CPU these are the buffers themselves.
  const void* fetch_out();
  const float* fetch_lse();
  /// out as a host view (after fetch_out), [batch, seqlen, heads, head_dim_v].
  ConstTensorView host_out();

 private:
  Device device_;
  bool bhsd_;
  AttentionArgs args_;
  Buffer q_, k_, v_, mask_, out_, lse_;
  std::vector<std::byte> out_copy_, lse_copy_;
};

int64_t element_count(const ConstTensorView& view);

/// The library's limit. The output is allocated before a plan can refuse the shapes, so that they are looked at here first.
constexpr int64_t kMaxHeadDim = 256;

/// Writing over an input is never what was meant.
void refuse_input(const std::string& output, const CallFiles& files);

}  // namespace chitu::cli
