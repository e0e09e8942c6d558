// The measurements behind `chitu bench`: one row per length and method.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "call.h"
#include "common.h"
#include "eval/fill.h"
#include "evaluate.h"
#include "measure.h"
#include "peak.h"

namespace chitu::cli {

struct BenchSettings {
  std::vector<Method> methods;
  std::vector<int64_t> seqlens;
  std::optional<int64_t> seqlen_q;  ///< default: the same as keys
  Heads heads;
  int64_t head_dim = 64, batch = 1;
  DType dtype = DType::f16;
  bool causal = false;
  Mask mask;
  std::optional<float> scale;
  Device device;
  std::string kernel;        ///< force one row
  bool all_kernels = false;  ///< a row of the table for every kernel that serves a method
  int repeats = 0;
  int64_t reference_rows = 0;  ///< 0: chosen by cost
  const eval::InputSet* inputs = eval::find_input_set("1");
  uint64_t seed = 1;
  bool quantized_kv = false, peak_memory = false;
  bool skip_specifications = false;  ///< leave out methods that have only their specification on this device
};

struct BenchRow {
  std::string method, kernel;
  int64_t seqlen_q = 0, seqlen_k = 0, reference_rows = 0;
  size_t workspace_bytes = 0;
  Latency latency, kernel_latency;  ///< empty: not measured
  std::optional<double> tflops, kernel_tflops, peak_fraction;
  std::string peak_name;
  int64_t peak_memory = -1;
  std::optional<eval::Metrics> accuracy;
  std::string note;
};

/// Runs in its own thread, so that an interrupted program can still show what is finished.
class Bench {
 public:
  explicit Bench(BenchSettings settings) : settings_(std::move(settings)) {}
  void run();

  struct State {
    std::vector<BenchRow> rows;
    std::string what;
    double done = 0, total = 1;
  };
  State state() const;
  const BenchSettings& settings() const { return settings_; }

 private:
  struct Case;
  void run_length(int64_t seqlen);
  AttentionOptions options_for(Method method, const std::string& kernel) const;
  std::vector<std::string> kernels_for(Case& shared, Method method) const;
  BenchRow run_method(Case& shared, Method method, const std::string& kernel);
  void measure_latency(Case& shared, const AttentionOptions& options, BenchRow& row);
  void measure_kernel(Case& shared, const AttentionOptions& options, BenchRow& row);
  void step(const std::string& what, double advance);
  double work(int64_t seqlen) const;

  BenchSettings settings_;
  mutable std::mutex mutex_;
  State state_;
};

nlohmann::ordered_json row_json(const BenchSettings& settings, const BenchRow& row);

}  // namespace chitu::cli
