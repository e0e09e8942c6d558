#include "bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "eval/random.h"

namespace chitu::cli {
namespace {

// Cost bound of the fp64 reference in multiply-adds: a second or two, also at 1M keys.
constexpr double kReferenceWork = 2e9;

std::vector<unsigned char> normal_tensor(int64_t elements, uint64_t seed, uint32_t stream, DType dtype) {
  std::vector<float> values(static_cast<size_t>(elements));
  eval::fill_normal(values.data(), elements, seed, stream, num_threads());
  return eval::encode(values, dtype);
}

/// q, k and v of one length. N(0,1) alone can be made without a copy in double, by threads that share a head.
void make_inputs(const BenchSettings& s, int64_t seqlen_q, int64_t seqlen, std::vector<unsigned char>& q, std::vector<unsigned char>& k,
                 std::vector<unsigned char>& v) {
  if (s.inputs->family == eval::Family::gaussian) {
    q = normal_tensor(s.batch * seqlen_q * s.heads.q * s.head_dim, s.seed, 0, s.dtype);
    k = normal_tensor(s.batch * seqlen * s.heads.kv * s.head_dim, s.seed, 1, s.dtype);
    v = normal_tensor(s.batch * seqlen * s.heads.kv * s.head_dim, s.seed, 2, s.dtype);
    return;
  }
  const eval::Shape shape{s.batch, seqlen_q, seqlen, s.heads.q, s.heads.kv, s.head_dim, s.head_dim};
  constexpr int kMostHeads = 8;  // made at once: each is held in double
  eval::Inputs in = eval::make_inputs(*s.inputs, shape, s.seed, s.dtype, s.scale.value_or(0.0f), std::min(num_threads(), kMostHeads));
  const auto take = [&](std::vector<float>& values) {
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
      throw UsageError(fmt::format("--inputs {}: its values leave the range of {} at this --softmax-scale", s.inputs->name, dtype_text(s.dtype)));
    }
    const std::vector<float> given = std::move(values);
    return eval::encode(given, s.dtype);
  };
  q = take(in.q);
  k = take(in.k);
  v = take(in.v);
}

/// The library's checks of shapes and mask, before minutes go into the reference and before sums of huge window sizes overflow.
void refuse_bad_call(const AttentionArgs& args, const BenchSettings& settings) {
  AttentionOptions options;
  options.method = Method::exact;
  options.mask = settings.mask;
  options.softmax_scale = settings.scale;
  try {
    plan(args, options);
  } catch (const Unsupported&) {  // each method reports that in its own row
  }
}

}  // namespace

/// What the methods of one length share.
struct Bench::Case {
  std::vector<unsigned char> q, k, v;
  AttentionArgs host;
  std::optional<DeviceCall> call;
  Sample sample;
  eval::ExactRows reference;
  double flops = 0;
};

Bench::State Bench::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Bench::step(const std::string& what, double advance) {
  const std::lock_guard lock(mutex_);
  state_.what = what;
  state_.done += advance;
}

/// Units of progress of one method at one length. Only ratios matter: cost grows with the pairs, and no row is cheaper than its overhead.
double Bench::work(int64_t seqlen) const { return static_cast<double>(settings_.seqlen_q.value_or(seqlen)) * static_cast<double>(seqlen) + 1e7; }

void Bench::run() {
  {
    const std::lock_guard lock(mutex_);
    state_.total = 0;
    for (const int64_t seqlen : settings_.seqlens) state_.total += work(seqlen) * static_cast<double>(settings_.methods.size() + 1);
  }
  for (const int64_t seqlen : settings_.seqlens) run_length(seqlen);
}

void Bench::run_length(int64_t seqlen) {
  const BenchSettings& s = settings_;
  const int64_t seqlen_q = s.seqlen_q.value_or(seqlen);
  step(fmt::format("N = {}: inputs", seqlen), 0);
  Case shared;
  make_inputs(s, seqlen_q, seqlen, shared.q, shared.k, shared.v);
  shared.host.q = contiguous_view<const void*, 4>(shared.q.data(), s.dtype, {s.batch, seqlen_q, s.heads.q, s.head_dim});
  shared.host.k = contiguous_view<const void*, 4>(shared.k.data(), s.dtype, {s.batch, seqlen, s.heads.kv, s.head_dim});
  shared.host.v = contiguous_view<const void*, 4>(shared.v.data(), s.dtype, {s.batch, seqlen, s.heads.kv, s.head_dim});
  shared.call.emplace(shared.host, s.device, false, true);
  refuse_bad_call(shared.call->args(), s);
  shared.flops = 4.0 * static_cast<double>(s.batch * s.heads.q * s.head_dim) * visible_pairs(seqlen_q, seqlen, s.mask);

  shared.sample = choose_sample(shared.host, s.reference_rows, kReferenceWork);
  step(fmt::format("N = {}: fp64 reference of {} rows", seqlen, shared.sample.rows.size()), 0);
  shared.reference = eval::exact64(shared.host, s.mask, s.scale, shared.sample.rows, num_threads());
  step("", work(seqlen));
  for (const Method method : s.methods) {
    const double before = state().done;
    step(fmt::format("N = {}: {}", seqlen, method_name(method)), 0);
    for (const std::string& kernel : kernels_for(shared, method)) {
      BenchRow row = run_method(shared, method, kernel);
      if (s.skip_specifications && row.kernel.starts_with("ref_")) continue;
      const std::lock_guard lock(mutex_);
      state_.rows.push_back(std::move(row));
    }
    const std::lock_guard lock(mutex_);
    state_.done = before + work(seqlen);
  }
}

