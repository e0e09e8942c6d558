#include "core/validate.h"

#include <cmath>

#include "chitu/error.h"
#include "core/check.h"
#include "core/views.h"

namespace chitu::core {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;
constexpr std::int64_t kMaxKvSize = std::int64_t{1} << 31;

bool is_float(DType t) { return t == DType::f32 || t == DType::f16 || t == DType::bf16; }

void check_tensor(const char* name, const ConstTensorView& v, Device device) {
  check_view(name, v, device);
  CHITU_CHECK(is_float(v.dtype), name, ".dtype: want f32, f16 or bf16, got ", dtype_name(v.dtype));
  CHITU_CHECK(v.shape[3] <= 1 || v.stride[3] == 1, name, ".stride[3]: want 1 (head_dim contiguous), got ", v.stride[3]);
}

void check_head_dim(const char* name, std::int64_t d) {
  CHITU_CHECK(d >= 1 && d <= kMaxHeadDim, name, ".shape[3] (head_dim): want 1..", kMaxHeadDim, ", got ", d);
}

bool quantizes(Method m) { return m >= Method::sage1 && m <= Method::chitu_fast; }

ConstTensorView as_const(const TensorView& v) { return {v.data, v.dtype, v.device, v.shape, v.stride}; }

void check_kv(const AttentionArgs& a, Problem& p) {
  if (a.kv != nullptr) {
    const QuantizedKV& kv = *a.kv;
    CHITU_CHECK(a.k.data == nullptr && a.v.data == nullptr, "kv: give either k and v or kv, got both");
    CHITU_CHECK(kv.data != nullptr && kv.bytes > 0, "kv.data: want a blob made by quantize_kv, got null");
    CHITU_CHECK(reinterpret_cast<std::uintptr_t>(kv.data) % 256 == 0, "kv.data: want 256-byte alignment, got address ", kv.data);
    CHITU_CHECK(quantizes(kv.method), "kv.method: want a method that quantizes, got ", method_name(kv.method));
    CHITU_CHECK(kv.device == a.q.device, "kv.device: want the device of q, got another one");
    CHITU_CHECK(kv.dtype == a.q.dtype, "kv.dtype: want the dtype of q (", dtype_name(a.q.dtype), "), got ", dtype_name(kv.dtype));
    CHITU_CHECK(kv.head_dim == a.q.shape[3], "kv.head_dim: want that of q (", a.q.shape[3], "), got ", kv.head_dim);
    CHITU_CHECK(kv.batch == a.q.shape[0], "kv.batch: want that of q (", a.q.shape[0], "), got ", kv.batch);
    CHITU_CHECK(kv.seqlen >= 0 && kv.seqlen < kMaxKvSize, "kv.seqlen: want 0..2^31 - 1, got ", kv.seqlen);
    CHITU_CHECK(kv.num_heads_kv < kMaxKvSize, "kv.num_heads_kv: want less than 2^31, got ", kv.num_heads_kv);
    CHITU_CHECK(kv.num_heads_kv >= 0 && (kv.num_heads_kv == 0 ? p.num_heads_q == 0 : p.num_heads_q % kv.num_heads_kv == 0),
                "kv.num_heads_kv: want a divisor of num_heads_q = ", p.num_heads_q, ", got ", kv.num_heads_kv);
    CHITU_CHECK(kv.head_dim_v >= 1 && kv.head_dim_v <= kMaxHeadDim, "kv.head_dim_v: want 1..", kMaxHeadDim, ", got ", kv.head_dim_v);
    p.quantized_kv = true;
    p.seqlen_k = kv.seqlen;
    p.num_heads_kv = kv.num_heads_kv;
    p.head_dim_v = kv.head_dim_v;
    return;
  }
  check_tensor("k", a.k, a.q.device);
  check_tensor("v", a.v, a.q.device);
  CHITU_CHECK(a.k.dtype == a.q.dtype, "k.dtype: want the dtype of q (", dtype_name(a.q.dtype), "), got ", dtype_name(a.k.dtype));
  CHITU_CHECK(a.v.dtype == a.q.dtype, "v.dtype: want the dtype of q (", dtype_name(a.q.dtype), "), got ", dtype_name(a.v.dtype));
  CHITU_CHECK(a.k.shape[0] == a.q.shape[0], "k.shape[0] (batch): want that of q (", a.q.shape[0], "), got ", a.k.shape[0]);
  CHITU_CHECK(a.k.shape[3] == a.q.shape[3], "k.shape[3] (head_dim): want that of q (", a.q.shape[3], "), got ", a.k.shape[3]);
  for (int i = 0; i < 3; ++i) {
    CHITU_CHECK(a.v.shape[i] == a.k.shape[i], "v.shape: want batch, seqlen and heads of k ", shape_text(a.k), ", got ", shape_text(a.v));
  }
  check_head_dim("v", a.v.shape[3]);
  p.seqlen_k = a.k.shape[1];
  p.num_heads_kv = a.k.shape[2];
  p.head_dim_v = a.v.shape[3];
}

void check_cu_seqlens(const char* name, const std::int32_t* cu, std::int64_t batch, std::int64_t total, std::int64_t max_len) {
  CHITU_CHECK(cu[0] >= 0, name, "[0]: want >= 0, got ", cu[0]);
  for (std::int64_t b = 0; b < batch; ++b) {
    CHITU_CHECK(cu[b + 1] >= cu[b], name, ": want ascending offsets, got ", cu[b], " then ", cu[b + 1], " at ", b);
    CHITU_CHECK(cu[b + 1] - cu[b] <= max_len, name, ": want no sequence longer than max_seqlen = ", max_len, ", got ", cu[b + 1] - cu[b], " at ", b);
  }
  CHITU_CHECK(cu[batch] <= total, name, "[", batch, "]: want at most the packed length ", total, ", got ", cu[batch]);
}

void check_sequences(const AttentionArgs& a, Problem& p) {
  const Sequences& s = a.sequences;
  const bool cpu = p.device.type == DeviceType::cpu;
  CHITU_CHECK((s.cu_seqlens_q == nullptr) == (s.cu_seqlens_k == nullptr), "sequences: want cu_seqlens_q and cu_seqlens_k together, got only one");
  p.total_q = p.batch * p.seqlen_q;
  p.total_k = p.batch * p.seqlen_k;
  if (s.cu_seqlens_q == nullptr) {
    CHITU_CHECK(s.batch == 0 || s.batch == p.batch, "sequences.batch: want 0 or the batch of q (", p.batch, "), got ", s.batch);
    CHITU_CHECK(s.max_seqlen_q == 0 && s.max_seqlen_k == 0, "sequences.max_seqlen_q, max_seqlen_k: want 0 without cu_seqlens, got ", s.max_seqlen_q, ", ",
                s.max_seqlen_k);
    p.padded = s.seqlens_k != nullptr;
    if (!p.padded || !cpu) return;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      CHITU_CHECK(s.seqlens_k[b] >= 0 && s.seqlens_k[b] <= p.seqlen_k, "sequences.seqlens_k[", b, "]: want 0..", p.seqlen_k, ", got ", s.seqlens_k[b]);
    }
    return;
  }
  CHITU_CHECK(s.seqlens_k == nullptr, "sequences.seqlens_k: want null with cu_seqlens, got both");
  CHITU_CHECK(a.kv == nullptr, "kv: packed sequences (cu_seqlens) cannot be combined with pre-quantized kv; pass k and v, or a padded kv with seqlens_k");
  CHITU_CHECK(p.batch == 1, "q.shape[0]: want 1 for packed sequences (cu_seqlens), got ", p.batch);
  CHITU_CHECK(s.batch >= 0, "sequences.batch: want >= 0, got ", s.batch);
  CHITU_CHECK(s.max_seqlen_q >= 0 && s.max_seqlen_k >= 0, "sequences.max_seqlen_q, max_seqlen_k: want >= 0, got ", s.max_seqlen_q, ", ", s.max_seqlen_k);
  if (cpu) {
    check_cu_seqlens("sequences.cu_seqlens_q", s.cu_seqlens_q, s.batch, p.seqlen_q, s.max_seqlen_q);
    check_cu_seqlens("sequences.cu_seqlens_k", s.cu_seqlens_k, s.batch, p.seqlen_k, s.max_seqlen_k);
  }
  p.packed = true;
  p.batch = s.batch;
  p.seqlen_q = s.max_seqlen_q < p.total_q ? s.max_seqlen_q : p.total_q;
  p.seqlen_k = s.max_seqlen_k < p.total_k ? s.max_seqlen_k : p.total_k;
}

