// chitu accuracy: the error of each method on the user's own tensors, against attention in fp64.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "call.h"
#include "commands.h"
#include "common.h"
#include "evaluate.h"
#include "file_io.h"
#include "machine.h"
#include "progress.h"
#include "table.h"

namespace chitu::cli {
namespace {

using Json = nlohmann::ordered_json;

// fp64 reference of about a minute on two cores; longer inputs are sampled, and the output says so.
constexpr double kReferenceWork = 5e10;

struct Options {
  CallFiles files;
  CallOptions call;
  std::string methods = "all", json, fail_above;
  int64_t rows = 0;
  bool quiet = false, markdown = false;
};

struct Result {
  std::string method, kernel, note;
  std::optional<Accuracy> accuracy;
  std::optional<double> flagged_tiles;
};

std::optional<double> threshold(const std::string& text) {
  if (text.empty()) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0)) {
    throw UsageError(fmt::format("--fail-above: want a fraction such as 0.02 (overall relative L2 error), got '{}'", printable(text)));
  }
  return value;
}

Result judge_method(const HostCall& host, Device device, const AttentionOptions& options, const Sample& sample, const eval::ExactRows& reference) {
  Result result;
  result.method = method_name(options.method);
  const AttentionArgs args = host.args();
  std::optional<DeviceCall> call;
  std::optional<Plan> chosen;
  try {
    call.emplace(args, device, host.bhsd(), true);
    chosen = plan(call->args(), options);
  } catch (const Unsupported& error) {
    result.note = "no kernel on this device";
    return result;
  }
  result.method = method_name(chosen->method());
  result.kernel = chosen->kernel();
  SampledOutput got;
  if (result.kernel.starts_with("ref_")) {
    got = run_blocks(args, options, sample);
  } else {
    const Buffer workspace(device, chosen->workspace_bytes());
    run(*chosen, call->args(), workspace.data());
    const ConstTensorView out = call->host_out();
    got = sample_output(out, call->fetch_lse(), sample);
  }
  result.accuracy = judge(got, reference, sample, args.q.shape[0], args.q.shape[2]);
  if (chosen->method() == Method::chitu_int8) result.flagged_tiles = flagged_tile_share(args.v);
  return result;
}

/// JSON has no infinity: a row that is wrong where the reference is zero has an infinite relative error.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(fmt::format("{}", value)); }

Json metrics_json(const eval::Metrics& m) {
  const auto of_out = [&](double value) { return m.compared > 0 ? number(value) : Json(nullptr); };
  const auto of_lse = [&](double value) { return m.lse_compared > 0 ? number(value) : Json(nullptr); };
  return {{"cos", of_out(m.cos_sim)},
          {"rel_l1", of_out(m.rel_l1)},
          {"nrmse", of_out(m.nrmse)},
          {"rmse", of_out(m.rmse)},
          {"max_diff", of_out(m.max_diff)},
          {"mean_diff", of_out(m.mean_diff)},
          {"worst_row", of_out(m.worst_row)},
          {"lse_error", of_lse(m.lse_max)},
          {"lse_p999", of_lse(m.lse_p999)},
          {"compared", m.compared},
          {"nan_count", m.nan},
          {"inf_count", m.inf},
          {"finite_where_reference_is_not", m.laundered},
          {"lse_mismatch", m.lse_not_finite_mismatch}};
}

