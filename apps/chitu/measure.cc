#include "measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <string>

#include "device.h"

namespace chitu::cli {
namespace {

/// A line "NAME:   123 kB" of /proc/self/status, in bytes; -1 when it is missing.
int64_t status_bytes(const std::string& name) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(name + ":")) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return -1;
}

}  // namespace

double Latency::quantile(double q) const {
  if (ms.empty()) return NAN;
  const double at = q * static_cast<double>(ms.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, ms.size() - 1);
  return ms[low] + (ms[high] - ms[low]) * (at - static_cast<double>(low));
}

Latency measure(Device device, const MeasureOptions& options, const std::function<void()>& call) {
  constexpr int kMost = 20, kLeast = 3;
  constexpr double kLongMs = 1500;
  Latency latency;
  const int target = options.repeats > 0 ? options.repeats : kMost;
  const double warm_up = timed_ms(device, call);
  if (warm_up > kLongMs) latency.ms.push_back(warm_up);
  double spent_ms = latency.empty() ? 0 : warm_up;
  while (static_cast<int>(latency.ms.size()) < target) {
    const auto done = static_cast<int>(latency.ms.size());
    if (options.repeats == 0 && done >= kLeast && spent_ms + warm_up > options.budget_s * 1000) break;
    const double ms = timed_ms(device, call);
    latency.ms.push_back(ms);
    spent_ms += ms;
    if (options.progress) {
      const double by_time = options.repeats == 0 ? spent_ms / (options.budget_s * 1000) : 0;
      options.progress(std::min(1.0, std::max(by_time, (done + 1.0) / target)));
    }
  }
  std::sort(latency.ms.begin(), latency.ms.end());
  return latency;
}

double visible_pairs(int64_t seqlen_q, int64_t seqlen_k, const Mask& mask) {
  if (!mask.left && !mask.right) return static_cast<double>(seqlen_q) * static_cast<double>(seqlen_k);
  const int64_t diagonal = mask.diagonal.value_or(seqlen_k - seqlen_q);
  double pairs = 0;
  for (int64_t i = 0; i < seqlen_q; ++i) {
    const int64_t begin = mask.left ? std::max<int64_t>(0, i + diagonal - *mask.left) : 0;
    const int64_t end = mask.right ? std::min(seqlen_k, i + diagonal + *mask.right + 1) : seqlen_k;
    pairs += static_cast<double>(std::max<int64_t>(0, end - begin));
  }
  return pairs;
}

int64_t memory_growth(const std::function<void()>& call) {
  {
    std::ofstream reset("/proc/self/clear_refs");
    reset << "5";  // sets the high-water mark of the resident size to its present value
    if (!reset.flush()) {
      call();
      return -1;
    }
  }
  const int64_t before = status_bytes("VmRSS");
  call();
  const int64_t after = status_bytes("VmHWM");
  return before < 0 || after < 0 ? -1 : std::max<int64_t>(0, after - before);
}

}  // namespace chitu::cli
