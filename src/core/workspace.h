#pragma once

#include <cstddef>
#include <cstdint>

namespace chitu::core {

/// Measure-then-carve: a row takes everything it needs first; while measuring, take() returns null and only counts. One code path for both,
/// so sizes cannot drift.
class Workspace {
 public:
  Workspace() = default;  ///< measures
  Workspace(void* memory, std::size_t bytes) : memory_(static_cast<char*>(memory)), bytes_(bytes), measuring_(false) {}

  static constexpr std::size_t kAlign = 256;

  template <class T>
  T* take(std::int64_t n) {
    const std::size_t begin = used_;
    used_ += (static_cast<std::size_t>(n) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return measuring_ || used_ > bytes_ ? nullptr : reinterpret_cast<T*>(memory_ + begin);
  }
  bool measuring() const { return measuring_; }
  std::size_t used() const { return used_; }
  bool overflow() const { return !measuring_ && used_ > bytes_; }

 private:
  char* memory_ = nullptr;
  std::size_t bytes_ = 0, used_ = 0;
  bool measuring_ = true;
};

}  // namespace chitu::core
