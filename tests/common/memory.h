#pragma once

// Buffers that notice what a kernel should not do: writes before or behind them, and outputs that were never written.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace chitu::test {

/// `bytes` of memory, 256-byte aligned (plus `offset`), between two canaries of 4 KiB.
class GuardedBuffer {
 public:
  static constexpr std::size_t kCanary = 4096;

  explicit GuardedBuffer(std::size_t bytes = 0, std::size_t offset = 0) : memory_(bytes + offset + 2 * kCanary + 256, 0xC5), bytes_(bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data()) + kCanary;
    begin_ = (address + 255) / 256 * 256 + offset - reinterpret_cast<std::uintptr_t>(memory_.data());
  }
  GuardedBuffer(GuardedBuffer&&) = default;  // a moved vector keeps its address
  GuardedBuffer& operator=(GuardedBuffer&&) = default;
  GuardedBuffer(const GuardedBuffer&) = delete;

  std::uint8_t* data() { return memory_.data() + begin_; }
  const std::uint8_t* data() const { return memory_.data() + begin_; }
  std::size_t size() const { return bytes_; }
  void fill(std::uint8_t value) {
    if (bytes_ != 0) std::memset(data(), value, bytes_);
  }
  std::vector<std::uint8_t> copy() const { return {data(), data() + bytes_}; }
  /// Both canaries are as they were.
  bool intact() const {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      if (i == begin_) i += bytes_;
      if (i < memory_.size() && memory_[i] != 0xC5) return false;
    }
    return true;
  }

 private:
  std::vector<std::uint8_t> memory_;
  std::size_t bytes_ = 0, begin_ = 0;
};

}  // namespace chitu::test