Json results_json(const std::vector<Result>& results, const AttentionArgs& args, const HostCall& host, Device device, const Options& options,
                  const Sample& sample) {
  Json json;
  json["machine"] = machine_facts();
  json["command"] = {{"line", command_line()}};
  json["call"] = {{"device", device_text(device)},  {"batch", args.q.shape[0]},          {"seqlen_q", args.q.shape[1]},      {"seqlen_k", args.k.shape[1]},
                  {"num_heads_q", args.q.shape[2]}, {"num_heads_kv", args.k.shape[2]},   {"head_dim", args.q.shape[3]},      {"head_dim_v", args.v.shape[3]},
                  {"causal", options.call.causal},  {"dtype", dtype_text(host.dtype())}, {"mask", args.mask.data != nullptr}};
  json["results"] = Json::array();
  for (const Result& result : results) {
    Json row;
    row["method"] = result.method;
    row["kernel"] = result.kernel.empty() ? Json(nullptr) : Json(result.kernel);
    row["note"] = result.note.empty() ? Json(nullptr) : Json(result.note);
    row["reference_rows"] = sample.rows.size();
    row["all_rows"] = sample.all;
    row["overall"] = nullptr;
    row["heads"] = Json::array();
    if (result.accuracy) {
      row["overall"] = metrics_json(result.accuracy->overall);
      const eval::RowIndex& worst = result.accuracy->worst;
      row["overall"]["worst_row_at"] = worst.row < 0 ? Json(nullptr) : Json{{"batch", worst.sequence}, {"head", worst.head}, {"row", worst.row}};
      for (size_t i = 0; i < result.accuracy->heads.size(); ++i) {
        Json head = {{"batch", static_cast<int64_t>(i) / args.q.shape[2]}, {"head", static_cast<int64_t>(i) % args.q.shape[2]}};
        head.update(metrics_json(result.accuracy->heads[i]));
        row["heads"].push_back(head);
      }
    }
    if (result.flagged_tiles) row["flagged_tile_share"] = *result.flagged_tiles;
    json["results"].push_back(row);
  }
  return json;
}

/// Empty cells, which the table shows as "-", where nothing was compared.
std::vector<std::string> metric_cells(const eval::Metrics& m) {
  std::vector<std::string> cells(6);
  if (m.compared > 0) {
    cells = {fmt::format("{:.6f}", m.cos_sim), number_text(m.nrmse),    number_text(m.rel_l1), number_text(m.rmse),
             number_text(m.max_diff),          number_text(m.worst_row)};
  }
  cells.push_back(m.lse_compared > 0 ? number_text(m.lse_max) : "");
  cells.push_back(std::to_string(m.nan + m.inf));
  return cells;
}

void print_tables(const std::vector<Result>& results, const Sample& sample, const AttentionArgs& args, const Options& options) {
  const std::vector<std::string> metrics = {"CosSim", "rel L2", "rel L1", "RMSE", "max", "worst row", "LSE err", "NaN"};
  const auto header = [&](std::vector<std::string> first) {
    first.insert(first.end(), metrics.begin(), metrics.end());
    return first;
  };
  Table overall(header({"method", "kernel"})), heads(header({"method", "batch", "head"}));
  std::string notes;
  for (const Result& result : results) {
    std::vector<std::string> cells = {result.method, result.kernel};
    const auto values = result.accuracy ? metric_cells(result.accuracy->overall) : std::vector<std::string>(metrics.size());
    cells.insert(cells.end(), values.begin(), values.end());
    overall.add(cells);
    if (!result.note.empty()) notes += fmt::format("{}: {}\n", result.method, result.note);
    if (!result.accuracy) continue;
    const eval::RowIndex& worst = result.accuracy->worst;
    const int64_t laundered = result.accuracy->overall.laundered;
    if (laundered > 0) notes += fmt::format("{}: {} values are finite where the reference is not\n", result.method, laundered);
    if (worst.row >= 0 && result.accuracy->overall.compared > 0)
      notes += fmt::format("{}: worst row is batch {}, head {}, row {}\n", result.method, worst.sequence, worst.head, worst.row);
    if (result.flagged_tiles) notes += fmt::format("{}: {:.1f} % of the V tiles are flagged (a scale per token)\n", result.method, 100 * *result.flagged_tiles);
    for (size_t i = 0; i < result.accuracy->heads.size(); ++i) {
      const auto index = static_cast<int64_t>(i);
      std::vector<std::string> row = {result.method, std::to_string(index / args.q.shape[2]), std::to_string(index % args.q.shape[2])};
      const auto more = metric_cells(result.accuracy->heads[i]);
      row.insert(row.end(), more.begin(), more.end());
      heads.add(row);
    }
  }
  const auto text = [&](const Table& table) { return options.markdown ? table.markdown() : table.text(); };
  fmt::print("against attention in fp64 on {}{} output rows\n{}\n{}", sample.all ? "all " : "", sample.rows.size(), text(overall), notes);
  if (args.q.shape[0] * args.q.shape[2] > 1) fmt::print("\nper head\n{}", text(heads));
}

