#include "common.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "parse_error.h"

namespace chitu::cli {
namespace {

[[noreturn]] void wrong(std::string_view option, std::string_view want, std::string_view got) {
  throw UsageError(fmt::format("{}: want {}, got '{}'", option, want, printable(got)));
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

bool parse_integer(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string method_list() {
  std::string out = "automatic";
  for (const Method method : list_methods()) out += fmt::format(", {}", method_name(method));
  return out;
}

bool some_kernel_runs(Device device) {
  const auto rows = list_kernels(device);
  return std::any_of(rows.begin(), rows.end(), [](const KernelInfo& row) { return row.reason.empty(); });
}

}  // namespace

std::vector<std::string>& command_line() {
  static std::vector<std::string> words;
  return words;
}

int64_t parse_size(std::string_view option, std::string_view text, int64_t smallest) {
  static constexpr std::string_view kWant = "a number such as 4096, 10K (thousand), 1M, 64Ki (1024) or 1Mi";
  struct Suffix {
    std::string_view text;
    int64_t factor;
  };
  static constexpr Suffix kSuffixes[] = {{"Ki", 1024}, {"Mi", 1 << 20}, {"K", 1000}, {"k", 1000}, {"M", 1000000}};
  std::string_view digits = text;
  int64_t factor = 1;
  for (const Suffix& suffix : kSuffixes) {
    if (!digits.ends_with(suffix.text)) continue;
    digits.remove_suffix(suffix.text.size());
    factor = suffix.factor;
    break;
  }
  int64_t value = 0;
  if (!parse_integer(digits, value) || __builtin_mul_overflow(value, factor, &value)) wrong(option, kWant, text);
  if (value < smallest || value > (int64_t{1} << 40)) wrong(option, fmt::format("a number from {} to 2^40", smallest), text);
  return value;
}

std::vector<int64_t> parse_sizes(std::string_view option, std::string_view text, int64_t smallest) {
  std::vector<int64_t> sizes;
  for (const std::string_view part : split(text, ',')) sizes.push_back(parse_size(option, part, smallest));
  return sizes;
}

Method parse_one_method(std::string_view option, const std::string& text) {
  const auto method = parse_method(text);
  if (!method) wrong(option, "one of " + method_list(), text);
  return *method;
}

std::vector<Method> parse_methods(std::string_view option, const std::string& text) {
  if (text == "all") return list_methods();
  std::vector<Method> methods;
  for (const std::string_view part : split(text, ',')) {
    const Method method = parse_one_method(option, std::string(part));
    if (std::find(methods.begin(), methods.end(), method) != methods.end()) wrong(option, "each method once", text);
    methods.push_back(method);
  }
  return methods;
}

DType parse_dtype(std::string_view option, const std::string& text) {
  if (text == "fp16") return DType::f16;
  if (text == "bf16") return DType::bf16;
  if (text == "fp32") return DType::f32;
  wrong(option, "fp16, bf16 or fp32", text);
}

std::string_view dtype_text(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return "fp16";
    case DType::bf16:
      return "bf16";
    case DType::f32:
      return "fp32";
    case DType::boolean:
      return "bool";
  }
  return "?";
}

Heads parse_heads(std::string_view option, const std::string& text) {
  const auto parts = split(text, '/');
  if (parts.size() > 2) wrong(option, "H or H/Hkv", text);
  Heads heads;
  heads.q = parse_size(option, parts[0]);
  heads.kv = parts.size() == 2 ? parse_size(option, parts[1]) : heads.q;
  if (heads.q % heads.kv != 0) wrong(option, "H a multiple of Hkv", text);
  return heads;
}

Device parse_device(std::string_view option, const std::string& text) {
  if (text == "cpu") return {};
  const int count = cuda_device_count();
  if (text == "auto") {
    const Device gpu{DeviceType::cuda, 0};
    return count > 0 && some_kernel_runs(gpu) ? gpu : Device{};
  }
  int64_t index = 0;
  if (text != "cuda" && !(text.starts_with("cuda:") && parse_integer(std::string_view(text).substr(5), index) && index >= 0)) {
    wrong(option, "cpu, cuda, cuda:N or auto", text);
  }
  if (count == 0) throw Unsupported(fmt::format("{}: {} asked for, but no CUDA device is visible (or chitu was built without CUDA); cpu works", option, text));
  if (index >= count) throw UsageError(fmt::format("{}: want a CUDA device from 0 to {}, got {}", option, count - 1, index));
  return {DeviceType::cuda, static_cast<int>(index)};
}

std::string_view device_text(Device device) { return device.type == DeviceType::cpu ? "cpu" : "cuda"; }

void CallOptions::declare(Arguments& arguments) {
  arguments.flag("--causal", causal, "Each query sees the keys up to its own position");
  arguments.value("--causal-align", causal_align, "Where the mask's diagonal ends: bottom-right (default) or top-left", "CORNER");
  arguments.value("--window", window, "Each query sees L keys before and R after its own position; -1 = no limit. Holds in addition to --causal", "L,R");
  arguments.value("--softmax-scale", softmax_scale, "Factor of q.k (default 1/sqrt(head_dim))", "X");
  arguments.value("--device", device, "cpu, cuda, cuda:N or auto");
  arguments.value("--threads", threads, "CPU threads (default: CHITU_NUM_THREADS, else all that this process may use)");
}

Mask CallOptions::mask() const {
  Mask mask;
  if (causal) mask.right = 0;
  if (!window.empty()) {
    const auto parts = split(window, ',');
    int64_t left = 0, right = 0;
    if (parts.size() != 2 || !parse_integer(parts[0], left) || !parse_integer(parts[1], right) || left < -1 || right < -1) {
      wrong("--window", "L,R with whole numbers from -1 (no limit)", window);
    }
    if (left >= 0) mask.left = left;
    if (right >= 0) mask.right = causal ? 0 : right;
  }
  if (!causal_align.empty()) {
    if (!causal && window.empty()) throw UsageError("--causal-align: has no effect without --causal or --window");
    if (causal_align == "top-left") {
      mask.diagonal = 0;
    } else if (causal_align != "bottom-right") {
      wrong("--causal-align", "bottom-right or top-left", causal_align);
    }
  }
  return mask;
}

std::optional<float> CallOptions::scale() const {
  if (softmax_scale.empty()) return std::nullopt;
  float value = 0;
  const char* end = softmax_scale.data() + softmax_scale.size();
  const auto [at, error] = std::from_chars(softmax_scale.data(), end, value);
  if (error != std::errc() || at != end || !std::isfinite(value)) wrong("--softmax-scale", "a finite number", softmax_scale);
  return value;
}

void CallOptions::apply_threads() const {
  if (threads < 0 || threads > 4096) throw UsageError(fmt::format("--threads: want a number from 1 to 4096 (0: default), got {}", threads));
  set_num_threads(static_cast<int>(threads));
}

DType dtype_of(ElementType type) {
  switch (type) {
    case ElementType::f16:
      return DType::f16;
    case ElementType::bf16:
      return DType::bf16;
    case ElementType::boolean:
      return DType::boolean;
    case ElementType::f32:
    case ElementType::f64:
      break;
  }
  return DType::f32;
}

ElementType element_of(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return ElementType::f16;
    case DType::bf16:
      return ElementType::bf16;
    case DType::boolean:
      return ElementType::boolean;
    case DType::f32:
      break;
  }
  return ElementType::f32;
}

}  // namespace chitu::cli
