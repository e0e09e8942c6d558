// What every subcommand shares: exit codes, the error of a wrong option, values parsed from option text.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "arguments.h"
#include "chitu/chitu.h"
#include "host_tensor.h"

namespace chitu::cli {

/// The words of the command line, for the record in JSON. main() fills it.
std::vector<std::string>& command_line();

/// Scripts rely on these numbers.
enum ExitCode : int { kDone = 0, kInternal = 1, kBadInput = 2, kThreshold = 3, kUnsupported = 4, kInterrupted = 130 };

/// A wrong option or option value; the text names the option, what was wanted and what came.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// "10000", "10K" (10^3), "1M" (10^6), "64Ki" (2^10), "1Mi" (2^20), comma-separated; each at least `smallest`.
std::vector<int64_t> parse_sizes(std::string_view option, std::string_view text, int64_t smallest = 1);
int64_t parse_size(std::string_view option, std::string_view text, int64_t smallest = 1);
/// "exact,chitu_int8" or "all".
std::vector<Method> parse_methods(std::string_view option, const std::string& text);
Method parse_one_method(std::string_view option, const std::string& text);
/// "fp16", "bf16" or "fp32".
DType parse_dtype(std::string_view option, const std::string& text);
std::string_view dtype_text(DType dtype);
/// "8" or "32/8".
struct Heads {
  int64_t q = 8, kv = 8;
};
Heads parse_heads(std::string_view option, const std::string& text);
/// "cpu", "cuda", "cuda:1" or "auto": a GPU where one is found that a kernel of ours runs on, else the CPU. Throws Unsupported for a GPU that is not there.
Device parse_device(std::string_view option, const std::string& text);
std::string_view device_text(Device device);

/// The options that `run`, `accuracy`, `bench` and `explain` have in common.
struct CallOptions {
  bool causal = false;
  std::string causal_align;   ///< empty: bottom-right
  std::string window;         ///< "L,R", -1 = no limit
  std::string softmax_scale;  ///< empty: 1/sqrt(head_dim)
  std::string device = "auto";
  int64_t threads = 0;  ///< 0: the library's default

  void declare(Arguments& arguments);
  Mask mask() const;
  std::optional<float> scale() const;
  /// Checks threads and hands them to the library.
  void apply_threads() const;
};

/// Element type of a tensor file as a dtype of the library; bool only for masks.
DType dtype_of(ElementType type);
ElementType element_of(DType dtype);

}  // namespace chitu::cli
