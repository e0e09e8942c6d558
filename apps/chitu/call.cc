#include "call.h"

#include <fmt/format.h>

#include <algorithm>

#include "common.h"
#include "parse_error.h"
#include "tensor_file.h"

namespace chitu::cli {
namespace {

/// Row-major strides that also tell the dimensions of an empty tensor apart: a size of 0 counts as 1.
template <class Ptr, int Rank>
BasicView<Ptr, Rank> dense_view(Ptr data, DType dtype, const std::array<int64_t, Rank>& shape, Device device = {}) {
  BasicView<Ptr, Rank> view{data, dtype, device, shape, {}};
  int64_t stride = 1;
  for (size_t i = Rank; i-- > 0;) {
    view.stride[i] = stride;
    stride *= std::max<int64_t>(1, shape[i]);
  }
  return view;
}

HostTensor load_input(const std::string& file, const char* name, bool bhsd) {
  HostTensor tensor = load_tensor(file, name);
  if (tensor.shape.size() != 4) {
    throw ParseError(file, fmt::format("{}: want a 4-D tensor {}, got shape {}", name,
                                       bhsd ? "[batch, heads, seqlen, head_dim]" : "[batch, seqlen, heads, head_dim]", shape_text(tensor.shape)));
  }
  if (tensor.type == ElementType::boolean) throw ParseError(file, fmt::format("{}: want fp16, bf16, fp32 or fp64, got bool", name));
  return tensor;
}

ConstTensorView view_of(const HostTensor& tensor, bool bhsd) {
  // An empty tensor has no memory, and the library wants no pointer for it.
  const auto view = dense_view<const void*, 4>(tensor.data.empty() ? nullptr : tensor.data.data(), dtype_of(tensor.type),
                                               {tensor.shape[0], tensor.shape[1], tensor.shape[2], tensor.shape[3]});
  return bhsd ? from_bhsd(view) : view;
}

/// Without this a few bytes of file, an empty tensor with huge sizes, could ask for any amount of memory.
void check_shapes(const AttentionArgs& args) {
  const auto same = [](const char* name, const ConstTensorView& view, size_t dimension, int64_t want) {
    if (view.shape[dimension] != want) throw UsageError(fmt::format("{}: want {}, got {}", name, want, view.shape[dimension]));
  };
  const auto head_dim = [](const char* name, int64_t size) {
    if (size < 1 || size > kMaxHeadDim) throw UsageError(fmt::format("{}: want a head_dim from 1 to {}, got {}", name, kMaxHeadDim, size));
  };
  head_dim("q", args.q.shape[3]);
  head_dim("v", args.v.shape[3]);
  same("k: head_dim (that of q)", args.k, 3, args.q.shape[3]);
  same("k: batch (that of q)", args.k, 0, args.q.shape[0]);
  same("v: batch (that of k)", args.v, 0, args.k.shape[0]);
  same("v: seqlen (that of k)", args.v, 1, args.k.shape[1]);
  same("v: heads (those of k)", args.v, 2, args.k.shape[2]);
  const int64_t heads = args.q.shape[2], heads_kv = args.k.shape[2];
  if (heads_kv == 0 ? heads != 0 : heads % heads_kv != 0) throw UsageError(fmt::format("k: heads: want a divisor of the {} of q, got {}", heads, heads_kv));
}

}  // namespace

int64_t element_count(const ConstTensorView& view) { return view.shape[0] * view.shape[1] * view.shape[2] * view.shape[3]; }

void CallFiles::declare(Arguments& arguments) {
  arguments.required("--q", q, "FILE.npy (fp16, fp32, fp64 read as fp32), FILE.safetensors (also bf16) or FILE.safetensors:TENSOR; 4-D", "FILE");
  arguments.required("--k", k, "Keys, as --q", "FILE");
  arguments.required("--v", v, "Values, as --q", "FILE");
  arguments.value("--mask", mask, "Mask that broadcasts to [batch, heads, seqlen_q, seqlen_k]: bool (true = visible) or added to the scaled scores", "FILE");
  arguments.value("--layout", layout, "bhsd [batch, heads, seqlen, head_dim] or bshd [batch, seqlen, heads, head_dim]");
}

HostCall::HostCall(const CallFiles& files) : bhsd_(files.layout == "bhsd") {
  if (!bhsd_ && files.layout != "bshd") throw UsageError(fmt::format("--layout: want bhsd or bshd, got '{}'", printable(files.layout)));
  q_ = load_input(files.q, "q", bhsd_);
  k_ = load_input(files.k, "k", bhsd_);
  v_ = load_input(files.v, "v", bhsd_);
  dtype_ = dtype_of(q_.type);
  if (files.mask.empty()) return;
  mask_ = load_tensor(files.mask, "mask");
  if (mask_->shape.size() > 4) {
    throw ParseError(files.mask, fmt::format("mask: want at most 4 dimensions, got shape {}", shape_text(mask_->shape)));
  }
  while (mask_->shape.size() < 4) mask_->shape.insert(mask_->shape.begin(), 1);
}

AttentionArgs HostCall::args() const {
  AttentionArgs args;
  args.q = view_of(q_, bhsd_);
  args.k = view_of(k_, bhsd_);
  args.v = view_of(v_, bhsd_);
  if (mask_) {
    // A mask without elements must still be seen as a mask, so that its shape is checked.
    static const uint64_t kNoElement = 0;
    args.mask = view_of(*mask_, false);
    if (args.mask.data == nullptr) args.mask.data = &kNoElement;
    // The fp64 reference walks [batch, heads, seqlen_q, seqlen_k] by the strides alone.
    for (size_t i = 0; i < 4; ++i) {
      if (args.mask.shape[i] == 1) args.mask.stride[i] = 0;
    }
  }
  return args;
}

void refuse_input(const std::string& output, const CallFiles& files) {
  for (const std::string* input : {&files.q, &files.k, &files.v, &files.mask}) {
    if (!input->empty() && same_file(output, parse_tensor_ref(*input).path)) throw ParseError(output, "is an input, name another file for the output");
  }
}

DeviceCall::DeviceCall(const AttentionArgs& host, Device device, bool bhsd, bool with_lse) : device_(device), bhsd_(bhsd), args_(host) {
  check_shapes(host);
  const auto move = [&](ConstTensorView& view, Buffer& buffer) {
    view.device = device;
    if (device.type == DeviceType::cpu || view.data == nullptr) return;
    buffer = Buffer(device, static_cast<size_t>(element_count(view)) * dtype_size(view.dtype));
    buffer.upload(view.data);
    if (buffer.bytes() != 0) view.data = buffer.data();
  };
  move(args_.q, q_);
  move(args_.k, k_);
  move(args_.v, v_);
  move(args_.mask, mask_);
  const auto& q = args_.q.shape;
  const int64_t dim_v = args_.v.shape[3];
  out_ = Buffer(device, static_cast<size_t>(q[0] * q[1] * q[2] * dim_v) * dtype_size(args_.q.dtype));
  const auto out = dense_view<void*, 4>(out_.data(), args_.q.dtype, bhsd ? std::array{q[0], q[2], q[1], dim_v} : std::array{q[0], q[1], q[2], dim_v}, device);
  args_.out = bhsd ? from_bhsd(out) : out;
  if (!with_lse) return;
  lse_ = Buffer(device, static_cast<size_t>(q[0] * q[1] * q[2]) * sizeof(float));
  args_.lse = dense_view<float*, 3>(static_cast<float*>(lse_.data()), DType::f32, {q[0], q[2], q[1]}, device);
}

std::vector<int64_t> DeviceCall::out_shape() const {
  const auto& shape = args_.out.shape;
  if (bhsd_) return {shape[0], shape[2], shape[1], shape[3]};
  return {shape[0], shape[1], shape[2], shape[3]};
}

std::vector<int64_t> DeviceCall::lse_shape() const { return {args_.out.shape[0], args_.out.shape[2], args_.out.shape[1]}; }

const void* DeviceCall::fetch_out() {
  if (device_.type == DeviceType::cpu) return out_.data();
  out_copy_.resize(out_.bytes());
  out_.download(out_copy_.data());
  return out_copy_.data();
}

const float* DeviceCall::fetch_lse() {
  if (device_.type == DeviceType::cpu) return static_cast<const float*>(lse_.data());
  lse_copy_.resize(lse_.bytes());
  lse_.download(lse_copy_.data());
  return reinterpret_cast<const float*>(lse_copy_.data());
}

ConstTensorView DeviceCall::host_out() {
  ConstTensorView view{fetch_out(), args_.out.dtype, {}, args_.out.shape, args_.out.stride};
  return view;
}

}  // namespace chitu::cli
