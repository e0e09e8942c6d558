#include "emulated/wgmma.h"

#include <cstring>
#include <deque>
#include <vector>

#include "core/codec.h"
#include "emulated/block.h"
#include "emulated/fiber.h"
#include "emulated/multiply.h"
#include "emulated/tma.h"

namespace chitu::emulated {
namespace {

constexpr int kMaxColumns = 256, kMaxDepth = 32;

/// Accumulators in flight: their value here, poison in the registers.
struct Accumulator {
  void* registers;
  int words, products;
  std::uint32_t value[kMaxColumns / 2];
};

struct Issued {
  Wgmma product;
  void* d;
};

struct ThreadProducts {
  std::vector<Issued> open;
  std::deque<std::vector<Issued>> groups;
  std::vector<Accumulator> accumulators;
  bool fenced;
  int allowed;  // of the wait it is in
};

ThreadProducts threads[kMaxThreads];

Accumulator& accumulator(ThreadProducts& t, void* d) {
  for (Accumulator& a : t.accumulators)
    if (a.registers == d) return a;
  fault("wgmma: lost an accumulator");
}

void reset() {
  for (ThreadProducts& t : threads) t.open.clear(), t.groups.clear(), t.accumulators.clear(), t.fenced = false;
}

void thread_ends() {
  const ThreadProducts& t = threads[thread()];
  if (!t.open.empty() || !t.groups.empty()) fault("ends with wgmma that it did not commit or wait for");
}

[[maybe_unused]] const bool added = (add_unit({reset, nullptr, thread_ends}), true);

int depth_of(Type t) { return t == Type::f16 || t == Type::bf16 ? 16 : 32; }

/// Element of a word of operands.
float decode(Type type, const char* at) {
  std::uint16_t half;
  switch (type) {
    case Type::f16:
      std::memcpy(&half, at, 2);
      return f16_values()[half];
    case Type::bf16:
      std::memcpy(&half, at, 2);
      return core::bf16_to_f32(half);
    case Type::s8:
      return static_cast<std::int8_t>(*at);
    case Type::u8:
      return static_cast<std::uint8_t>(*at);
    case Type::e4m3:
      return e4m3_values()[static_cast<std::uint8_t>(*at)];
  }
  return 0;
}

struct Descriptor {
  std::uint32_t start, leading, stride, width;

  explicit Descriptor(std::uint64_t d)
      : start(static_cast<std::uint32_t>(d & 0x3fff) << 4),
        leading(static_cast<std::uint32_t>(d >> 16 & 0x3fff) << 4),
        stride(static_cast<std::uint32_t>(d >> 32 & 0x3fff) << 4) {
    const auto mode = static_cast<int>(d >> 62);
    width = mode == 1 ? 128 : mode == 2 ? 64 : mode == 3 ? 32 : 0;
    if (width == 0) fault("wgmma: a descriptor without swizzle");
  }
  /// 16 bytes at byte `k` of row `row`, K-major.
  const char* k_major(std::uint32_t row, std::uint32_t k) const { return at(start + row / 8 * stride + row % 8 * width + k); }
  /// 16 bytes from byte `column` on of row `k`, MN-major.
  const char* mn_major(std::uint32_t column, std::uint32_t k) const {
    return at(start + column / width * leading + k / 8 * stride + k % 8 * width + column % width);
  }