void check_mask(const AttentionArgs& a, const Mask& m, Problem& p) {
  auto side = [](const char* name, const std::optional<std::int64_t>& x, std::int64_t absent) {
    CHITU_CHECK(!x || (*x > -kNoLimit / 2 && *x < kNoLimit / 2), name, ": want a value within +-2^59, got ", x.value_or(0));
    return x.value_or(absent);
  };
  p.mask.left = side("mask.left", m.left, kNoLimit);
  p.mask.right = side("mask.right", m.right, kNoLimit);
  p.mask.diagonal = side("mask.diagonal", m.diagonal, 0);
  p.mask.bottom_right = !m.diagonal;
  if (a.mask.data == nullptr) {
    CHITU_CHECK(a.mask.shape == (std::array<std::int64_t, 4>{}) || last_offset("mask", a.mask) < 0, "mask.data: want a pointer for shape ", shape_text(a.mask),
                ", got null");
    return;
  }
  CHITU_CHECK(a.mask.dtype == DType::boolean || is_float(a.mask.dtype), "mask.dtype: want bool, f32, f16 or bf16, got ", dtype_name(a.mask.dtype), " (",
              static_cast<int>(a.mask.dtype), ")");
  CHITU_CHECK(!p.packed, "mask: a dense mask cannot be combined with packed sequences (cu_seqlens); use a padded batch with seqlens_k");
  check_view("mask", a.mask, a.q.device);
  const std::array<std::int64_t, 4> want = {p.batch, p.num_heads_q, p.seqlen_q, p.seqlen_k};
  for (int i = 0; i < 4; ++i) {
    CHITU_CHECK(a.mask.shape[i] == want[i] || a.mask.shape[i] == 1, "mask.shape: want [batch, num_heads_q, seqlen_q, seqlen_k] = [", want[0], ", ", want[1],
                ", ", want[2], ", ", want[3], "] (1 broadcasts), got ", shape_text(a.mask));
  }
  p.dense_mask = a.mask.dtype == DType::boolean ? DenseMask::boolean : DenseMask::additive;
  p.mask_dtype = a.mask.dtype;
}