int execute(const Options& options) {
  AttentionOptions call;
  call.mask = options.call.mask();
  call.softmax_scale = options.call.scale();
  options.call.apply_threads();
  const auto methods = parse_methods("--methods", options.methods);
  const auto limit = threshold(options.fail_above);
  if (options.rows < 0) throw UsageError(fmt::format("--rows: want a number from 1 (0: by cost), got {}", options.rows));
  const bool to_file = !options.json.empty() && options.json != "-";
  if (to_file) refuse_input(options.json, options.files);
  const HostCall host(options.files);
  const Device device = parse_device("--device", options.call.device);
  const AttentionArgs args = host.args();
  {
    DeviceCall probe(args, {}, host.bhsd(), true);  // the library's own checks of shapes and dtypes, before anything reads the tensors
    AttentionOptions exact = call;
    exact.method = Method::exact;
    plan(probe.args(), exact);
  }
  std::unique_ptr<OutputFile> json_file;
  if (to_file) json_file = std::make_unique<OutputFile>(options.json);

  Progress progress(options.quiet);
  const Sample sample = choose_sample(args, options.rows, kReferenceWork);
  progress.update("fp64 reference", 0, static_cast<double>(methods.size() + 1));
  const eval::ExactRows reference = eval::exact64(args, call.mask, call.softmax_scale, sample.rows, num_threads());
  std::vector<Result> results;
  for (const Method method : methods) {
    progress.update(std::string(method_name(method)), static_cast<double>(results.size() + 1), static_cast<double>(methods.size() + 1));
    call.method = method;
    results.push_back(judge_method(host, device, call, sample, reference));
  }
  progress.clear();
  bool any = false;
  std::string exceeded;
  for (const Result& result : results) {
    if (!result.accuracy) continue;
    any = true;
    const eval::Metrics& m = result.accuracy->overall;
    // Elements that are not finite stay out of the sums, so they must fail by themselves.
    if (limit && (!(m.nrmse <= *limit) || !m.clean())) {
      exceeded += fmt::format("{}{} ({})", exceeded.empty() ? "" : ", ", result.method, m.compared > 0 ? number_text(m.nrmse) : "nothing to compare");
    }
  }
  if (!any) throw Unsupported("none of the methods asked for runs on this device: see chitu explain");
  const std::string text = results_json(results, args, host, device, options, sample).dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (options.json == "-") {
    fmt::print("{}", text);
  } else {
    print_tables(results, sample, args, options);
  }
  if (json_file) {
    json_file->write(text);
    json_file->commit();
  }
  if (exceeded.empty()) return kDone;
  std::fflush(stdout);
  fmt::print(stderr, "chitu: relative L2 error above {} (or values not finite): {}\n", *limit, exceeded);
  return kThreshold;
}

}  // namespace

Command accuracy_command() {
  auto o = std::make_shared<Options>();
  const auto declare = [o](Arguments& arguments) {
    o->files.declare(arguments);
    arguments.value("--methods", o->methods, "Comma-separated methods, or all", "LIST");
    arguments.value("--rows", o->rows, "Output rows compared with fp64 (default: all that a minute or so allows)");
    arguments.value("--fail-above", o->fail_above, "Exit with 3 when the overall relative L2 error of any method exceeds this fraction", "X");
    arguments.value("--json", o->json, "Write all results to F ('-': to stdout instead of the tables)", "F");
    arguments.flag("--markdown", o->markdown, "Print the tables as Markdown");
    arguments.flag("--quiet", o->quiet, "No progress on stderr");
    o->call.declare(arguments);
  };
  return {"accuracy", "Error of each method on tensors from files", declare, [o] { return execute(*o); }};
}

}  // namespace chitu::cli