 private:
  const char* at(std::uint32_t address) const {
    const std::uint32_t a = swizzled(address, width);
    shared_memory(a, 16, 16, "wgmma");
    return async_view() + a;
  }
};

/// b[k][n], from shared memory.
void read_b(const Wgmma& p, float (&b)[kMaxDepth][kMaxColumns]) {
  const int depth = depth_of(p.type), size = depth == 16 ? 2 : 1, per_chunk = 16 / size;
  const Descriptor d(p.b_descriptor);
  if (p.b_columns_inner) {
    for (int k = 0; k < depth; ++k)
      for (int n = 0; n < p.columns; n += per_chunk) {
        const char* from = d.mn_major(static_cast<std::uint32_t>(n * size), static_cast<std::uint32_t>(k));
        for (int e = 0; e < per_chunk; ++e) b[k][n + e] = decode(p.type, from + e * size);
      }
  } else {
    for (int n = 0; n < p.columns; ++n)
      for (int k = 0; k < depth; k += per_chunk) {
        const char* from = d.k_major(static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(k * size));
        for (int e = 0; e < per_chunk; ++e) b[k + e][n] = decode(p.type, from + e * size);
      }
  }
}

/// a[row][k] of the warp's 16 rows.
void read_a(const std::vector<const Issued*>& lanes, int warp_in_group, float (&a)[16][kMaxDepth]) {
  const Wgmma& p = lanes[0]->product;
  const int depth = depth_of(p.type), size = depth == 16 ? 2 : 1, per_chunk = 16 / size, per_word = 4 / size;
  if (p.a == nullptr) {
    const Descriptor d(p.a_descriptor);
    for (int r = 0; r < 16; ++r)
      for (int k = 0; k < depth; k += per_chunk) {
        const char* from = d.k_major(static_cast<std::uint32_t>(warp_in_group * 16 + r), static_cast<std::uint32_t>(k * size));
        for (int e = 0; e < per_chunk; ++e) a[r][k + e] = decode(p.a_type, from + e * size);
      }
    return;
  }
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i)
      for (int e = 0; e < per_word; ++e)
        a[l / 4 + i % 2 * 8][(l % 4 + i / 2 * 4) * per_word + e] =
            decode(p.a_type, reinterpret_cast<const char*>(lanes[static_cast<std::size_t>(l)]->product.a + i) + e * size);
}

/// One product of a warp. A row's columns 8i + 2t + {0, 1} are words 4i + {0, 1} of lane (g, t), those of row g + 8 words 4i + {2, 3}.
void multiply_warp(const std::vector<const Issued*>& lanes, ThreadProducts* of) {
  static float a[16][kMaxDepth], b[kMaxDepth][kMaxColumns], d[16][kMaxColumns];
  const Wgmma& p = lanes[0]->product;
  for (int l = 1; l < 32; ++l) {
    const Wgmma& q = lanes[static_cast<std::size_t>(l)]->product;
    if (q.a_descriptor != p.a_descriptor || q.b_descriptor != p.b_descriptor || q.accumulate != p.accumulate || q.columns != p.columns || q.type != p.type ||
        q.a_type != p.a_type) {
      fault("wgmma: lanes 0 and %d of a warp disagree about a product", l);
    }
  }
  read_a(lanes, warp() % 4, a);
  read_b(p, b);
  const bool fp8 = p.type == Type::e4m3;
  if (fp8) {  // rounds with what was there
    for (int l = 0; l < 32; ++l) {
      const Accumulator& from = accumulator(of[l], lanes[static_cast<std::size_t>(l)]->d);
      for (int i = 0; i < p.columns / 2; ++i) {
        float& x = d[l / 4 + i / 2 % 2 * 8][i / 4 * 8 + l % 4 * 2 + i % 2];
        x = 0;
        if (p.accumulate) std::memcpy(&x, from.value + i, 4);
      }
    }
    multiply_fp8(&a[0][0], kMaxDepth, &b[0][0], kMaxColumns, &d[0][0], kMaxColumns, depth_of(p.type), p.columns);
  } else {
    multiply(&a[0][0], kMaxDepth, &b[0][0], kMaxColumns, &d[0][0], kMaxColumns, depth_of(p.type), p.columns);
  }
  for (int l = 0; l < 32; ++l) {
    Accumulator& to = accumulator(of[l], lanes[static_cast<std::size_t>(l)]->d);
    for (int i = 0; i < p.columns / 2; ++i) {
      const float x = d[l / 4 + i / 2 % 2 * 8][i / 4 * 8 + l % 4 * 2 + i % 2];
      if (p.type == Type::s8) {
        std::int32_t old = 0;
        if (p.accumulate) std::memcpy(&old, to.value + i, 4);
        old += static_cast<std::int32_t>(x);  // exact: below 2^24
        std::memcpy(to.value + i, &old, 4);
      } else {
        float old = 0;
        if (p.accumulate) std::memcpy(&old, to.value + i, 4);
        old = p.accumulate && !fp8 ? old + x : x;
        std::memcpy(to.value + i, &old, 4);
      }
    }
    if (--to.products > 0) continue;
    std::memcpy(to.registers, to.value, sizeof(std::uint32_t) * static_cast<std::size_t>(to.words));
    of[l].accumulators.erase(of[l].accumulators.begin() + (&to - of[l].accumulators.data()));
  }
}

/// Runs the oldest groups of a warp until `allowed` are left.
void finish_groups(void* const* operands) {
  ThreadProducts* const first = static_cast<ThreadProducts*>(operands[0]);
  for (int l = 1; l < 32; ++l)
    if (first[l].groups.size() != first[0].groups.size() || first[l].allowed != first[0].allowed) fault("wgmma: lanes 0 and %d of a warp disagree", l);
  std::vector<const Issued*> lanes(32);
  while (first[0].groups.size() > static_cast<std::size_t>(first[0].allowed)) {
    for (int l = 1; l < 32; ++l)
      if (first[l].groups.front().size() != first[0].groups.front().size()) fault("wgmma: lanes 0 and %d of a warp committed different groups", l);
    for (std::size_t n = 0; n < first[0].groups.front().size(); ++n) {
      for (int l = 0; l < 32; ++l) lanes[static_cast<std::size_t>(l)] = &first[l].groups.front()[n];
      multiply_warp(lanes, first);
    }
    for (int l = 0; l < 32; ++l) first[l].groups.pop_front();
  }
}

}  // namespace

void wgmma_fence() { threads[thread()].fenced = true; }

void wgmma_issue(void* d, const Wgmma& product) {
  ThreadProducts& t = threads[thread()];
  if (!t.fenced) fault("wgmma without a wgmma.fence since the last group");
  t.open.push_back({product, d});
  for (Accumulator& a : t.accumulators) {
    if (a.registers != d) continue;
    ++a.products;
    return;
  }
  Accumulator& a = t.accumulators.emplace_back();
  a.registers = d;
  a.words = product.columns / 2;
  a.products = 1;
  std::memcpy(a.value, d, sizeof(std::uint32_t) * static_cast<std::size_t>(a.words));
  std::memset(d, 0xFF, sizeof(std::uint32_t) * static_cast<std::size_t>(a.words));
}

void wgmma_commit() {
  ThreadProducts& t = threads[thread()];
  t.groups.push_back(std::move(t.open));
  t.open.clear();
  t.fenced = false;
}

void wgmma_wait(int pending) {
  ThreadProducts& t = threads[thread()];
  t.allowed = pending;
  collective("wgmma.wait_group", finish_groups, &t);
}

}  // namespace chitu::emulated