void check_outputs(const AttentionArgs& a, const std::array<std::int64_t, 4>& out_shape, Problem& p) {
  check_view("out", a.out, a.q.device);
  CHITU_CHECK(a.out.shape == out_shape, "out.shape: want [", out_shape[0], ", ", out_shape[1], ", ", out_shape[2], ", ", out_shape[3], "], got ",
              shape_text(a.out));
  CHITU_CHECK(a.out.dtype == a.q.dtype || a.out.dtype == DType::f32, "out.dtype: want the dtype of q (", dtype_name(a.q.dtype), ") or f32, got ",
              dtype_name(a.out.dtype));
  CHITU_CHECK(out_shape[3] <= 1 || a.out.stride[3] == 1, "out.stride[3]: want 1 (head_dim contiguous), got ", a.out.stride[3]);
  check_no_self_overlap("out", a.out);
  p.out_dtype = a.out.dtype;
  p.has_lse = a.lse.data != nullptr;
  if (p.has_lse) {
    check_view("lse", a.lse, a.q.device);
    CHITU_CHECK(a.lse.dtype == DType::f32, "lse.dtype: want f32, got ", dtype_name(a.lse.dtype));
    const std::array<std::int64_t, 3> want = {out_shape[0], out_shape[2], out_shape[1]};
    CHITU_CHECK(a.lse.shape == want, "lse.shape: want [batch, num_heads_q, seqlen_q] = [", want[0], ", ", want[1], ", ", want[2], "], got ", shape_text(a.lse));
    check_no_self_overlap("lse", a.lse);
  }
  auto apart = [](const char* what, const char* other, ByteRange x, ByteRange y) {
    CHITU_CHECK(x.end <= y.begin || y.end <= x.begin, what, ": must not overlap ", other, ", but their memory does");
  };
  const ByteRange out = byte_range("out", a.out);
  auto against_input = [&](const char* name, const ConstTensorView& v) {
    if (v.data != nullptr && !disjoint_row_slices(a.out, v)) apart("out", name, out, byte_range(name, v));
  };
  against_input("q", a.q);
  against_input("k", a.k);
  against_input("v", a.v);
  apart("out", "mask", out, byte_range("mask", a.mask));
  ByteRange blob;
  if (a.kv != nullptr) blob = {reinterpret_cast<std::uintptr_t>(a.kv->data), reinterpret_cast<std::uintptr_t>(a.kv->data) + a.kv->bytes};
  apart("out", "kv", out, blob);
  if (!p.has_lse) return;
  const ByteRange lse = byte_range("lse", a.lse);
  apart("lse", "out", lse, out);
  apart("lse", "q", lse, byte_range("q", a.q));
  apart("lse", "k", lse, byte_range("k", a.k));
  apart("lse", "v", lse, byte_range("v", a.v));
  apart("lse", "mask", lse, byte_range("mask", a.mask));
  apart("lse", "kv", lse, blob);
}

