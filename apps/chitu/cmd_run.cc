// chitu run: attention on tensors from files.
#include <fmt/format.h>

#include <memory>

#include "call.h"
#include "commands.h"
#include "common.h"
#include "tensor_file.h"

namespace chitu::cli {
namespace {

struct Options {
  CallFiles files;
  CallOptions call;
  std::string out, lse, method = "automatic";
};

int execute(const Options& options) {
  AttentionOptions attention_options;
  attention_options.method = parse_one_method("--method", options.method);
  attention_options.mask = options.call.mask();
  attention_options.softmax_scale = options.call.scale();
  options.call.apply_threads();
  refuse_input(parse_tensor_ref(options.out).path, options.files);
  if (!options.lse.empty()) refuse_input(parse_tensor_ref(options.lse).path, options.files);

  const HostCall host(options.files);
  const Device device = parse_device("--device", options.call.device);
  DeviceCall call(host.args(), device, host.bhsd(), !options.lse.empty());
  const Plan chosen = plan(call.args(), attention_options);
  TensorOutput output;
  output.add(options.out, "out", element_of(host.dtype()), call.out_shape());
  if (!options.lse.empty()) output.add(options.lse, "lse", ElementType::f32, call.lse_shape());

  const Buffer workspace(device, chosen.workspace_bytes());
  run(chosen, call.args(), workspace.data());
  std::vector<const void*> data = {call.fetch_out()};
  if (!options.lse.empty()) data.push_back(call.fetch_lse());
  output.write_and_commit(data);
  return kDone;
}

}  // namespace

Command run_command() {
  auto o = std::make_shared<Options>();
  const auto declare = [o](Arguments& arguments) {
    o->files.declare(arguments);
    arguments.required("--out", o->out, "Where out goes: dtype and layout of q; .npy or .safetensors[:TENSOR] (bf16: .safetensors)", "FILE");
    arguments.value("--lse", o->lse, "Where the log-sum-exp goes: fp32 [batch, heads, seqlen_q], natural log", "FILE");
    arguments.value("--method", o->method, "automatic, exact, sage1, sage2, int_flash, int_flash_half, chitu, chitu_int8 or chitu_fast");
    o->call.declare(arguments);
  };
  return {"run", "Attention on tensors from files", declare, [o] { return execute(*o); }};
}

}  // namespace chitu::cli
