// A table of calls that must be refused, each with the exception and the argument that its text must begin with, and of odd calls that must not be.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "common/bad_call.h"

namespace chitu::test {
namespace {

constexpr std::int64_t kHuge = std::int64_t{1} << 61;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr Device kCuda{DeviceType::cuda, 99};

using Change = std::function<void(ValidCall&)>;
struct BadCall {
  std::string what;
  Change change;
  std::string begins;  ///< how the text must begin: the argument
  bool unsupported = false;
  Kind kind = Kind::dense;
};
using Table = std::vector<BadCall>;

template <class View>
struct Named {
  const char* name;
  View AttentionArgs::*view;
};
constexpr Named<ConstTensorView> kInputs[] = {{"q", &AttentionArgs::q}, {"k", &AttentionArgs::k}, {"v", &AttentionArgs::v}};

/// What is wrong with any view. `get` returns it.
template <class Get>
void add_view_faults(Table& t, const std::string& n, const Get& get, Kind kind = Kind::dense) {
  t.push_back({n + " null", [=](ValidCall& c) { get(c).data = nullptr; }, n == "mask" ? "mask.data" : n + ".data", false, kind});
  using View = std::remove_reference_t<decltype(get(std::declval<ValidCall&>()))>;
  constexpr int rank = std::tuple_size_v<decltype(View::shape)>;
  for (int i = 0; i < rank; ++i) {
    const std::string at = std::to_string(i);
    t.push_back({n + " negative size " + at, [=](ValidCall& c) { get(c).shape[i] = -1; }, n + ".shape", false, kind});
    t.push_back({n + " lowest size " + at, [=](ValidCall& c) { get(c).shape[i] = std::numeric_limits<std::int64_t>::min(); }, n + ".shape", false, kind});
    t.push_back({n + " huge size " + at, [=](ValidCall& c) { get(c).shape[i] = kHuge; }, n + ":", false, kind});
    t.push_back({n + " negative stride " + at, [=](ValidCall& c) { get(c).stride[i] = -1; }, n + ".stride[" + at + "]", false, kind});
    t.push_back({n + " huge stride " + at, [=](ValidCall& c) { get(c).stride[i] = kHuge; }, n + ":", false, kind});
  }
  t.push_back({n + " all sizes huge", [=](ValidCall& c) { get(c).shape.fill(std::int64_t{1} << 40); }, n + ":", false, kind});
  t.push_back({n + " strides whose sum wraps 128 bits",
               [=](ValidCall& c) { get(c).shape.fill(std::numeric_limits<std::int64_t>::max()), get(c).stride.fill(std::numeric_limits<std::int64_t>::max()); },
               n + ":", false, kind});
  t.push_back({n + " on another device", [=](ValidCall& c) { get(c).device = kCuda; }, n == "q" ? "k.device" : n + ".device", false, kind});
  t.push_back({n + " unknown dtype", [=](ValidCall& c) { get(c).dtype = static_cast<DType>(9); }, n + ".dtype", false, kind});
}

template <class View>
void shift_bytes(View& v, std::ptrdiff_t bytes) {
  using Pointer = decltype(v.data);
  v.data = reinterpret_cast<Pointer>(reinterpret_cast<std::uintptr_t>(v.data) + static_cast<std::uintptr_t>(bytes));
}

void add_inputs(Table& t) {
  for (const auto& [name, view] : kInputs) {
    const auto pointer = view;
    const std::string n = name;
    auto get = [pointer](ValidCall& c) -> ConstTensorView& { return c.args.*pointer; };
    add_view_faults(t, n, get);
    t.push_back({n + " boolean", [=](ValidCall& c) { get(c).dtype = DType::boolean; }, n + ".dtype"});
    t.push_back({n + " misaligned", [=](ValidCall& c) { shift_bytes(get(c), 1); }, n + ".data"});
    t.push_back({n + " head_dim strided", [=](ValidCall& c) { get(c).stride[3] = 2; }, n + ".stride[3]"});
    t.push_back({n + " head_dim broadcast", [=](ValidCall& c) { get(c).stride[3] = 0; }, n + ".stride[3]"});
    t.push_back({n + " head_dim 0", [=](ValidCall& c) { get(c).shape[3] = 0; }, n == "q" ? "q.shape[3]" : n == "k" ? "k.shape[3]" : "v.shape[3]"});
    t.push_back({n + " head_dim 257", [=](ValidCall& c) { get(c).shape[3] = 257; }, n + ".shape[3]"});
  }
  t.push_back({"q f32, k and v f16", [](ValidCall& c) { c.args.q.dtype = DType::f32; }, "k.dtype"});
  t.push_back({"k bf16", [](ValidCall& c) { c.args.k.dtype = DType::bf16; }, "k.dtype"});
  t.push_back({"v bf16", [](ValidCall& c) { c.args.v.dtype = DType::bf16; }, "v.dtype"});
  t.push_back({"k batch", [](ValidCall& c) { c.args.k.shape[0] = 1; }, "k.shape[0]"});
  t.push_back({"k head_dim", [](ValidCall& c) { c.args.k.shape[3] = 4; }, "k.shape[3]"});
  t.push_back({"v batch", [](ValidCall& c) { c.args.v.shape[0] = 1; }, "v.shape"});
  t.push_back({"v seqlen", [](ValidCall& c) { c.args.v.shape[1] = 6; }, "v.shape"});
  t.push_back({"v heads", [](ValidCall& c) { c.args.v.shape[2] = 1; }, "v.shape"});
  t.push_back({"heads 4 over 3", [](ValidCall& c) { c.args.k.shape[2] = c.args.v.shape[2] = 3; }, "k.shape[2]"});
  t.push_back({"heads 4 over 0", [](ValidCall& c) { c.args.k.shape[2] = c.args.v.shape[2] = 0; }, "k.shape[2]"});
  t.push_back({"negative CUDA ordinal", [](ValidCall& c) { c.args.q.device.index = -1; }, "q.device.index"});
  t.push_back({"a CUDA device that is not there", [](ValidCall& c) { c.move_to(kCuda); }, "device", true});
}

// clang-format off: one line per call keeps the tables readable
void add_outputs(Table& t) {
  auto out = [](ValidCall& c) -> TensorView& { return c.args.out; };
  auto lse = [](ValidCall& c) -> LseView& { return c.args.lse; };
  add_view_faults(t, "out", out);
  for (int i = 0; i < 4; ++i) t.push_back({"out size " + std::to_string(i), [=](ValidCall& c) { c.args.out.shape[i] += 1; }, "out.shape"});
  t.push_back({"out misaligned", [=](ValidCall& c) { shift_bytes(out(c), 1); }, "out.data"});
  t.push_back({"out boolean", [=](ValidCall& c) { out(c).dtype = DType::boolean; }, "out.dtype"});
  t.push_back({"out bf16 for f16 inputs", [=](ValidCall& c) { out(c).dtype = DType::bf16; }, "out.dtype"});
  t.push_back({"out f16 for f32 inputs", [](ValidCall& c) { c.args.q.dtype = c.args.k.dtype = c.args.v.dtype = DType::f32; }, "out.dtype"});
  t.push_back({"out head_dim strided", [=](ValidCall& c) { out(c).stride[3] = 2; }, "out.stride[3]"});
  for (int i = 0; i < 3; ++i) {
    t.push_back({"out broadcast along " + std::to_string(i), [=](ValidCall& c) { out(c).stride[i] = 0; }, "out.stride["});
    t.push_back({"lse broadcast along " + std::to_string(i), [=](ValidCall& c) { lse(c).stride[i] = 0; }, "lse.stride["});
    t.push_back({"lse size " + std::to_string(i), [=](ValidCall& c) { lse(c).shape[i] += 1; }, "lse.shape"});
    for (const char* bad : {"lse.shape", "lse.stride["}) {
      const bool size = std::string(bad) == "lse.shape";
      t.push_back({std::string("lse negative ") + bad + std::to_string(i), [=](ValidCall& c) { (size ? lse(c).shape[i] : lse(c).stride[i]) = -1; }, bad});
    }
  }
  t.push_back({"out rows that overlap by one element", [=](ValidCall& c) { out(c).stride[2] = c.args.out.shape[3] - 1; }, "out.stride["});
  t.push_back({"lse misaligned", [=](ValidCall& c) { shift_bytes(lse(c), 2); }, "lse.data"});
  t.push_back({"lse f16", [=](ValidCall& c) { lse(c).dtype = DType::f16; }, "lse.dtype"});
  t.push_back({"lse on another device", [=](ValidCall& c) { lse(c).device = kCuda; }, "lse.device"});
  t.push_back({"out is q", [=](ValidCall& c) { out(c).data = const_cast<void*>(c.args.q.data); }, "out: must not overlap q"});
  t.push_back({"out is k", [=](ValidCall& c) { out(c).data = const_cast<void*>(c.args.k.data); }, "out: must not overlap k"});
  t.push_back({"out is v", [=](ValidCall& c) { out(c).data = const_cast<void*>(c.args.v.data); }, "out: must not overlap v"});
  t.push_back({"out ends in q", [=](ValidCall& c) { c.args.q.data = static_cast<char*>(out(c).data) + 2; }, "out: must not overlap q"});
  t.push_back({"lse in out", [=](ValidCall& c) { lse(c).data = static_cast<float*>(out(c).data); }, "lse: must not overlap out"});
  t.push_back({"lse in q", [=](ValidCall& c) { lse(c).data = static_cast<float*>(const_cast<void*>(c.args.q.data)); }, "lse: must not overlap q"});
  t.push_back({"lse in k", [=](ValidCall& c) { lse(c).data = static_cast<float*>(const_cast<void*>(c.args.k.data)); }, "lse: must not overlap k"});
  t.push_back({"lse in v", [=](ValidCall& c) { lse(c).data = static_cast<float*>(const_cast<void*>(c.args.v.data)); }, "lse: must not overlap v"});
  t.push_back({"out over its neighbour in a fused row",
               [](ValidCall& c) {
                 c.fuse();
                 c.args.out.data = static_cast<char*>(c.args.out.data) - 2;
               },
               "out: must not overlap"});
}

void add_masks(Table& t) {
  auto mask = [](ValidCall& c) -> ConstTensorView& { return c.args.mask; };
  for (int i = 0; i < 4; ++i) {
    const std::string at = std::to_string(i);
    t.push_back({"mask size " + at, [=](ValidCall& c) { mask(c).shape[i] += 1; }, "mask.shape", false, Kind::masked});
    t.push_back({"mask negative size " + at, [=](ValidCall& c) { mask(c).shape[i] = -3; }, "mask.shape", false, Kind::masked});
    t.push_back({"mask huge stride " + at, [=](ValidCall& c) { mask(c).stride[i] = kHuge; }, "mask:", false, Kind::masked});
    t.push_back({"mask negative stride " + at, [=](ValidCall& c) { mask(c).stride[i] = -2; }, "mask.stride[" + at + "]", false, Kind::masked});
  }
  t.push_back({"mask null with a shape", [=](ValidCall& c) { mask(c).data = nullptr; }, "mask.data", false, Kind::masked});
  t.push_back({"mask on another device", [=](ValidCall& c) { mask(c).device = kCuda; }, "mask.device", false, Kind::masked});
  t.push_back({"mask misaligned", [=](ValidCall& c) { shift_bytes(mask(c), 2); }, "mask.data", false, Kind::masked});
  t.push_back({"mask of an unknown dtype", [=](ValidCall& c) { mask(c).dtype = static_cast<DType>(11); }, "mask.dtype", false, Kind::masked});
  t.push_back({"mask in out", [=](ValidCall& c) { mask(c).data = c.args.out.data; }, "out: must not overlap mask", false, Kind::masked});
  t.push_back({"lse in the mask", [=](ValidCall& c) { c.args.lse.data = const_cast<float*>(static_cast<const float*>(mask(c).data)); },
               "lse: must not overlap mask", false, Kind::masked});
  t.push_back({"mask with packed sequences", [](ValidCall& c) { c.add_mask(); }, "mask", false, Kind::packed});
  const std::int64_t limit = std::int64_t{1} << 59;
  for (std::int64_t bad : {limit, -limit, std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()}) {
    t.push_back({"left " + std::to_string(bad), [=](ValidCall& c) { c.options.mask.left = bad; }, "mask.left"});
    t.push_back({"right " + std::to_string(bad), [=](ValidCall& c) { c.options.mask.right = bad; }, "mask.right"});
    t.push_back({"diagonal " + std::to_string(bad), [=](ValidCall& c) { c.options.mask.diagonal = bad; }, "mask.diagonal"});
  }
  t.push_back(
      {"an empty out with strides that wrap",
       [](ValidCall& c) { c.resize_q(0), c.args.out.stride[2] = c.args.q.stride[0] = std::numeric_limits<std::int64_t>::max(), c.args.lse.dtype = DType::f16; },
       "lse.dtype"});
}

void add_options(Table& t) {
  for (float bad : {NAN, kInf, -kInf}) t.push_back({"scale " + std::to_string(bad), [=](ValidCall& c) { c.options.softmax_scale = bad; }, "softmax_scale"});
  t.push_back({"method 200", [](ValidCall& c) { c.options.method = static_cast<Method>(200); }, "method"});
  t.push_back({"kernel of no table", [](ValidCall& c) { c.options.kernel = "sm900_f8"; }, "kernel"});
  t.push_back({"kernel with a blank", [](ValidCall& c) { c.options.kernel = " ref_exact"; }, "kernel"});
  t.push_back({"kernel list", [](ValidCall& c) { c.options.kernel = "ref_exact,ref_scheme"; }, "kernel"});
  t.push_back({"kernel that lacks the method", [](ValidCall& c) { c.options.method = Method::sage1, c.options.kernel = "ref_exact"; }, "no kernel", true});
  auto scheme = [&t](const char* what, Method m, const std::function<void(SchemeOptions&)>& set, const char* begins) {
    t.push_back({std::string(what) + " for " + std::string(method_name(m)), [=](ValidCall& c) { c.options.method = m, set(c.options.scheme); }, begins});
  };
  scheme(
      "granularity for automatic", Method::automatic, [](SchemeOptions& o) { o.granularity = Granularity::per_token; }, "scheme");
  scheme(
      "smooth_k for automatic", Method::automatic, [](SchemeOptions& o) { o.smooth_k = false; }, "scheme");
  for (Method m : {Method::exact, Method::chitu, Method::chitu_int8, Method::chitu_fast}) {
    scheme(
        "granularity", m, [](SchemeOptions& o) { o.granularity = Granularity::per_token; }, "scheme.granularity");
    scheme(
        "family", m, [](SchemeOptions& o) { o.family = FragmentFamily::mma_sync; }, "scheme.granularity, family");
    scheme(
        "accumulation", m, [](SchemeOptions& o) { o.pv_accumulation = PvAccumulation::fp32; }, "scheme.granularity, family, pv_accumulation");
    scheme(
        "smooth_k", m, [](SchemeOptions& o) { o.smooth_k = true; }, "scheme.smooth_k");
    scheme(
        "smooth_q", m, [](SchemeOptions& o) { o.smooth_q = true; }, "scheme.smooth_k, smooth_q");
    scheme(
        "smooth_v", m, [](SchemeOptions& o) { o.smooth_v = false; }, "scheme.smooth_k, smooth_q, smooth_v");
  }
  for (Method m : {Method::int_flash, Method::int_flash_half}) {
    scheme(
        "granularity", m, [](SchemeOptions& o) { o.granularity = Granularity::per_block; }, "scheme.granularity");
    scheme(
        "accumulation", m, [](SchemeOptions& o) { o.pv_accumulation = PvAccumulation::fp16; }, "scheme.granularity, family, pv_accumulation");
  }
  scheme(
      "family alone", Method::sage1, [](SchemeOptions& o) { o.family = FragmentFamily::sm90; }, "scheme.family");
  scheme(
      "sage1 fp32_fp32", Method::sage1, [](SchemeOptions& o) { o.pv_accumulation = PvAccumulation::fp32_fp32; }, "scheme.pv_accumulation");
  scheme(
      "sage1 fp32_fp16", Method::sage1, [](SchemeOptions& o) { o.pv_accumulation = PvAccumulation::fp32_fp16; }, "scheme.pv_accumulation");
  scheme(
      "sage2 fp16", Method::sage2, [](SchemeOptions& o) { o.pv_accumulation = PvAccumulation::fp16; }, "scheme.pv_accumulation");
  scheme(
      "sage2 fp16_fp32", Method::sage2, [](SchemeOptions& o) { o.pv_accumulation = PvAccumulation::fp16_fp32; }, "scheme.pv_accumulation");
  scheme(
      "unknown granularity", Method::sage2, [](SchemeOptions& o) { o.granularity = static_cast<Granularity>(17); }, "scheme.granularity");
  scheme(
      "unknown family", Method::sage2, [](SchemeOptions& o) { o.family = static_cast<FragmentFamily>(5); }, "scheme.family");
  scheme(
      "unknown accumulation", Method::sage2, [](SchemeOptions& o) { o.pv_accumulation = static_cast<PvAccumulation>(5); }, "scheme.pv_accumulation");
}

void add_sequences(Table& t) {
  auto packed = [&t](const char* what, const Change& change, const char* begins) { t.push_back({what, change, begins, false, Kind::packed}); };
  packed(
      "only cu_seqlens_q", [](ValidCall& c) { c.args.sequences.cu_seqlens_k = nullptr; }, "sequences: want cu_seqlens_q");
  packed(
      "only cu_seqlens_k", [](ValidCall& c) { c.args.sequences.cu_seqlens_q = nullptr; }, "sequences: want cu_seqlens_q");
  packed(
      "cu_seqlens and seqlens_k", [](ValidCall& c) { c.args.sequences.seqlens_k = c.seqlens.data(); }, "sequences.seqlens_k");
  packed(
      "negative number of sequences", [](ValidCall& c) { c.args.sequences.batch = -1; }, "sequences.batch");
  packed(
      "negative max_seqlen_q", [](ValidCall& c) { c.args.sequences.max_seqlen_q = -1; }, "sequences.max_seqlen_q");
  packed(
      "negative max_seqlen_k", [](ValidCall& c) { c.args.sequences.max_seqlen_k = -1; }, "sequences.max_seqlen_q, max_seqlen_k");
  packed(
      "max_seqlen_q too small", [](ValidCall& c) { c.args.sequences.max_seqlen_q = 2; }, "sequences.cu_seqlens_q");
  packed(
      "max_seqlen_k too small", [](ValidCall& c) { c.args.sequences.max_seqlen_k = 3; }, "sequences.cu_seqlens_k");
  packed(
      "cu_seqlens_q starts below 0", [](ValidCall& c) { c.cu_q[0] = -1; }, "sequences.cu_seqlens_q[0]");
  packed(
      "cu_seqlens_k starts below 0", [](ValidCall& c) { c.cu_k[0] = -5; }, "sequences.cu_seqlens_k[0]");
  packed(
      "cu_seqlens_q descends", [](ValidCall& c) { c.cu_q[1] = 5, c.cu_q[2] = 4; }, "sequences.cu_seqlens_q");
  packed(
      "cu_seqlens_k descends", [](ValidCall& c) { c.cu_k[1] = 6, c.cu_k[2] = 5; }, "sequences.cu_seqlens_k");
  packed(
      "cu_seqlens_q beyond the tensor", [](ValidCall& c) { c.cu_q[2] = 6, c.args.sequences.max_seqlen_q = 9; }, "sequences.cu_seqlens_q[2]");
  packed(
      "cu_seqlens_k beyond the tensor", [](ValidCall& c) { c.cu_k[2] = 8, c.args.sequences.max_seqlen_k = 9; }, "sequences.cu_seqlens_k[2]");
  packed(
      "a difference that wraps int32",
      [](ValidCall& c) { c.cu_k[1] = std::numeric_limits<std::int32_t>::max(), c.cu_k[2] = std::numeric_limits<std::int32_t>::min(); },
      "sequences.cu_seqlens_k");
  packed(
      "tensor batch 2", [](ValidCall& c) { c.args.q.shape[0] = c.args.k.shape[0] = c.args.v.shape[0] = 2; }, "q.shape[0]");
  t.push_back({"sequences.batch", [](ValidCall& c) { c.args.sequences.batch = 5; }, "sequences.batch"});
  t.push_back({"max_seqlen_q without cu", [](ValidCall& c) { c.args.sequences.max_seqlen_q = 5; }, "sequences.max_seqlen_q"});
  t.push_back({"max_seqlen_k without cu", [](ValidCall& c) { c.args.sequences.max_seqlen_k = 5; }, "sequences.max_seqlen_q, max_seqlen_k"});
  t.push_back({"seqlens_k negative", [](ValidCall& c) { c.pad(-1, 3); }, "sequences.seqlens_k[0]"});
  t.push_back({"seqlens_k too long", [](ValidCall& c) { c.pad(3, 8); }, "sequences.seqlens_k[1]"});
}

void add_quantized(Table& t) {
  auto bad = [&t](const char* what, const Change& change, const char* begins) { t.push_back({what, change, begins, false, Kind::quantized}); };
  bad(
      "k as well", [](ValidCall& c) { c.args.k = c.k_view; }, "kv");
  bad(
      "v as well", [](ValidCall& c) { c.args.v = c.v_view; }, "kv");
  bad(
      "kv null", [](ValidCall& c) { c.kv.data = nullptr; }, "kv.data");
  bad(
      "kv without bytes", [](ValidCall& c) { c.kv.bytes = 0; }, "kv.data");
  bad(
      "kv on another device", [](ValidCall& c) { c.kv.device = kCuda; }, "kv.device");
  bad(
      "kv of another dtype", [](ValidCall& c) { c.kv.dtype = DType::f32; }, "kv.dtype");
  bad(
      "kv head_dim", [](ValidCall& c) { c.kv.head_dim = 16; }, "kv.head_dim");
  bad(
      "kv batch", [](ValidCall& c) { c.kv.batch = 3; }, "kv.batch");
  bad(
      "kv heads 3", [](ValidCall& c) { c.kv.num_heads_kv = 3; }, "kv.num_heads_kv");
  bad(
      "kv heads 0", [](ValidCall& c) { c.kv.num_heads_kv = 0; }, "kv.num_heads_kv");
  bad(
      "kv heads -1", [](ValidCall& c) { c.kv.num_heads_kv = -1; }, "kv.num_heads_kv");
  bad(
      "kv seqlen -1", [](ValidCall& c) { c.kv.seqlen = -1; }, "kv.seqlen");
  bad(
      "kv head_dim_v 0", [](ValidCall& c) { c.kv.head_dim_v = c.args.out.shape[3] = 0; }, "kv.head_dim_v");
  bad(
      "kv head_dim_v 300", [](ValidCall& c) { c.kv.head_dim_v = c.args.out.shape[3] = 300; }, "kv.head_dim_v");
  bad(
      "out for another head_dim_v", [](ValidCall& c) { c.kv.head_dim_v = 16; }, "out.shape");
  bad(
      "method differs", [](ValidCall& c) { c.options.method = Method::sage1; }, "method");
  bad(
      "kv of method automatic", [](ValidCall& c) { c.kv.method = c.options.method = Method::automatic; }, "kv.method");
  bad(
      "kv of method exact", [](ValidCall& c) { c.kv.method = c.options.method = Method::exact; }, "kv.method");
  bad(
      "kv of an unknown method", [](ValidCall& c) { c.kv.method = c.options.method = static_cast<Method>(99); }, "kv.method");
  bad(
      "kv misaligned", [](ValidCall& c) { c.kv.data = static_cast<const char*>(c.kv.data) + 64; }, "kv.data");
  bad(
      "kv shorter than its shape", [](ValidCall& c) { c.kv.bytes = 4096; }, "kv.bytes");
  bad(
      "kv of a huge length", [](ValidCall& c) { c.kv.seqlen = std::int64_t{1} << 40; }, "kv.seqlen");
  bad(
      "kv with scheme options", [](ValidCall& c) { c.options.scheme.smooth_k = false; }, "scheme");
  bad(
      "out inside the blob", [](ValidCall& c) { c.args.out.data = const_cast<void*>(c.kv.data); }, "out: must not overlap kv");
  bad(
      "lse inside the blob", [](ValidCall& c) { c.args.lse.data = static_cast<float*>(const_cast<void*>(c.kv.data)); }, "lse: must not overlap kv");
  bad(
      "seqlens_k beyond kv", [](ValidCall& c) { c.pad(8, 1); }, "sequences.seqlens_k[0]");
}

// clang-format on
Table bad_calls() {
  Table t;
  add_inputs(t);
  add_outputs(t);
  add_masks(t);
  add_options(t);
  add_sequences(t);
  add_quantized(t);
  return t;
}

TEST(Validate, BadCallsNameTheirArgument) {
  const Table table = bad_calls();
  EXPECT_GE(table.size(), 150u);
  for (const BadCall& bad : table) {
    ValidCall call(bad.kind);
    bad.change(call);
    const std::string got = refusal([&] { plan(call.args, call.options); });
    const std::string want = std::string(bad.unsupported ? "Unsupported: " : "InvalidArgument: ") + bad.begins;
    EXPECT_EQ(got.substr(0, want.size()), want) << bad.what << ": " << got;
    // explain() refuses what plan() refuses as wrong; what is only unsupported it explains
    const std::string explained = refusal([&] { explain(call.args, call.options); });
    if (!bad.unsupported && bad.begins.rfind("kernel", 0) != 0) {
      EXPECT_EQ(explained, got) << bad.what;
    }
  }
  RecordProperty("bad_calls", static_cast<int>(table.size()));
}

TEST(Validate, TheUnchangedCallsAreLegal) {
  for (Kind kind : {Kind::dense, Kind::masked, Kind::packed, Kind::quantized}) {
    ValidCall call(kind);
    EXPECT_EQ(refusal([&] { plan(call.args, call.options); }), "") << static_cast<int>(kind);
  }
}

struct OddCall {
  const char* what;
  Change change;
  Kind kind = Kind::dense;
};

TEST(Validate, OddCallsAreLegal) {
  const OddCall calls[] = {
      {"a stride that is never used (batch 1) is huge", [](ValidCall& c) { c.one_batch(), c.args.q.stride[0] = c.args.out.stride[0] = kHuge; }},
      {"a stride that is never used is negative", [](ValidCall& c) { c.one_batch(), c.args.k.stride[0] = -7; }},
      {"k and v of one batch for all", [](ValidCall& c) { c.args.k.stride[0] = c.args.v.stride[0] = 0; }},
      {"one head for all", [](ValidCall& c) { c.args.k.stride[2] = c.args.v.stride[2] = 0; }},
      {"one key for all positions", [](ValidCall& c) { c.args.k.stride[1] = c.args.v.stride[1] = 0; }},
      {"q broadcast over everything",
       [](ValidCall& c) {
         c.args.q.stride = {0, 0, 0, 1};
       }},
      {"q, k and v are the same memory", [](ValidCall& c) { c.args.k.data = c.args.v.data = c.args.q.data; }},
      {"slices of a fused tensor with out among them", [](ValidCall& c) { c.fuse(); }},
      {"no lse", [](ValidCall& c) { c.args.lse = {}; }},
      {"lse with any strides",
       [](ValidCall& c) {
         c.args.lse.stride = {1, 2, 8};
       }},
      {"out f32", [](ValidCall& c) { c.widen_out(); }},
      {"no query", [](ValidCall& c) { c.resize_q(0); }},
      {"no key", [](ValidCall& c) { c.resize_k(0); }},
      {"no batch", [](ValidCall& c) { c.args.q.shape[0] = c.args.k.shape[0] = c.args.v.shape[0] = c.args.out.shape[0] = c.args.lse.shape[0] = 0; }},
      {"no head", [](ValidCall& c) { c.args.q.shape[2] = c.args.k.shape[2] = c.args.v.shape[2] = c.args.out.shape[2] = c.args.lse.shape[1] = 0; }},
      {"empty tensors may be null", [](ValidCall& c) { c.resize_q(0), c.args.q.data = nullptr, c.args.out.data = nullptr, c.args.lse.data = nullptr; }},
      {"no key, null k and v", [](ValidCall& c) { c.resize_k(0), c.args.k.data = c.args.v.data = nullptr; }},
      {"scale 0", [](ValidCall& c) { c.options.softmax_scale = 0.0f; }},
      {"scale negative", [](ValidCall& c) { c.options.softmax_scale = -0.3f; }},
      {"scale tiny", [](ValidCall& c) { c.options.softmax_scale = 1e-38f; }},
      {"scale large", [](ValidCall& c) { c.options.softmax_scale = 1e3f; }},
      {"window of one key", [](ValidCall& c) { c.options.mask = Mask::window(0, 0); }},
      {"a window that no key is in", [](ValidCall& c) { c.options.mask = Mask::window(-3, 1); }},
      {"a diagonal far outside", [](ValidCall& c) { c.options.mask.diagonal = -(std::int64_t{1} << 58); }},
      {"causal, more queries than keys", [](ValidCall& c) { c.options.mask = Mask::causal(), c.resize_k(2); }},
      {"sequences.batch equal to the batch", [](ValidCall& c) { c.args.sequences.batch = 2; }},
      {"lengths 0 and full", [](ValidCall& c) { c.pad(0, 7); }},
      {"mask with an unused stride", [](ValidCall& c) { c.args.mask.shape[0] = 1, c.args.mask.stride[0] = kHuge; }, Kind::masked},
      {"mask broadcast by stride 0",
       [](ValidCall& c) {
         c.args.mask.stride = {0, 0, 7, 1};
       },
       Kind::masked},
      {"mask broadcast by size 1",
       [](ValidCall& c) {
         c.args.mask.shape = {1, 1, 1, 7};
       },
       Kind::masked},
      {"mask transposed",
       [](ValidCall& c) {
         c.args.mask.stride = {140, 35, 1, 5};
       },
       Kind::masked},
      {"boolean mask", [](ValidCall& c) { c.args.mask.dtype = DType::boolean; }, Kind::masked},
      {"bf16 mask with f16 inputs", [](ValidCall& c) { c.args.mask.dtype = DType::bf16; }, Kind::masked},
      {"no mask, but an empty shape",
       [](ValidCall& c) {
         c.args.mask = {}, c.args.mask.shape = {2, 4, 0, 7};
       }},
      {"empty sequences in a pack", [](ValidCall& c) { c.cu_q[1] = 0, c.cu_k[1] = 0, c.args.sequences.max_seqlen_q = 5, c.args.sequences.max_seqlen_k = 7; },
       Kind::packed},
      {"max_seqlen far above", [](ValidCall& c) { c.args.sequences.max_seqlen_q = c.args.sequences.max_seqlen_k = kHuge; }, Kind::packed},
      {"a pack that leaves rows out", [](ValidCall& c) { c.cu_q[2] = 4, c.cu_k[0] = 1; }, Kind::packed},
      {"no sequence", [](ValidCall& c) { c.args.sequences.batch = 0; }, Kind::packed},
      {"kv with method automatic", [](ValidCall& c) { c.options.method = Method::automatic; }, Kind::quantized},
      {"kv, padded", [](ValidCall& c) { c.pad(7, 0); }, Kind::quantized},
  };
  for (const OddCall& odd : calls) {
    ValidCall call(odd.kind);
    odd.change(call);
    EXPECT_EQ(refusal([&] { plan(call.args, call.options); }), "") << odd.what;
  }
}

TEST(Validate, RunRefusesOtherShapesThanPlanned) {
  const std::pair<const char*, Change> changes[] = {
      {"fewer queries", [](ValidCall& c) { c.resize_q(4); }},
      {"fewer keys", [](ValidCall& c) { c.resize_k(6); }},
      {"fewer batches", [](ValidCall& c) { c.one_batch(); }},
      {"fewer heads", [](ValidCall& c) { c.args.q.shape[2] = c.args.out.shape[2] = c.args.lse.shape[1] = 2; }},
      {"other GQA group", [](ValidCall& c) { c.args.k.shape[2] = c.args.v.shape[2] = 1; }},
      {"smaller head_dim", [](ValidCall& c) { c.args.q.shape[3] = c.args.k.shape[3] = 4; }},
      {"smaller head_dim_v", [](ValidCall& c) { c.args.v.shape[3] = c.args.out.shape[3] = 4; }},
      {"bf16", [](ValidCall& c) { c.args.q.dtype = c.args.k.dtype = c.args.v.dtype = c.args.out.dtype = DType::bf16; }},
      {"f32 out", [](ValidCall& c) { c.widen_out(); }},
      {"lse gone", [](ValidCall& c) { c.args.lse = {}; }},
      {"a mask", [](ValidCall& c) { c.add_mask(); }},
      {"lengths", [](ValidCall& c) { c.pad(1, 2); }},
      {"alignment lost", [](ValidCall& c) { shift_bytes(c.args.q, 2), c.args.q.shape[1] = 5; }},
  };
  for (const auto& [what, change] : changes) {
    ValidCall call(Kind::dense);
    const Plan p = plan(call.args, call.options);
    std::vector<char> memory(p.workspace_bytes() + 512);
    void* workspace = memory.data() + (256 - reinterpret_cast<std::uintptr_t>(memory.data()) % 256);
    change(call);
    const std::string got = refusal([&] { run(p, call.args, workspace); });
    EXPECT_EQ(got.rfind("InvalidArgument: args: want the shapes", 0), 0u) << what << ": " << got;
  }
}

TEST(Validate, RunChecksItsArgumentsAgain) {
  ValidCall call(Kind::dense);
  call.options.method = Method::chitu_int8;
  const Plan p = plan(call.args, call.options);
  ASSERT_GT(p.workspace_bytes(), 0u);
  std::vector<char> memory(p.workspace_bytes() + 512);
  char* workspace = memory.data() + (256 - reinterpret_cast<std::uintptr_t>(memory.data()) % 256);
  auto refused = [&](const char* begins, void* at) {
    const std::string got = refusal([&] { run(p, call.args, at); });
    EXPECT_EQ(got.rfind(std::string("InvalidArgument: ") + begins, 0), 0u) << got;
  };
  refused("workspace: want", nullptr);
  refused("workspace: want 256-byte alignment", workspace + 64);
  call.args.v.data = nullptr;
  refused("v.data", workspace);
}

}  // namespace
}  // namespace chitu::test
