// The reference backend's table, and its whole-tensor loop over sequences and heads.

#include <numeric>

#include "core/codec.h"
#include "core/kernel.h"
#include "reference/scheme.h"

namespace chitu::ref {
namespace {

using core::Call;
using core::Problem;

std::string exact_why_not(const Problem& p) {
  if (p.scheme.method != Method::exact) return "computes method exact only";
  if (p.quantized_kv) return "reads k and v, not a QuantizedKV";
  return {};
}

std::string scheme_why_not(const Problem& p) {
  if (p.scheme.method == Method::exact) return "runs the quantized methods; method exact has ref_exact";
  if (p.quantized_kv) return "reads k and v, not a QuantizedKV";
  return {};
}

void store(const TensorView& out, std::int64_t batch, std::int64_t row, std::int64_t head, const float* x) {
  const std::int64_t base = batch * out.stride[0] + row * out.stride[1] + head * out.stride[2];
  for (std::int64_t d = 0; d < out.shape[3]; ++d) {
    if (out.dtype == DType::f32)
      static_cast<float*>(out.data)[base + d] = x[d];
    else
      static_cast<std::uint16_t*>(out.data)[base + d] = out.dtype == DType::f16 ? core::f32_to_f16(x[d]) : core::f32_to_bf16(x[d]);
  }
}

/// One head of one sequence, all rows, `pass` rows at a time (the buffers stay small at any length).
void run_head(const Problem& p, const AttentionArgs& a, const core::SequenceRange& range, std::int64_t head, const HeadView& k_rows, const HeadView& v_rows,
              const Keys& keys, const Values& values) {
  constexpr std::int64_t pass = 4096;
  MaskView mask;
  if (a.mask.data != nullptr) {
    const std::int64_t offset = range.tensor_batch * a.mask.stride[0] + head * a.mask.stride[1];
    mask = {static_cast<const char*>(a.mask.data) + offset * static_cast<std::int64_t>(dtype_size(a.mask.dtype)), a.mask.dtype, a.mask.stride[2],
            a.mask.stride[3]};
  }
  const HeadProblem problem{p.scheme, p.softmax_scale, core::Band(p.mask, range.q_len, range.k_len), mask};
  const HeadView q = head_view(a.q, range.tensor_batch, head, range.q_begin, range.q_len);
  std::vector<std::int64_t> rows;
  std::vector<float> out, lse;
  for (std::int64_t first = 0; first < range.q_len; first += pass) {
    rows.resize(static_cast<std::size_t>(std::min(pass, range.q_len - first)));
    std::iota(rows.begin(), rows.end(), first);
    out.resize(rows.size() * static_cast<std::size_t>(p.head_dim_v));
    lse.resize(rows.size());
    if (p.scheme.method == Method::exact)
      attend_exact(problem, q, k_rows, v_rows, rows, out.data(), lse.data());
    else
      attend(problem, q, keys, values, rows, out.data(), lse.data());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::int64_t row = range.q_begin + rows[i];
      store(a.out, range.tensor_batch, row, head, out.data() + i * static_cast<std::size_t>(p.head_dim_v));
      if (a.lse.data != nullptr) a.lse.data[range.tensor_batch * a.lse.stride[0] + head * a.lse.stride[1] + row * a.lse.stride[2]] = lse[i];
    }
  }
}

void run(const Call& call, core::Workspace& ws) {
  if (ws.measuring()) return;  // a specification allocates as it likes
  const Problem& p = call.problem;
  const AttentionArgs& a = call.args;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const core::SequenceRange range = core::sequence_range(p, a.sequences, b);
    for (std::int64_t kv_head = 0; kv_head < p.num_heads_kv; ++kv_head) {
      const HeadView k = head_view(a.k, range.tensor_batch, kv_head, range.k_begin, range.k_len);
      const HeadView v = head_view(a.v, range.tensor_batch, kv_head, range.k_begin, range.k_len);
      const bool exact = p.scheme.method == Method::exact;
      const Keys keys = exact ? Keys{} : quantize_keys(p.scheme, k);
      const Values values = exact ? Values{} : quantize_values(p.scheme, v);
      for (std::int64_t g = 0; g < p.group(); ++g) run_head(p, a, range, kv_head * p.group() + g, k, v, keys, values);
    }
  }
}

constexpr core::Kernel kTable[] = {
    {"ref_exact", DeviceType::cpu, true, true, exact_why_not, run, nullptr},
    {"ref_scheme", DeviceType::cpu, true, true, scheme_why_not, run, nullptr},
};

std::string available(Device) { return {}; }
core::DeviceCaps caps(Device) { return {}; }

}  // namespace

const core::Backend& backend() {
  // 8-bit caches, merging and memory of CPU tensors belong to the cpu backend.
  static const core::Backend table{DeviceType::cpu, kTable, available, caps, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  return table;
}

}  // namespace chitu::ref
