#include "common/call.h"

#include <cmath>
#include <limits>

#include "core/codec.h"
#include "eval/fill.h"
#include "eval/random.h"

namespace chitu::test {
namespace {

using Shape4 = std::array<std::int64_t, 4>;

std::int64_t volume(const Shape4& s) { return s[0] * s[1] * s[2] * s[3]; }

/// Strides of [batch, rows, heads, dim] for a layout, and the elements that the buffer needs.
struct Placement {
  Shape4 stride;
  std::int64_t elements;
};

Placement place(const Shape4& shape, Layout layout) {
  const auto [b, s, h, d] = shape;
  if (layout == Layout::bhsd) return {{h * s * d, d, s * d, 1}, volume(shape)};
  if (layout == Layout::bshd) return {{s * h * d, h * d, d, 1}, volume(shape)};
  // gaps keep 16-byte multiples where head_dim has them, odd never does
  const std::int64_t head = layout == Layout::odd ? d + 1 + d % 2 : d + 16, row = h * head + (layout == Layout::odd ? 2 : 32), batch = s * row + 16;
  return {{batch, row, head, 1}, b * batch};
}

void store(std::uint8_t* base, DType dtype, std::int64_t index, float x) {
  if (dtype == DType::f32) {
    std::memcpy(base + 4 * index, &x, 4);
  } else {
    const std::uint16_t bits = dtype == DType::f16 ? core::f32_to_f16(x) : core::f32_to_bf16(x);
    std::memcpy(base + 2 * index, &bits, 2);
  }
}

float load(const void* base, DType dtype, std::int64_t index) {
  if (dtype == DType::f32) return static_cast<const float*>(base)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(base)[index];
  return dtype == DType::f16 ? core::f16_to_f32(bits) : core::bf16_to_f32(bits);
}

/// Calls body(element offset, position in contiguous order) for each element of a view.
template <class View, class Body>
void for_each_element(const View& v, const Body& body) {
  std::array<std::int64_t, std::tuple_size_v<decltype(v.shape)>> index{};
  std::int64_t total = 1;
  for (auto n : v.shape) total *= n;
  for (std::int64_t at = 0; at < total; ++at) {
    std::int64_t offset = 0;
    for (std::size_t i = 0; i < index.size(); ++i) offset += index[i] * v.stride[i];
    body(offset, at);
    for (std::size_t i = index.size(); i-- > 0;) {
      if (++index[i] < v.shape[i]) break;
      index[i] = 0;
    }
  }
}

std::vector<std::int32_t> offsets(const std::vector<std::int32_t>& lengths) {
  std::vector<std::int32_t> cu(1, 0);
  for (auto n : lengths) cu.push_back(cu.back() + n);
  return cu;
}

std::int32_t largest(const std::vector<std::int32_t>& lengths) {
  std::int32_t most = 0;
  for (auto n : lengths) most = n > most ? n : most;
  return most;
}

/// A byte of the buffer that no element of the view covers has changed.
template <class View>
bool wrote_between(const View& v, const GuardedBuffer& memory, std::uint8_t poison) {
  const std::size_t size = dtype_size(v.dtype);
  std::vector<bool> covered(memory.size(), false);
  for_each_element(v, [&](std::int64_t offset, std::int64_t) {
    for (std::size_t i = 0; i < size; ++i) covered[static_cast<std::size_t>(offset) * size + i] = true;
  });
  for (std::size_t i = 0; i < memory.size(); ++i)
    if (!covered[i] && memory.data()[i] != poison) return true;
  return false;
}

}  // namespace

const char* layout_name(Layout layout) {
  constexpr const char* names[] = {"bshd", "bhsd", "fused", "gaps", "odd"};
  return names[static_cast<int>(layout)];
}

std::string CallSpec::text() const {
  auto list = [](const std::vector<std::int32_t>& x) {
    std::string s;
    for (auto n : x) s += (s.empty() ? "{" : ",") + std::to_string(n);
    return s + "}";
  };
  auto side = [](const std::optional<std::int64_t>& x) { return x ? std::to_string(*x) : std::string("-"); };
  std::string s = "batch " + std::to_string(batch) + " q " + std::to_string(seqlen_q) + " k " + std::to_string(seqlen_k) + " heads " + std::to_string(heads_q) +
                  "/" + std::to_string(heads_kv) + " dim " + std::to_string(head_dim) + "/" + std::to_string(head_dim_v) + " " + dtype_name(dtype) + "->" +
                  dtype_name(out_dtype) + " mask " + side(mask.left) + "," + side(mask.right) + "," + side(mask.diagonal) + " dense " +
                  std::to_string(static_cast<int>(dense)) + (dense_broadcast ? "b " : " ") + layout_name(layout) + (lse ? " lse" : "") + " set " + input_set +
                  " seed " + std::to_string(seed);
  if (softmax_scale) s += " scale " + std::to_string(*softmax_scale);
  if (packed()) s += " packed q " + list(lens_q) + " k " + list(lens_k);
  if (!packed() && !lens_k.empty()) s += " padded " + list(lens_k);
  return s;
}

TestCall::TestCall(const CallSpec& spec) : spec_(spec) {
  if (spec_.packed()) {
    cu_q_ = offsets(spec_.lens_q);
    cu_k_ = offsets(spec_.lens_k);
    args_.sequences = {cu_q_.data(), cu_k_.data(), nullptr, static_cast<std::int64_t>(spec_.lens_q.size()), largest(spec_.lens_q), largest(spec_.lens_k)};
    rows_q_ = cu_q_.back();
    rows_k_ = cu_k_.back();
  } else {
    tensor_batch_ = spec_.batch;
    rows_q_ = spec_.seqlen_q;
    rows_k_ = spec_.seqlen_k;
    seqlens_k_ = spec_.lens_k;
    if (!seqlens_k_.empty()) args_.sequences.seqlens_k = seqlens_k_.data();
  }
  make_inputs();
  make_dense_mask();
  make_outputs();
}

void TestCall::make_inputs() {
  const eval::Shape shape{tensor_batch_, rows_q_, rows_k_, spec_.heads_q, spec_.heads_kv, spec_.head_dim, spec_.head_dim_v};
  eval::Inputs in = eval::make_inputs(*eval::find_input_set(spec_.input_set), shape, spec_.seed, spec_.dtype, spec_.softmax_scale.value_or(0.0f));
  const Shape4 shapes[3] = {{tensor_batch_, rows_q_, spec_.heads_q, spec_.head_dim},
                            {tensor_batch_, rows_k_, spec_.heads_kv, spec_.head_dim},
                            {tensor_batch_, rows_k_, spec_.heads_kv, spec_.head_dim_v}};
  ConstTensorView* views[3] = {&args_.q, &args_.k, &args_.v};
  const std::size_t size = dtype_size(spec_.dtype);
  const bool one_buffer = spec_.layout == Layout::fused && rows_q_ == rows_k_ && !spec_.packed();
  if (one_buffer) {  // [batch, rows, (heads_q + heads_kv) * head_dim + heads_kv * head_dim_v]
    const std::int64_t row = (spec_.heads_q + spec_.heads_kv) * spec_.head_dim + spec_.heads_kv * spec_.head_dim_v;
    inputs_.emplace_back(static_cast<std::size_t>(tensor_batch_ * rows_q_ * row) * size);
    std::int64_t start = 0;
    for (int i = 0; i < 3; ++i) {
      *views[i] = {inputs_[0].data() + static_cast<std::size_t>(start) * size, spec_.dtype, {}, shapes[i], {rows_q_ * row, row, shapes[i][3], 1}};
      start += shapes[i][2] * shapes[i][3];
    }
  } else {
    for (int i = 0; i < 3; ++i) {
      const Placement at = place(shapes[i], spec_.layout == Layout::fused ? Layout::gaps : spec_.layout);
      inputs_.emplace_back(static_cast<std::size_t>(at.elements) * size, spec_.layout == Layout::odd ? size : 0);
      inputs_.back().fill(0xFF);  // NaN between the rows: reading it shows
      *views[i] = {inputs_.back().data(), spec_.dtype, {}, shapes[i], at.stride};
    }
  }
  write(0, in.q);
  write(1, in.k);
  write(2, in.v);
}

void TestCall::write(int which, const std::vector<float>& values) {
  const ConstTensorView& view = which == 0 ? args_.q : which == 1 ? args_.k : args_.v;
  auto* base = static_cast<std::uint8_t*>(const_cast<void*>(view.data));
  values_[which].resize(values.size());
  for_each_element(view, [&](std::int64_t offset, std::int64_t at) {
    store(base, spec_.dtype, offset, values[static_cast<std::size_t>(at)]);
    values_[which][static_cast<std::size_t>(at)] = load(base, spec_.dtype, offset);
  });
}

void TestCall::make_dense_mask() {
  if (spec_.dense == DenseKind::none) return;
  const DType dtype = spec_.dense == DenseKind::boolean ? DType::boolean : spec_.dense == DenseKind::additive_f32 ? DType::f32 : spec_.dtype;
  const Shape4 shape = spec_.dense_broadcast ? Shape4{1, 1, rows_q_, rows_k_} : Shape4{tensor_batch_, spec_.heads_q, rows_q_, rows_k_};
  const Placement at = place(shape, Layout::bshd);
  inputs_.emplace_back(static_cast<std::size_t>(at.elements) * dtype_size(dtype));
  args_.mask = {inputs_.back().data(), dtype, {}, shape, at.stride};
  dense_.resize(static_cast<std::size_t>(volume(shape)));
  const eval::Random random(spec_.seed, 77);
  for (std::size_t i = 0; i < dense_.size(); ++i) {
    const bool hidden = random.uniform(2 * i) < 0.3;
    if (dtype == DType::boolean) {
      inputs_.back().data()[i] = hidden ? 0 : 1;
      dense_[i] = hidden ? -std::numeric_limits<float>::infinity() : 0.0f;
    } else {
      store(inputs_.back().data(), dtype, static_cast<std::int64_t>(i),
            hidden ? -std::numeric_limits<float>::infinity() : static_cast<float>(random.normal(2 * i + 1)));
      dense_[i] = load(inputs_.back().data(), dtype, static_cast<std::int64_t>(i));
    }
  }
}

void TestCall::make_outputs() {
  const Shape4 shape = {tensor_batch_, rows_q_, spec_.heads_q, spec_.head_dim_v};
  const Placement at = place(shape, spec_.layout == Layout::fused ? Layout::bshd : spec_.layout);
  const std::size_t size = dtype_size(spec_.out_dtype);
  out_ = GuardedBuffer(static_cast<std::size_t>(at.elements) * size, spec_.layout == Layout::odd ? size : 0);
  args_.out = {out_.data(), spec_.out_dtype, {}, shape, at.stride};
  if (!spec_.lse) return;
  const std::int64_t rows = rows_q_ + (spec_.layout == Layout::gaps ? 3 : 0);
  lse_ = GuardedBuffer(static_cast<std::size_t>(tensor_batch_ * spec_.heads_q * rows) * 4, spec_.layout == Layout::odd ? 4 : 0);
  args_.lse = {reinterpret_cast<float*>(lse_.data()), DType::f32, {}, {tensor_batch_, spec_.heads_q, rows_q_}, {spec_.heads_q * rows, rows, 1}};
}

AttentionOptions TestCall::options(Method method, const std::string& kernel) const {
  AttentionOptions o;
  o.method = method;
  o.mask = spec_.mask;
  o.softmax_scale = spec_.softmax_scale;
  o.kernel = kernel;
  return o;
}

double TestCall::dense_value(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
  if (dense_.empty()) return 0.0;
  const std::int64_t plane = spec_.dense_broadcast ? 0 : b * spec_.heads_q + h;
  return dense_[static_cast<std::size_t>((plane * rows_q_ + i) * rows_k_ + j)];
}

SequenceSpan TestCall::span(std::int64_t b) const {
  if (spec_.packed()) return {0, cu_q_[b], spec_.lens_q[b], cu_k_[b], spec_.lens_k[b]};
  return {b, 0, rows_q_, 0, seqlens_k_.empty() ? rows_k_ : seqlens_k_[b]};
}

std::string TestCall::memory_fault(const std::vector<std::vector<std::uint8_t>>& inputs_before, std::uint8_t poison) const {
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (!inputs_[i].intact()) return "wrote around input " + std::to_string(i);
    if (inputs_[i].copy() != inputs_before[i]) return "changed input " + std::to_string(i);
  }
  if (!out_.intact()) return "wrote around out";
  if (!lse_.intact()) return "wrote around lse";
  if (wrote_between(args_.out, out_, poison)) return "wrote between the elements of out";
  if (spec_.lse && wrote_between(args_.lse, lse_, poison)) return "wrote between the elements of lse";
  return {};
}