AttentionOptions Bench::options_for(Method method, const std::string& kernel) const {
  AttentionOptions options;
  options.method = method;
  options.mask = settings_.mask;
  options.softmax_scale = settings_.scale;
  options.kernel = kernel;
  return options;
}

/// What to force, one after the other; "" leaves the choice to the library.
std::vector<std::string> Bench::kernels_for(Case& shared, Method method) const {
  if (!settings_.all_kernels) return {settings_.kernel};
  std::vector<std::string> names;
  for (const KernelInfo& row : explain(shared.call->args(), options_for(method, ""))) {
    if (row.name.starts_with("ref_") || std::find(names.begin(), names.end(), row.name) != names.end()) continue;
    try {
      plan(shared.call->args(), options_for(method, row.name));
      names.push_back(row.name);
    } catch (const Unsupported&) {  // not this one
    }
  }
  if (names.empty()) names.emplace_back();  // its row says that there is none
  return names;
}

BenchRow Bench::run_method(Case& shared, Method method, const std::string& kernel) {
  const BenchSettings& s = settings_;
  BenchRow row;
  row.method = method_name(method);
  row.seqlen_q = shared.host.q.shape[1];
  row.seqlen_k = shared.host.k.shape[1];
  AttentionOptions options = options_for(method, kernel);
  DeviceCall& call = *shared.call;
  std::optional<Plan> chosen;
  try {
    chosen = plan(call.args(), options);
  } catch (const Unsupported&) {
    row.note = "no kernel on this device";
    return row;
  }
  row.method = method_name(chosen->method());
  if (s.quantized_kv) {
    try {
      QuantizeOptions quantize;
      quantize.method = chosen->method();
      quantized_kv_bytes(call.args().k, call.args().v, quantize);
    } catch (const Error&) {
      row.note = "no quantized K and V for this method";
      return row;  // the plain path's values would pass for those of a cache
    }
  }
  row.kernel = chosen->kernel();
  row.workspace_bytes = chosen->workspace_bytes();
  options.method = chosen->method();
  SampledOutput got;
  if (row.kernel.starts_with("ref_")) {
    row.note = "specification only: no kernel on this device, accuracy from the sampled blocks";
    if (s.skip_specifications) return row;
    got = run_blocks(shared.host, options, shared.sample);
  } else {
    if (s.quantized_kv) {
      measure_kernel(shared, options, row);
    } else {
      measure_latency(shared, options, row);
      measure_kernel(shared, options, row);
    }
    if (row.latency.empty()) return row;  // nothing ran: out holds another method's result
    const ConstTensorView out = call.host_out();
    got = sample_output(out, call.fetch_lse(), shared.sample);
    row.tflops = shared.flops / row.latency.median() * 1e-9;
    if (!row.kernel_latency.empty()) row.kernel_tflops = shared.flops / row.kernel_latency.median() * 1e-9;
    if (const auto peak = measured_peak(s.device); peak && row.tflops) {
      row.peak_name = peak->name;
      row.peak_fraction = *row.tflops / peak->tflops;
    }
  }
  row.reference_rows = static_cast<int64_t>(shared.sample.rows.size());
  row.accuracy = judge(got, shared.reference, shared.sample, s.batch, s.heads.q).overall;
  return row;
}

void Bench::measure_latency(Case& shared, const AttentionOptions& options, BenchRow& row) {
  const BenchSettings& s = settings_;
  DeviceCall& call = *shared.call;
  const Plan chosen = plan(call.args(), options);
  const auto once = [&] {
    const Buffer workspace(s.device, chosen.workspace_bytes());
    chitu::run(chosen, call.args(), workspace.data());
  };
  if (s.peak_memory) row.peak_memory = s.device.type == DeviceType::cpu ? memory_growth(once) : static_cast<int64_t>(chosen.workspace_bytes());
  const Buffer workspace(s.device, chosen.workspace_bytes());
  double reported = 0;
  MeasureOptions how;
  how.repeats = s.repeats;
  how.progress = [&](double fraction) {
    const double advance = work(row.seqlen_k) * 0.7 * (fraction - reported);
    reported = fraction;
    const std::lock_guard lock(mutex_);
    state_.done += advance;
  };
  row.latency = measure(s.device, how, [&] { chitu::run(chosen, call.args(), workspace.data()); });
}

