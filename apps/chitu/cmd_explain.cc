// chitu explain: which kernel a call of these shapes would take, and why not the others. Nothing is computed.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "common.h"
#include "parse_error.h"
#include "table.h"

namespace chitu::cli {
namespace {

struct Options {
  CallOptions call;
  std::string method = "automatic", seqlen = "4096", seqlen_q, heads = "8", head_dim = "64", head_dim_v, dtype = "fp16", batch = "1", kernel;
  bool lse = false, json = false;
};

/// Tensors without memory: shapes decide, contents are never read. Disjoint made-up addresses keep the checks on null pointers and overlap quiet.
class Placeholder {
 public:
  template <class Ptr, size_t Rank>
  BasicView<Ptr, static_cast<int>(Rank)> make(DType dtype, const std::array<int64_t, Rank>& shape, Device device) {
    uint64_t bytes = dtype_size(dtype);
    for (const int64_t size : shape) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes) || bytes > (uint64_t{1} << 60))
        throw UsageError("the shapes: want tensors of less than 2^60 bytes");
    }
    auto* data = reinterpret_cast<std::byte*>(next_);
    next_ += (bytes + 4095) / 4096 * 4096 + 4096;
    return contiguous_view<Ptr, static_cast<int>(Rank)>(reinterpret_cast<Ptr>(data), dtype, shape, device);
  }

 private:
  uintptr_t next_ = 1 << 20;
};

int execute(const Options& options) {
  const Device device = parse_device("--device", options.call.device);
  options.call.apply_threads();
  const DType dtype = parse_dtype("--dtype", options.dtype);
  const Heads heads = parse_heads("--heads", options.heads);
  const int64_t batch = parse_size("--batch", options.batch, 0), seqlen_k = parse_size("--seqlen", options.seqlen, 0);
  const int64_t seqlen_q = options.seqlen_q.empty() ? seqlen_k : parse_size("--seqlen-q", options.seqlen_q, 0);
  const int64_t dim = parse_size("--head-dim", options.head_dim), dim_v = options.head_dim_v.empty() ? dim : parse_size("--head-dim-v", options.head_dim_v);
  AttentionOptions call;
  call.method = parse_one_method("--method", options.method);
  call.mask = options.call.mask();
  call.softmax_scale = options.call.scale();
  call.kernel = options.kernel;

  Placeholder placeholder;
  AttentionArgs args;
  args.q = placeholder.make<const void*>(dtype, std::array{batch, seqlen_q, heads.q, dim}, device);
  args.k = placeholder.make<const void*>(dtype, std::array{batch, seqlen_k, heads.kv, dim}, device);
  args.v = placeholder.make<const void*>(dtype, std::array{batch, seqlen_k, heads.kv, dim_v}, device);
  args.out = placeholder.make<void*>(dtype, std::array{batch, seqlen_q, heads.q, dim_v}, device);
  if (options.lse) args.lse = placeholder.make<float*>(DType::f32, std::array{batch, heads.q, seqlen_q}, device);

  const std::vector<KernelInfo> rows = explain(args, call);
  std::string chosen, describe;
  bool known = options.kernel.empty();
  for (const KernelInfo& row : rows) {
    if (row.chosen) chosen = row.name;
    known = known || row.name == options.kernel;
  }
  if (!known) throw UsageError(fmt::format("--kernel: want a kernel that chitu info lists for this device, got '{}'", printable(options.kernel)));
  if (!chosen.empty()) describe = plan(args, call).describe();
  if (options.json) {
    nlohmann::ordered_json json;
    json["device"] = device_text(device);
    json["chosen"] = chosen.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(chosen);
    json["plan"] = describe;
    json["rows"] = nlohmann::ordered_json::array();
    for (const KernelInfo& row : rows) {
      json["rows"].push_back(
          {{"kernel", row.name}, {"method", method_name(row.method)}, {"verified", row.verified}, {"chosen", row.chosen}, {"reason", row.reason}});
    }
    fmt::print("{}\n", json.dump(2));
  } else {
    Table table({"kernel", "method", "verified", "verdict"});
    for (const KernelInfo& row : rows) {
      table.add({row.name, std::string(method_name(row.method)), row.verified ? "yes" : "no", row.chosen ? "chosen" : row.reason});
    }
    fmt::print("{}\n\n{}", chosen.empty() ? "no kernel serves this call on this device" : describe, table.text());
  }
  return chosen.empty() ? kUnsupported : kDone;
}

}  // namespace

Command explain_command() {
  auto o = std::make_shared<Options>();
  const auto declare = [o](Arguments& arguments) {
    arguments.value("--method", o->method, "automatic or a method by name");
    arguments.value("--kernel", o->kernel, "Force one kernel by name");
    arguments.value("--seqlen", o->seqlen, "Keys, and queries unless --seqlen-q is given", "N");
    arguments.value("--seqlen-q", o->seqlen_q, "Queries", "N");
    arguments.value("--heads", o->heads, "H or H/Hkv", "H[/Hkv]");
    arguments.value("--head-dim", o->head_dim, "Of q and k", "D");
    arguments.value("--head-dim-v", o->head_dim_v, "Of v and out (default: --head-dim)", "D");
    arguments.value("--batch", o->batch, "Sequences", "B");
    arguments.value("--dtype", o->dtype, "fp16, bf16 or fp32");
    arguments.flag("--lse", o->lse, "The call also asks for the log-sum-exp");
    arguments.flag("--json", o->json, "As JSON on stdout");
    o->call.declare(arguments);
  };
  return {"explain", "Which kernel a call would take, and why not the others", declare, [o] { return execute(*o); }};
}

}  // namespace chitu::cli
