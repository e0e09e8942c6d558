#pragma once

// Checks on one view, and on two that may overlap.

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "chitu/error.h"
#include "chitu/tensor.h"
#include "core/check.h"

namespace chitu::core {

template <class View>
std::string shape_text(const View& v) {
  std::string s = "[";
  for (std::size_t i = 0; i < v.shape.size(); ++i) s += (i ? ", " : "") + std::to_string(v.shape[i]);
  return s + "]";
}

/// Largest element offset of a view, or -1 when it has no element. Throws when it cannot be addressed.
template <class View>
std::int64_t last_offset(const char* name, const View& v) {
  __int128 span = 0;
  for (std::size_t i = 0; i < v.shape.size(); ++i) {
    CHITU_CHECK(v.shape[i] >= 0, name, ".shape: want no negative size, got ", shape_text(v));
    if (v.shape[i] == 0) return -1;
  }
  for (std::size_t i = 0; i < v.shape.size(); ++i) {
    if (v.shape[i] == 1) continue;  // a stride that is never used may be anything
    CHITU_CHECK(v.stride[i] >= 0, name, ".stride[", i, "]: want >= 0, got ", v.stride[i]);
    span += static_cast<__int128>(v.shape[i] - 1) * v.stride[i];
    // checked inside the loop: four terms of nearly 2^126 would wrap even 128 bits
    CHITU_CHECK(span <= (std::int64_t{1} << 60), name, ": want a view of less than 2^60 elements, got shape ", shape_text(v));
  }
  return static_cast<std::int64_t>(span);
}

/// Address, stride and size checks common to every view. Null data is an error unless the view is empty.
template <class View>
void check_view(const char* name, const View& v, Device device) {
  const std::int64_t last = last_offset(name, v);
  __int128 elements = 1;
  for (auto n : v.shape) {
    elements *= n;
    CHITU_CHECK(elements <= (std::int64_t{1} << 60), name, ": want fewer than 2^60 elements, got shape ", shape_text(v));
  }
  CHITU_CHECK(v.device == device, name, ".device: want the device of q, got another one");
  if (last < 0) return;
  CHITU_CHECK(v.data != nullptr, name, ".data: want a pointer, got null for shape ", shape_text(v));
  CHITU_CHECK(reinterpret_cast<std::uintptr_t>(v.data) % dtype_size(v.dtype) == 0, name, ".data: want alignment to its ", dtype_size(v.dtype),
              "-byte element, got address ", v.data);
}

/// No two index tuples share an element. Sufficient, not necessary: dimensions sorted by stride must nest.
template <class View>
void check_no_self_overlap(const char* name, const View& v) {
  if (last_offset(name, v) < 0) return;  // empty: its strides may be anything
  std::array<std::size_t, std::tuple_size_v<decltype(v.shape)>> order{};
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return v.stride[a] < v.stride[b]; });
  std::int64_t reach = 0;
  for (std::size_t i : order) {
    if (v.shape[i] <= 1) continue;
    CHITU_CHECK(v.stride[i] > reach, name, ".stride[", i, "]: want elements that do not overlap (more than ", reach, "), got ", v.stride[i]);
    reach += (v.shape[i] - 1) * v.stride[i];
  }
}

struct ByteRange {
  std::uintptr_t begin = 0, end = 0;
};
template <class View>
ByteRange byte_range(const char* name, const View& v) {
  const std::int64_t last = v.data == nullptr ? -1 : last_offset(name, v);
  const auto begin = reinterpret_cast<std::uintptr_t>(v.data);
  return last < 0 ? ByteRange{} : ByteRange{begin, begin + (static_cast<std::uintptr_t>(last) + 1) * dtype_size(v.dtype)};
}

/// True when a and b are interleaved slices of rows of one buffer (as of a fused q, k, v, out tensor) and share no element.
template <class A, class B>
bool disjoint_row_slices(const A& a, const B& b) {
  if (a.dtype != b.dtype) return false;
  auto empty = [](const auto& v) { return v.shape[0] == 0 || v.shape[1] == 0 || v.shape[2] == 0 || v.shape[3] == 0; };
  if (empty(a) || empty(b)) return true;
  const auto period = a.stride[1];
  auto chunk = [](const auto& v) { return (v.shape[2] - 1) * v.stride[2] + v.shape[3]; };
  auto nests = [&](const auto& v) { return v.stride[1] == period && chunk(v) <= period && (v.shape[0] == 1 || v.stride[0] % period == 0); };
  if (period <= 0 || !nests(a) || !nests(b)) return false;
  const auto bytes = static_cast<std::int64_t>(dtype_size(a.dtype));
  const auto distance = (reinterpret_cast<std::intptr_t>(b.data) - reinterpret_cast<std::intptr_t>(a.data)) / bytes;
  const auto offset = ((distance % period) + period) % period;  // start of b's slice within a's row
  return offset >= chunk(a) && offset + chunk(b) <= period;
}

}  // namespace chitu::core
