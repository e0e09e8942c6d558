// The life of one call: validate, choose a row, measure, allocate, run.

#include "chitu/attention.h"

#include <algorithm>

#include "chitu/chitu.h"
#include "core/check.h"
#include "core/env.h"
#include "core/policy.h"
#include "core/validate.h"
#include "registry.h"

namespace chitu {

struct Plan::Impl {
  core::Problem problem;
  const core::Kernel* kernel = nullptr;
  const core::Backend* backend = nullptr;
  std::size_t workspace_bytes = 0;
};

std::size_t Plan::workspace_bytes() const { return impl_->workspace_bytes; }
std::string_view Plan::kernel() const { return impl_->kernel->name; }
Method Plan::method() const { return impl_->problem.scheme.method; }
std::string Plan::describe() const {
  const core::Problem& p = impl_->problem;
  return core::concat(method_name(p.scheme.method), " by ", impl_->kernel->name, impl_->kernel->verified ? "" : " (unverified on real hardware)", ": ", p.batch,
                      " x ", p.num_heads_q, "/", p.num_heads_kv, " heads, ", p.seqlen_q, " queries, ", p.seqlen_k, " keys, head_dim ", p.head_dim, "/",
                      p.head_dim_v, ", ", dtype_name(p.dtype), ", workspace ", impl_->workspace_bytes, " bytes");
}

namespace {

using core::Problem;

/// One row under consideration, with the problem as it would see it.
struct Candidate {
  const core::Backend* backend;
  const core::Kernel* kernel;
  Problem problem;
  std::string reason;  // empty: it would serve
};

/// CHITU_*. A misspelt row in CHITU_DISABLE would leave on what the user wants off, so it must be one of this build, of any device.
const core::Environment& environment() {
  static const core::Environment& checked = []() -> const core::Environment& {
    const core::Environment& e = core::environment();
    std::string known;
    std::vector<std::string> unknown = e.disabled;
    for (DeviceType device : {DeviceType::cpu, DeviceType::cuda}) {
      for (const core::Backend* backend : backends(device)) {
        for (const core::Kernel& row : backend->kernels) {
          known += core::concat(known.empty() ? "" : ", ", row.name);
          unknown.erase(std::remove(unknown.begin(), unknown.end(), row.name), unknown.end());
        }
      }
    }
    CHITU_CHECK(unknown.empty(), "environment CHITU_DISABLE: want names of rows of this build (", known, "), got '", unknown.front(), "'");
    return e;
  }();
  return checked;
}

bool has_scheme_options(const SchemeOptions& o) { return o.granularity || o.family || o.pv_accumulation || o.smooth_k || o.smooth_q || o.smooth_v; }

std::vector<Method> candidate_methods(const AttentionArgs& args, const AttentionOptions& options, const Problem& p) {
  if (args.kv != nullptr) {
    CHITU_CHECK(options.method == Method::automatic || options.method == args.kv->method, "method: kv was quantized for ", method_name(args.kv->method),
                ", the call asks for ", method_name(options.method));
    return {args.kv->method};
  }
  Method method = options.method;
  if (method == Method::automatic && environment().method) method = *environment().method;
  if (method != Method::automatic) return {method};
  CHITU_CHECK(!has_scheme_options(options.scheme), "scheme: departures from a scheme need a named method, got method automatic");
  return core::automatic_methods(p);
}

std::string refuse(const core::Kernel& row, const Problem& p, const AttentionOptions& options, bool automatic) {
  if (!options.kernel.empty() && options.kernel != row.name) return core::concat("options.kernel asks for ", options.kernel);
  const auto& disabled = environment().disabled;
  if (std::find(disabled.begin(), disabled.end(), row.name) != disabled.end()) return "disabled by CHITU_DISABLE";
  if (automatic && row.reference && options.kernel.empty()) return "a specification: name the method or the row to run it";
  return row.why_not(p);
}

/// A blob shorter than its shape says would be read beyond its end.
void check_blob(const QuantizedKV& kv, const core::Backend& backend, const Problem& p) {
  core::QuantizeProblem q;
  q.device = p.device;
  q.caps = p.caps;
  q.dtype = kv.dtype;
  q.scheme = core::default_scheme(kv.method, kv.dtype);
  q.batch = kv.batch;
  q.seqlen_k = kv.seqlen;
  q.num_heads_kv = kv.num_heads_kv;
  q.head_dim = kv.head_dim;
  q.head_dim_v = kv.head_dim_v;
  if (!backend.quantize_why_not(q).empty()) return;  // no row will take it either, and says why
  const std::size_t want = backend.quantized_kv_bytes(q);
  CHITU_CHECK(kv.bytes >= want, "kv.bytes: want at least ", want, " for its shape, got ", kv.bytes);
}

/// Every row for every candidate method, best first; a verified row of a method goes before an unverified one of any method.
std::vector<Candidate> candidates(const AttentionArgs& args, const AttentionOptions& options) {
  Problem base = core::validate(args, options);
  const auto all = backends(base.device.type);
  if (std::string why = all.front()->unavailable(base.device); !why.empty()) core::fail<Unsupported>("device: ", why);
  base.caps = all.front()->caps(base.device);
  if (args.kv != nullptr) check_blob(*args.kv, *all.front(), base);
  const auto methods = candidate_methods(args, options, base);
  const bool automatic = methods.size() > 1;
  std::vector<Candidate> list;
  for (Method method : methods) {
    Problem p = base;
    p.scheme = core::resolve_scheme(method, p.dtype, options.scheme);
    if (args.kv != nullptr) {
      const std::string field = core::first_difference(p.scheme, core::default_scheme(method, p.dtype));
      CHITU_CHECK(field.empty(), "scheme: want none beside kv, whose codes and layout are those of the method's default scheme, got a departure in ", field);
    }
    for (const core::Backend* backend : all) {
      for (const core::Kernel& row : backend->kernels) list.push_back({backend, &row, p, refuse(row, p, options, automatic)});
    }
  }
  std::stable_sort(list.begin(), list.end(), [](const Candidate& a, const Candidate& b) { return a.kernel->verified && !b.kernel->verified; });
  return list;
}

[[noreturn]] void fail_unsupported(const std::vector<Candidate>& list, const AttentionOptions& options) {
  bool known = options.kernel.empty();
  std::string text;
  for (const Candidate& c : list) {
    known = known || options.kernel == c.kernel->name;
    text += core::concat("\n  ", c.kernel->name, " (", method_name(c.problem.scheme.method), "): ", c.reason);
  }
  CHITU_CHECK(known, "kernel: want the name of a row of list_kernels(), got '", options.kernel, "'");
  core::fail<Unsupported>("no kernel serves this call on this device:", text);
}

/// A problem whose output is empty: nothing to launch.
bool is_empty(const Problem& p) { return p.batch == 0 || p.num_heads_q == 0 || p.seqlen_q == 0 || (p.packed && p.total_q == 0); }

}  // namespace

Plan plan(const AttentionArgs& args, const AttentionOptions& options) {
  const auto list = candidates(args, options);
  const auto chosen = std::find_if(list.begin(), list.end(), [](const Candidate& c) { return c.reason.empty(); });
  if (chosen == list.end()) fail_unsupported(list, options);
  auto impl = std::make_shared<Plan::Impl>();
  impl->problem = chosen->problem;
  impl->kernel = chosen->kernel;
  impl->backend = chosen->backend;
  if (!is_empty(impl->problem)) {
    core::Workspace measure;
    const AttentionArgs expanded = core::with_expanded_mask(args);
    impl->kernel->run({impl->problem, expanded, nullptr}, measure);
    impl->workspace_bytes = measure.used();
  }
  return Plan(std::move(impl));
}

void run(const Plan& plan, const AttentionArgs& args, void* workspace, Stream stream) {
  const Plan::Impl& impl = plan.impl();
  AttentionOptions options;  // the numbers that validate() reads, as the plan resolved them
  const core::MaskParams& m = impl.problem.mask;
  if (m.left < core::kNoLimit) options.mask.left = m.left;
  if (m.right < core::kNoLimit) options.mask.right = m.right;
  if (!m.bottom_right) options.mask.diagonal = m.diagonal;
  options.softmax_scale = impl.problem.softmax_scale;
  Problem p = core::validate(args, options);
  p.scheme = impl.problem.scheme;
  p.caps = impl.problem.caps;
  CHITU_CHECK(p == impl.problem, "args: want the shapes, dtypes, alignment and optional tensors the plan was made for (", plan.describe(), ")");
  CHITU_CHECK(args.kv == nullptr || args.kv->method == p.scheme.method, "kv.method: want ", method_name(p.scheme.method), " as planned, got ",
              method_name(args.kv == nullptr ? Method::automatic : args.kv->method));
  if (is_empty(p)) return;
  if (args.kv != nullptr) check_blob(*args.kv, primary_backend(p.device.type), p);
  CHITU_CHECK(workspace != nullptr || impl.workspace_bytes == 0, "workspace: want ", impl.workspace_bytes, " bytes, got null");
  CHITU_CHECK(reinterpret_cast<std::uintptr_t>(workspace) % core::Workspace::kAlign == 0, "workspace: want 256-byte alignment, got address ", workspace);
  core::Workspace carve(workspace, impl.workspace_bytes);
  const AttentionArgs expanded = core::with_expanded_mask(args);
  impl.kernel->run({impl.problem, expanded, stream}, carve);
}

namespace {
/// Memory of a backend for the length of a scope.
class Scratch {
 public:
  Scratch(const core::Backend& backend, Device device, std::size_t bytes, Stream stream)
      : backend_(backend), device_(device), stream_(stream), memory_(bytes == 0 ? nullptr : backend.allocate(device, bytes, stream)) {}
  ~Scratch() {
    if (memory_ != nullptr) backend_.deallocate(device_, memory_, stream_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return memory_; }

 private:
  const core::Backend& backend_;
  Device device_;
  Stream stream_;
  void* memory_;
};
}  // namespace

void attention(const AttentionArgs& args, const AttentionOptions& options, Stream stream) {
  const Plan p = plan(args, options);
  const Scratch workspace(primary_backend(args.q.device.type), args.q.device, p.workspace_bytes(), stream);
  run(p, args, workspace.get(), stream);
}

void merge_states(const TensorView& out, const LseView& lse, const ConstTensorView& out_b, const LseView& lse_b, Stream stream) {
  core::validate_merge(out, lse, out_b, lse_b);
  const core::Backend& backend = primary_backend(out.device.type);
  if (std::string why = backend.unavailable(out.device); !why.empty()) core::fail<Unsupported>("device: ", why);
  for (auto n : out.shape)
    if (n == 0) return;
  backend.merge({out, lse, out_b, lse_b, stream});
}

namespace {

core::QuantizeProblem quantize_problem(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& options) {
  core::QuantizeProblem p = core::validate_quantize(k, v, options);
  const core::Backend& backend = primary_backend(p.device.type);
  if (std::string why = backend.unavailable(p.device); !why.empty()) core::fail<Unsupported>("device: ", why);
  p.caps = backend.caps(p.device);
  if (std::string why = backend.quantize_why_not(p); !why.empty()) core::fail<Unsupported>("quantize_kv: ", why);
  return p;
}

}  // namespace

std::size_t quantized_kv_bytes(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& options) {
  const core::QuantizeProblem p = quantize_problem(k, v, options);
  return primary_backend(p.device.type).quantized_kv_bytes(p);
}

std::size_t quantize_kv_workspace_bytes(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& options) {
  const core::QuantizeProblem p = quantize_problem(k, v, options);
  core::Workspace measure;
  primary_backend(p.device.type).quantize_kv({p, k, v, options.seqlens_k, nullptr}, nullptr, measure);
  return measure.used();
}

QuantizedKV quantize_kv(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& options, void* blob, void* workspace, Stream stream) {
  const core::QuantizeProblem p = quantize_problem(k, v, options);
  const core::Backend& backend = primary_backend(p.device.type);
  core::Workspace measure;
  const core::QuantizeCall call{p, k, v, options.seqlens_k, stream};
  backend.quantize_kv(call, nullptr, measure);
  CHITU_CHECK(blob != nullptr, "blob: want ", backend.quantized_kv_bytes(p), " bytes, got null");
  CHITU_CHECK(reinterpret_cast<std::uintptr_t>(blob) % 256 == 0, "blob: want 256-byte alignment, got address ", blob);
  CHITU_CHECK(workspace != nullptr || measure.used() == 0, "workspace: want ", measure.used(), " bytes, got null");
  CHITU_CHECK(reinterpret_cast<std::uintptr_t>(workspace) % 256 == 0, "workspace: want 256-byte alignment, got address ", workspace);
  core::Workspace carve(workspace, measure.used());
  backend.quantize_kv(call, blob, carve);
  return {blob, backend.quantized_kv_bytes(p), p.device, p.scheme.method, p.dtype, p.batch, p.seqlen_k, p.num_heads_kv, p.head_dim, p.head_dim_v};
}

std::vector<KernelInfo> list_kernels(Device device) {
  std::vector<KernelInfo> list;
  for (const core::Backend* backend : backends(device.type)) {
    const std::string why = backend->unavailable(device);
    for (const core::Kernel& row : backend->kernels) list.push_back({row.name, Method::automatic, row.device, row.verified, false, why});
  }
  return list;
}

std::vector<KernelInfo> explain(const AttentionArgs& args, const AttentionOptions& options) {
  std::vector<KernelInfo> list;
  bool chosen = false;
  for (const Candidate& c : candidates(args, options)) {
    KernelInfo info{c.kernel->name, c.problem.scheme.method, c.kernel->device, c.kernel->verified, false, c.reason};
    if (c.reason.empty() && !chosen) {
      info.chosen = chosen = true;
    } else if (c.reason.empty()) {
      info.reason = "would serve, but a row above is preferred";
    }
    list.push_back(std::move(info));
  }
  return list;
}

int cuda_device_count() { return cuda::device_count(); }

}  // namespace chitu