std::string TestCall::run(const AttentionOptions& options, std::uint8_t poison) {
  std::vector<std::vector<std::uint8_t>> before;
  for (const auto& memory : inputs_) before.push_back(memory.copy());
  out_.fill(poison);
  lse_.fill(poison);
  const Plan p = plan(args_, options);
  GuardedBuffer workspace(p.workspace_bytes());
  workspace.fill(poison);
  chitu::run(p, args_, workspace.data());
  if (!workspace.intact()) return "wrote around the workspace of " + std::to_string(p.workspace_bytes()) + " bytes";
  return memory_fault(before, poison);
}

std::string TestCall::run_checked(const AttentionOptions& options) {
  if (std::string fault = run(options, 0x5A); !fault.empty()) return fault;
  const auto first_out = out(), first_lse = lse();
  if (std::string fault = run(options, 0xFF); !fault.empty()) return fault;
  if (!same_bits(first_out, out())) return "out depends on what was in out or in the workspace before the call";
  if (!same_bits(first_lse, lse())) return "lse depends on what was in lse or in the workspace before the call";
  return {};
}

std::vector<float> TestCall::out() const {
  std::vector<float> values(static_cast<std::size_t>(volume(args_.out.shape)));
  for_each_element(args_.out,
                   [&](std::int64_t offset, std::int64_t at) { values[static_cast<std::size_t>(at)] = load(args_.out.data, spec_.out_dtype, offset); });
  return values;
}

std::vector<float> TestCall::lse() const {
  if (!spec_.lse) return {};
  std::vector<float> values(static_cast<std::size_t>(tensor_batch_ * spec_.heads_q * rows_q_));
  for_each_element(args_.lse, [&](std::int64_t offset, std::int64_t at) { values[static_cast<std::size_t>(at)] = args_.lse.data[offset]; });
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace chitu::test
