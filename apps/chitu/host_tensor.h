// A dense, C-ordered tensor in host memory, as the file readers deliver it and the writers take it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace chitu::cli {

/// f64 is accepted in files only: it is converted to f32 while it is read.
enum class ElementType : uint8_t { f16, bf16, f32, f64, boolean };

constexpr int64_t element_size(ElementType type) {
  switch (type) {
    case ElementType::f16:
    case ElementType::bf16:
      return 2;
    case ElementType::f32:
      return 4;
    case ElementType::f64:
      return 8;
    case ElementType::boolean:
      return 1;
  }
  return 0;
}

constexpr std::string_view element_name(ElementType type) {
  switch (type) {
    case ElementType::f16:
      return "fp16";
    case ElementType::bf16:
      return "bf16";
    case ElementType::f32:
      return "fp32";
    case ElementType::f64:
      return "fp64";
    case ElementType::boolean:
      return "bool";
  }
  return "?";
}

struct HostTensor {
  ElementType type = ElementType::f32;
  std::vector<int64_t> shape;
  std::vector<std::byte> data;
};

/// "[1, 8, 1024, 64]"
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace chitu::cli
