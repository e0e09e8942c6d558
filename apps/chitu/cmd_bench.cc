// chitu bench: options, the thread that measures, and its tables.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "bench.h"
#include "commands.h"
#include "common.h"
#include "file_io.h"
#include "machine.h"
#include "progress.h"
#include "table.h"

namespace chitu::cli {
namespace {

struct Options {
  CallOptions call;
  std::string table = "long", methods = "all", seqlen, seqlen_q, heads = "8", head_dim = "64", batch = "1", dtype = "fp16", inputs = "1", kernel, json, csv;
  int64_t repeats = 0, reference_rows = 0, seed = 1;
  bool quantized_kv = false, peak_memory = false, markdown = false, quiet = false;
};

std::atomic<bool> interrupted{false};
void (*before_bench)(int) = SIG_DFL;
void on_interrupt(int) {
  interrupted = true;
  std::signal(SIGINT, before_bench);  // a second Ctrl-C ends the program at once
}

const eval::InputSet* parse_input_set(const std::string& option, const std::string& text) {
  if (const eval::InputSet* set = eval::find_input_set(text)) return set;
  std::vector<std::string> names;
  for (const eval::InputSet& set : eval::input_sets()) names.emplace_back(set.name);
  throw UsageError(fmt::format("{}: want one of {}; got '{}'", option, fmt::join(names, ", "), printable(text)));
}

BenchSettings settings_of(const Options& options) {
  BenchSettings s;
  const bool sweep = options.table == "sweep";
  if (!sweep && options.table != "long") throw UsageError(fmt::format("--table: want long or sweep, got '{}'", printable(options.table)));
  s.device = parse_device("--device", options.call.device);
  s.methods = parse_methods("--method", options.methods);
  s.skip_specifications = sweep && options.methods == "all";
  const std::string lengths = !options.seqlen.empty() ? options.seqlen : sweep ? "1024,2048,4096,8192" : s.device.type == DeviceType::cpu ? "10K" : "10K,100K";
  s.seqlens = parse_sizes("--seqlen", lengths);
  if (!options.seqlen_q.empty()) s.seqlen_q = parse_size("--seqlen-q", options.seqlen_q);
  s.heads = parse_heads("--heads", options.heads);
  s.head_dim = parse_size("--head-dim", options.head_dim);
  if (s.head_dim > kMaxHeadDim) throw UsageError(fmt::format("--head-dim: want a number from 1 to {}, got {}", kMaxHeadDim, s.head_dim));
  s.batch = parse_size("--batch", options.batch);
  s.dtype = parse_dtype("--dtype", options.dtype);
  s.inputs = parse_input_set("--inputs", options.inputs);
  s.causal = options.call.causal;
  s.mask = options.call.mask();
  s.scale = options.call.scale();
  s.all_kernels = options.kernel == "all";
  if (!s.all_kernels) s.kernel = options.kernel;
  if (options.repeats < 0 || options.repeats > 1000000)
    throw UsageError(fmt::format("--repeats: want a number from 1 to 10^6 (0: by time), got {}", options.repeats));
  s.repeats = static_cast<int>(options.repeats);
  if (options.reference_rows < 0) throw UsageError(fmt::format("--reference-rows: want a number from 1 (0: by cost), got {}", options.reference_rows));
  s.reference_rows = options.reference_rows;
  s.seed = static_cast<uint64_t>(options.seed);
  s.quantized_kv = options.quantized_kv;
  s.peak_memory = options.peak_memory;
  for (const int64_t seqlen : s.seqlens) {
    // Tensors must be addressable, and twice (f32 while they are made); a head of them is also held in double, which is for the allocator to judge.
    int64_t bytes = 8;
    for (const int64_t n : {s.batch, std::max(seqlen, s.seqlen_q.value_or(0)), s.heads.q, s.head_dim}) {
      if (__builtin_mul_overflow(bytes, n, &bytes)) throw UsageError("--seqlen, --heads, --head-dim, --batch: the tensors do not fit the address space");
    }
  }
  return s;
}

std::string optional_text(const std::optional<double>& value) { return value ? number_text(*value) : std::string(); }
std::string length_text(int64_t n) {
  return n % 1000000 == 0 ? fmt::format("{}M", n / 1000000) : n % 1000 == 0 ? fmt::format("{}K", n / 1000) : fmt::format("{}", n);
}

Table result_table(const BenchSettings& s, const std::vector<BenchRow>& rows) {
  const bool lengths = s.seqlens.size() > 1;
  std::vector<std::string> header = {"method",  "kernel",     "max diff",  "mean diff", "rel L2", "CosSim",
                                     "LSE err", "latency ms", "kernel ms", "TFLOP/s",   "% peak"};
  if (lengths) header.insert(header.begin(), "N");
  if (s.peak_memory) header.push_back("extra MB");
  Table table(header);
  for (const BenchRow& row : rows) {
    const eval::Metrics* a = row.accuracy && row.accuracy->compared > 0 ? &*row.accuracy : nullptr;
    std::vector<std::string> cells = {row.method,
                                      row.kernel,
                                      a ? number_text(a->max_diff) : "",
                                      a ? number_text(a->mean_diff) : "",
                                      a ? number_text(a->nrmse) : "",
                                      a ? fmt::format("{:.6f}", a->cos_sim) : "",
                                      a ? number_text(a->lse_max) : "",
                                      row.latency.empty() ? "" : number_text(row.latency.median()),
                                      row.kernel_latency.empty() ? "" : number_text(row.kernel_latency.median()),
                                      optional_text(row.tflops),
                                      row.peak_fraction ? fmt::format("{:.1f}", 100 * *row.peak_fraction) : ""};
    if (lengths) cells.insert(cells.begin(), length_text(row.seqlen_k));
    if (s.peak_memory) cells.push_back(row.peak_memory < 0 ? "" : fmt::format("{:.1f}", static_cast<double>(row.peak_memory) / 1e6));
    table.add(cells);
  }
  return table;
}

/// What a reader must know to judge the numbers.
std::string caption(const BenchSettings& s, const std::vector<BenchRow>& rows, const nlohmann::ordered_json& machine) {
  const std::string device = s.device.type == DeviceType::cpu ? fmt::format("{}, {} threads, {}", machine["cpu"].get<std::string>(), num_threads(), cpu_isa())
                                                              : machine["gpus"][static_cast<size_t>(s.device.index)]["name"].get<std::string>();
  std::string text = fmt::format("{}\nB={} H={}{} D={} N={}{}, {}, {}, inputs {} ({})", device, s.batch, s.heads.q,
                                 s.heads.kv == s.heads.q ? "" : fmt::format("/{}", s.heads.kv), s.head_dim, fmt::format("{}", fmt::join(s.seqlens, ", ")),
                                 s.seqlen_q ? fmt::format(" (queries: {})", *s.seqlen_q) : "", dtype_text(s.dtype),
                                 s.causal                      ? "causal"
                                 : s.mask.left || s.mask.right ? "window"
                                                               : "non-causal",
                                 s.inputs->name, s.inputs->title);
  int64_t least = INT64_MAX, most = 0;
  for (const BenchRow& row : rows) {
    if (!row.accuracy) continue;
    least = std::min(least, row.reference_rows);
    most = std::max(most, row.reference_rows);
  }
  if (most > 0)
    text +=
        fmt::format("\nerrors against attention in fp64 on {} of the output rows", least == most ? std::to_string(most) : fmt::format("{} to {}", least, most));
  text += s.quantized_kv ? "; latency from K and V quantized before" : "; latency includes quantization, kernel ms has K and V quantized before";
  return text + "\n";
}

/// One line per note, with the methods it holds for.
std::string footer(const std::vector<BenchRow>& rows) {
  std::vector<std::pair<std::string, std::string>> notes;
  for (const BenchRow& row : rows) {
    if (row.note.empty()) continue;
    auto note = std::find_if(notes.begin(), notes.end(), [&](const auto& n) { return n.first == row.note; });
    if (note == notes.end()) note = notes.insert(note, {row.note, ""});
    if ((", " + note->second + ",").find(", " + row.method + ",") == std::string::npos) note->second += (note->second.empty() ? "" : ", ") + row.method;
  }
  std::string text;
  for (const auto& [note, methods] : notes) text += fmt::format("{}: {}\n", methods, note);
  return text;
}

std::string csv_of(const nlohmann::ordered_json& results) {
  if (results.empty()) return {};
  std::vector<std::string> header;
  for (const auto& item : results[0].items()) header.push_back(item.key());
  Table table(header);
  for (const auto& row : results) {
    std::vector<std::string> cells;
    for (const auto& item : row.items())
      cells.push_back(item.value().is_null() ? "" : item.value().is_string() ? item.value().get<std::string>() : item.value().dump());
    table.add(cells);
  }
  return table.csv();
}

/// Shows and stores what is finished; also after Ctrl-C.
void publish(const Options& options, const BenchSettings& s, const std::vector<BenchRow>& rows, bool complete, OutputFile* json_file, OutputFile* csv_file) {
  nlohmann::ordered_json json;
  json["machine"] = machine_facts();
  json["command"] = {{"line", command_line()}, {"table", options.table}, {"seed", s.seed}, {"complete", complete}};
  json["results"] = nlohmann::ordered_json::array();
  for (const BenchRow& row : rows) json["results"].push_back(row_json(s, row));
  const std::string text = json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (options.json == "-") {
    fmt::print("{}", text);
  } else {
    const Table table = result_table(s, rows);
    fmt::print("{}\n{}{}", caption(s, rows, json["machine"]), options.markdown ? table.markdown() : table.text(),
               footer(rows).empty() ? "" : "\n" + footer(rows));
  }
  std::fflush(stdout);
  if (json_file != nullptr) {
    json_file->write(text);
    json_file->commit();
  }
  if (csv_file != nullptr) {
    csv_file->write(csv_of(json["results"]));
    csv_file->commit();
  }
}

int execute(const Options& options) {
  options.call.apply_threads();
  const BenchSettings settings = settings_of(options);
  if (!options.csv.empty() && same_file(options.json, options.csv)) throw UsageError("--json, --csv: want two files, got one");
  std::unique_ptr<OutputFile> json_file, csv_file;  // opened now: a bad path must not cost the run
  if (!options.json.empty() && options.json != "-") json_file = std::make_unique<OutputFile>(options.json);
  if (!options.csv.empty()) csv_file = std::make_unique<OutputFile>(options.csv);

  Bench bench(settings);
  std::mutex mutex;
  std::condition_variable changed;
  bool finished = false;
  std::exception_ptr failure;
  before_bench = std::signal(SIGINT, on_interrupt);
  if (before_bench == SIG_IGN) std::signal(SIGINT, SIG_IGN);  // nohup and the like
  std::thread worker([&] {
    try {
      bench.run();
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    finished = true;
    changed.notify_all();
  });
  Progress progress(options.quiet);
  {
    std::unique_lock lock(mutex);
    while (!finished && !interrupted) {
      changed.wait_for(lock, std::chrono::milliseconds(100));
      const Bench::State state = bench.state();
      progress.update(state.what, state.done, state.total);
    }
  }
  progress.clear();
  if (!finished) {
    // The measuring thread may sit in a call that lasts an hour: leave it, show what is done, and end the process without waiting.
    int code = kInterrupted;
    try {
      publish(options, settings, bench.state().rows, false, json_file.get(), csv_file.get());
    } catch (const std::exception& error) {
      fmt::print(stderr, "chitu: {}\n", error.what());
      code = kInternal;
    }
    json_file.reset();  // _Exit runs no destructors, and an uncommitted file must not stay
    csv_file.reset();
    fmt::print(stderr, "chitu: interrupted, the table above is what was finished\n");
    std::fflush(nullptr);
    std::_Exit(code);
  }
  worker.join();
  std::signal(SIGINT, before_bench);
  const auto rows = bench.state().rows;
  if (failure) {
    if (!rows.empty()) publish(options, settings, rows, false, json_file.get(), csv_file.get());
    std::rethrow_exception(failure);
  }
  if (std::none_of(rows.begin(), rows.end(), [](const BenchRow& row) { return row.accuracy.has_value(); })) {
    throw Unsupported("none of the methods asked for runs on this device: see chitu explain");
  }
  publish(options, settings, rows, true, json_file.get(), csv_file.get());
  return kDone;
}

}  // namespace

Command bench_command() {
  auto o = std::make_shared<Options>();
  const auto declare = [o](Arguments& arguments) {
    arguments.value("--table", o->table, "long: one row per method at 10K keys; sweep: several lengths, methods with a kernel here");
    arguments.value("--method", o->methods, "Comma-separated methods, or all", "LIST");
    arguments.value("--seqlen", o->seqlen, "Comma-separated numbers of keys: 4096, 10K (10^3), 1M, 64Ki (2^10), 1Mi", "LIST");
    arguments.value("--seqlen-q", o->seqlen_q, "Queries (default: as many as keys)", "N");
    arguments.value("--heads", o->heads, "Query heads, or query/key heads (GQA)", "H[/Hkv]");
    arguments.value("--head-dim", o->head_dim, "Head dimension", "D");
    arguments.value("--batch", o->batch, "Sequences", "B");
    arguments.value("--dtype", o->dtype, "fp16, bf16 or fp32");
    arguments.value("--inputs", o->inputs, "Kind of random inputs, as docs/accuracy-study.md numbers them: 1 is N(0,1), 7 and 8 have attention sinks", "SET");
    arguments.value("--kernel", o->kernel, "Force one kernel by name (chitu info lists them); all: a line for each that serves the method");
    arguments.value("--repeats", o->repeats, "Timed calls per row (default: 3 to 20, about 2 s)");
    arguments.value("--reference-rows", o->reference_rows, "Output rows compared with fp64 (default: by cost)");
    arguments.value("--seed", o->seed, "Of the random inputs (default 1)");
    arguments.flag("--quantized-kv", o->quantized_kv, "K and V are quantized once, before the clock starts");
    arguments.flag("--peak-memory", o->peak_memory, "Also the memory beyond inputs and output");
    arguments.value("--json", o->json, "Write all results to F ('-': to stdout instead of the table)", "F");
    arguments.value("--csv", o->csv, "Write all results to F", "F");
    arguments.flag("--markdown", o->markdown, "Print the table as Markdown");
    arguments.flag("--quiet", o->quiet, "No progress on stderr");
    o->call.declare(arguments);
  };
  return {"bench", "Accuracy and speed of methods on random inputs", declare, [o] { return execute(*o); }};
}

}  // namespace chitu::cli