/// Without the pass over K and V: they are quantized once, before. A kernel that reads K and V as they are has no such pass, its two times are one.
void Bench::measure_kernel(Case& shared, const AttentionOptions& options, BenchRow& row) {
  const BenchSettings& s = settings_;
  DeviceCall& call = *shared.call;
  if (options.method == Method::exact && !s.quantized_kv) {
    row.kernel_latency = row.latency;
    return;
  }
  try {
    QuantizeOptions quantize;
    quantize.method = options.method;
    const AttentionArgs& plain = call.args();
    const Buffer blob(s.device, quantized_kv_bytes(plain.k, plain.v, quantize));
    const Buffer scratch(s.device, quantize_kv_workspace_bytes(plain.k, plain.v, quantize));
    const QuantizedKV kv = quantize_kv(plain.k, plain.v, quantize, blob.data(), scratch.data());
    AttentionArgs args = plain;
    args.k = args.v = ConstTensorView{};
    args.kv = &kv;
    const Plan chosen = plan(args, options);
    if (chosen.kernel().starts_with("ref_")) {
      if (s.quantized_kv) row.note = "specification only: no kernel for quantized K and V on this device";
      return;
    }
    row.workspace_bytes = s.quantized_kv ? chosen.workspace_bytes() : row.workspace_bytes;
    const Buffer workspace(s.device, chosen.workspace_bytes());
    if (s.quantized_kv && s.peak_memory) row.peak_memory = static_cast<int64_t>(chosen.workspace_bytes());
    MeasureOptions how;
    how.repeats = s.repeats;
    how.budget_s = s.quantized_kv ? 2 : 1;
    row.kernel_latency = measure(s.device, how, [&] { chitu::run(chosen, args, workspace.data()); });
    if (s.quantized_kv) row.latency = row.kernel_latency;
  } catch (const Unsupported&) {
    if (s.quantized_kv) row.note = "no quantized K and V for this method on this device";
  } catch (const InvalidArgument&) {  // a method without a K/V cache of its own
    if (s.quantized_kv) row.note = "no quantized K and V for this method";
  }
}

nlohmann::ordered_json row_json(const BenchSettings& s, const BenchRow& row) {
  using Json = nlohmann::ordered_json;
  const auto number = [](std::optional<double> value) { return value && std::isfinite(*value) ? Json(*value) : Json(nullptr); };
  const auto metric = [&](double eval::Metrics::*field) { return row.accuracy && row.accuracy->compared > 0 ? number((*row.accuracy).*field) : Json(nullptr); };
  const auto time = [&](const Latency& latency, double q) { return latency.empty() ? Json(nullptr) : Json(latency.quantile(q)); };
  Json json;
  json["method"] = row.method;
  json["kernel"] = row.kernel.empty() ? Json(nullptr) : Json(row.kernel);
  json["device"] = device_text(s.device);
  json["batch"] = s.batch;
  json["seqlen_q"] = row.seqlen_q;
  json["seqlen_k"] = row.seqlen_k;
  json["num_heads_q"] = s.heads.q;
  json["num_heads_kv"] = s.heads.kv;
  json["head_dim"] = s.head_dim;
  json["causal"] = s.causal;
  json["dtype"] = dtype_text(s.dtype);
  json["inputs"] = s.inputs->name;
  json["quantized_kv"] = s.quantized_kv;
  json["latency_ms"] = time(row.latency, 0.5);
  json["latency_min_ms"] = time(row.latency, 0);
  json["latency_p10_ms"] = time(row.latency, 0.1);
  json["latency_p90_ms"] = time(row.latency, 0.9);
  json["repeats"] = row.latency.ms.size();
  json["kernel_ms"] = time(row.kernel_latency, 0.5);
  json["tflops"] = number(row.tflops);
  json["kernel_tflops"] = number(row.kernel_tflops);
  json["peak_fraction"] = number(row.peak_fraction);
  json["peak"] = row.peak_name.empty() ? Json(nullptr) : Json(row.peak_name);
  json["workspace_bytes"] = row.workspace_bytes;
  json["peak_memory_bytes"] = row.peak_memory < 0 ? Json(nullptr) : Json(row.peak_memory);
  json["max_diff"] = metric(&eval::Metrics::max_diff);
  json["mean_diff"] = metric(&eval::Metrics::mean_diff);
  json["nrmse"] = metric(&eval::Metrics::nrmse);
  json["worst_row"] = metric(&eval::Metrics::worst_row);
  json["rel_l1"] = metric(&eval::Metrics::rel_l1);
  json["rmse"] = metric(&eval::Metrics::rmse);
  json["cos"] = metric(&eval::Metrics::cos_sim);
  json["lse_error"] = metric(&eval::Metrics::lse_max);
  json["not_finite"] = row.accuracy ? Json(row.accuracy->nan + row.accuracy->inf) : Json(nullptr);
  json["reference_rows"] = row.reference_rows;
  json["note"] = row.note.empty() ? Json(nullptr) : Json(row.note);
  return json;
}

}  // namespace chitu::cli