template <class View>
bool aligned16(const View& v) {
  if (v.data == nullptr) return true;
  const auto bytes = static_cast<std::int64_t>(dtype_size(v.dtype));
  bool ok = reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0;
  for (int i = 0; i < 3; ++i) ok = ok && (v.shape[i] <= 1 || (v.stride[i] > 0 && v.stride[i] % 16 * bytes % 16 == 0));
  return ok;
}

}  // namespace

AttentionArgs with_expanded_mask(const AttentionArgs& args) {
  AttentionArgs a = args;
  if (a.mask.data == nullptr || a.sequences.cu_seqlens_q != nullptr) return a;
  const std::int64_t seqlen_k = a.kv != nullptr ? a.kv->seqlen : a.k.shape[1];
  const std::array<std::int64_t, 4> want = {a.q.shape[0], a.q.shape[2], a.q.shape[1], seqlen_k};
  for (int i = 0; i < 4; ++i) {
    if (a.mask.shape[i] == 1) a.mask.stride[i] = 0;
    a.mask.shape[i] = want[i];
  }
  return a;
}

Problem validate(const AttentionArgs& a, const AttentionOptions& o) {
  Problem p;
  p.device = a.q.device;
  p.dtype = a.q.dtype;
  CHITU_CHECK(p.device.index >= 0, "q.device.index: want >= 0, got ", p.device.index);
  check_tensor("q", a.q, a.q.device);
  check_head_dim("q", a.q.shape[3]);
  p.batch = a.q.shape[0];
  p.seqlen_q = a.q.shape[1];
  p.num_heads_q = a.q.shape[2];
  p.head_dim = a.q.shape[3];
  check_kv(a, p);
  CHITU_CHECK(p.num_heads_kv == 0 ? p.num_heads_q == 0 : p.num_heads_q % p.num_heads_kv == 0,
              "k.shape[2] (num_heads_kv): want a divisor of num_heads_q = ", p.num_heads_q, ", got ", p.num_heads_kv);
  const std::array<std::int64_t, 4> out_shape = {p.batch, p.seqlen_q, p.num_heads_q, p.head_dim_v};
  check_sequences(a, p);
  check_mask(a, o.mask, p);
  check_outputs(a, out_shape, p);
  p.softmax_scale = o.softmax_scale.value_or(static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.head_dim))));
  CHITU_CHECK(o.method <= Method::chitu_fast, "method: want a member of the enum, got ", static_cast<int>(o.method));
  CHITU_CHECK(std::isfinite(p.softmax_scale), "softmax_scale: want a finite number, got ", p.softmax_scale);
  p.aligned16 = aligned16(a.q) && aligned16(a.k) && aligned16(a.v) && aligned16(a.out);
  return p;
}

QuantizeProblem validate_quantize(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& o) {
  check_tensor("k", k, k.device);
  check_tensor("v", v, k.device);
  check_head_dim("k", k.shape[3]);
  check_head_dim("v", v.shape[3]);
  CHITU_CHECK(v.dtype == k.dtype, "v.dtype: want the dtype of k (", dtype_name(k.dtype), "), got ", dtype_name(v.dtype));
  for (int i = 0; i < 3; ++i) CHITU_CHECK(v.shape[i] == k.shape[i], "v.shape: want batch, seqlen and heads of k ", shape_text(k), ", got ", shape_text(v));
  CHITU_CHECK(quantizes(o.method), "method: want a method that quantizes, got ", method_name(o.method));
  QuantizeProblem p;
  p.device = k.device;
  p.dtype = k.dtype;
  p.scheme = default_scheme(o.method, k.dtype);
  p.batch = k.shape[0];
  p.seqlen_k = k.shape[1];
  p.num_heads_kv = k.shape[2];
  p.head_dim = k.shape[3];
  p.head_dim_v = v.shape[3];
  p.padded = o.seqlens_k != nullptr;
  for (std::int64_t b = 0; p.padded && p.device.type == DeviceType::cpu && b < p.batch; ++b) {
    CHITU_CHECK(o.seqlens_k[b] >= 0 && o.seqlens_k[b] <= p.seqlen_k, "seqlens_k[", b, "]: want 0..", p.seqlen_k, ", got ", o.seqlens_k[b]);
  }
  return p;
}

void validate_merge(const TensorView& out, const LseView& lse, const ConstTensorView& out_b, const LseView& lse_b) {
  auto tensor = [&](const char* name, const ConstTensorView& v) {
    check_tensor(name, v, out.device);
    CHITU_CHECK(v.dtype == DType::f32, name, ".dtype: want f32 (partial results are never 16 bits), got ", dtype_name(v.dtype));
    CHITU_CHECK(v.shape == out.shape, name, ".shape: want that of out ", shape_text(out), ", got ", shape_text(v));
  };
  tensor("out", as_const(out));
  tensor("out_b", out_b);
  const std::array<std::int64_t, 3> want = {out.shape[0], out.shape[2], out.shape[1]};
  auto sums = [&](const char* name, const LseView& v) {
    CHITU_CHECK(v.shape == want, name, ".shape: want [batch, num_heads, seqlen] = [", want[0], ", ", want[1], ", ", want[2], "], got ", shape_text(v));
    CHITU_CHECK(v.dtype == DType::f32, name, ".dtype: want f32, got ", dtype_name(v.dtype));
    check_view(name, v, out.device);
  };
  sums("lse", lse);
  sums("lse_b", lse_b);
  check_no_self_overlap("out", out);
  check_no_self_overlap("lse", lse);
  auto apart = [](const char* what, ByteRange x, const char* other, ByteRange y) {
    CHITU_CHECK(x.end <= y.begin || y.end <= x.begin, what, ": must not overlap ", other, ", but their memory does");
  };
  const ByteRange o = byte_range("out", out), l = byte_range("lse", lse);
  apart("out", o, "out_b", byte_range("out_b", out_b));
  apart("out", o, "lse_b", byte_range("lse_b", lse_b));
  apart("out", o, "lse", l);
  apart("lse", l, "out_b", byte_range("out_b", out_b));
  apart("lse", l, "lse_b", byte_range("lse_b", lse_b));
}

}  // namespace chitu::core
