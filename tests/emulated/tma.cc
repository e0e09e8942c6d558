#include "emulated/tma.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <deque>
#include <iterator>
#include <vector>

#include "emulated/block.h"

namespace chitu::emulated {
namespace {

/// In the eight bytes of the barrier itself, so that a block starts without any.
struct Mbarrier {
  std::uint64_t expected : 10, pending : 10, phase : 1, mark : 11;
  std::int64_t bytes : 32;  // announced and not yet landed
};
static_assert(sizeof(Mbarrier) == 8);
constexpr std::uint64_t kMark = 0x2c7;

/// What a CUtensorMap holds here.
struct TensorMap {
  std::uint64_t mark;
  const char* data;
  std::uint32_t size[4];
  std::uint64_t stride[3];
  std::uint32_t box[4];
  std::uint32_t rank, element, width;  // bytes of an element, of the swizzle
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));
constexpr std::uint64_t kMapMark = 0x6d61705f656d7531;

struct Load {
  TensorMap map;
  std::uint32_t to;
  std::uint64_t* barrier;
  int position[4];
};

struct Waiting {
  const std::uint64_t* barrier;
  int thread;
};

std::deque<Load> loads;
std::vector<Waiting> waiting;
bool unfenced;
char view[kSharedWindow];

Mbarrier read(const std::uint64_t* barrier, const char* what) {
  shared_memory(shared_address(barrier), 8, 8, what);
  Mbarrier b;
  std::memcpy(&b, barrier, 8);
  if (b.mark != kMark) fault("%s: there is no mbarrier at %#x", what, shared_address(barrier));
  return b;
}

/// Stores the barrier; completes the phase when nothing is missing.
void settle(std::uint64_t* barrier, Mbarrier b) {
  const bool complete = b.pending == 0 && b.bytes == 0;
  if (complete) {
    b.phase ^= 1;
    b.pending = b.expected;
  }
  std::memcpy(barrier, &b, 8);
  if (!complete) return;
  std::erase_if(waiting, [barrier](const Waiting& w) {
    if (w.barrier == barrier) wake(w.thread);
    return w.barrier == barrier;
  });
}

std::uint32_t box_bytes(const TensorMap& m) {
  std::uint32_t n = m.element;
  for (std::uint32_t i = 0; i < m.rank; ++i) n *= m.box[i];
  return n;
}

/// Calls row(bytes into the box, host address of the row's first element or null) for each row of a load.
template <class Row>
void for_each_row(const Load& l, const Row& row) {
  const TensorMap& m = l.map;
  std::uint32_t at = 0;
  for (std::uint32_t c = 0; c < m.box[3]; ++c)
    for (std::uint32_t b = 0; b < m.box[2]; ++b)
      for (std::uint32_t a = 0; a < m.box[1]; ++a, at += m.box[0] * m.element) {
        const std::int64_t p[4] = {l.position[0], std::int64_t{l.position[1]} + a, std::int64_t{l.position[2]} + b, std::int64_t{l.position[3]} + c};
        const char* from = m.data;
        for (int i = 1; i < 4; ++i) {
          if (p[i] < 0 || p[i] >= m.size[i]) from = nullptr;
          if (from != nullptr) from += p[i] * static_cast<std::int64_t>(m.stride[i - 1]);
        }
        row(at, from);
      }
}

void land(const Load& l) {
  const TensorMap& m = l.map;
  char* window = dynamic_shared() - kDynamicShared;
  for_each_row(l, [&](std::uint32_t at, const char* from) {
    const std::uint32_t bytes = m.box[0] * m.element;
    for (std::uint32_t i = 0; i < bytes; i += 16) {
      char chunk[16] = {};
      for (std::uint32_t e = 0; e < 16 && from != nullptr; e += m.element) {
        const std::int64_t column = l.position[0] + static_cast<std::int64_t>((i + e) / m.element);
        if (column >= 0 && column < m.size[0]) std::memcpy(chunk + e, from + column * m.element, m.element);
      }
      const std::uint32_t to = swizzled(l.to + at + i, m.width);
      std::memcpy(window + to, chunk, 16);
      std::memcpy(view + to, chunk, 16);
    }
  });
  Mbarrier b = read(l.barrier, "complete_tx");
  b.bytes -= box_bytes(m);
  settle(l.barrier, b);
}

void reset() {
  loads.clear();
  waiting.clear();
  unfenced = false;
  std::memset(view, poison(), sizeof view);
}

bool progress() {
  if (loads.empty()) return false;
  const auto next = reversed() ? std::prev(loads.end()) : loads.begin();
  const Load l = *next;
  loads.erase(next);
  land(l);
  return true;
}

[[maybe_unused]] const bool added = (add_unit({reset, progress, nullptr}), true);

}  // namespace

void mbarrier_init(std::uint64_t* barrier, std::uint32_t count) {
  shared_memory(shared_address(barrier), 8, 8, "mbarrier.init");
  if (count < 1 || count > 1023) fault("mbarrier.init with a count of %u", count);
  Mbarrier b{};
  b.expected = b.pending = count & 1023;
  b.mark = kMark;
  std::memcpy(barrier, &b, 8);
  unfenced = true;
}

void fence_mbarrier_init() { unfenced = false; }

void mbarrier_arrive(std::uint64_t* barrier, std::uint32_t bytes) {
  Mbarrier b = read(barrier, "mbarrier.arrive");
  if (b.pending == 0) fault("mbarrier.arrive at %#x: all %d of this phase have arrived", shared_address(barrier), static_cast<int>(b.expected));
  b.bytes += bytes;
  b.pending = (b.pending - 1) & 1023;
  settle(barrier, b);
  if (modest() && bytes == 0) let_others_run();  // they may overwrite what this thread has given up
}

void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
  if (parity > 1) fault("mbarrier.try_wait.parity with parity %u", parity);
  while (read(barrier, "mbarrier.try_wait").phase == parity) {
    waiting.push_back({barrier, thread()});
    wait_for(parity == 0 ? "mbarrier, parity 0, at" : "mbarrier, parity 1, at", shared_address(barrier));
  }
}

bool mbarrier_try(std::uint64_t* barrier, std::uint32_t parity) {
  if (parity > 1) fault("mbarrier.test_wait.parity with parity %u", parity);
  return read(barrier, "mbarrier.test_wait").phase != parity;
}

void tensor_load(void* to, const void* map, std::uint64_t* barrier, int rank, const int* position) {
  Load l{};
  std::memcpy(&l.map, map, sizeof l.map);
  const TensorMap& m = l.map;
  if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0) fault("tensor map at %p, which is not a multiple of 64", map);
  if (m.mark != kMapMark || m.rank != static_cast<std::uint32_t>(rank)) fault("load of rank %d: no tensor map of that rank", rank);
  if (unfenced) fault("tensor load before fence.mbarrier_init");
  l.to = shared_address(to);
  l.barrier = barrier;
  for (int i = 0; i < rank; ++i) l.position[i] = position[i];
  read(barrier, "tensor load");
  char* at = shared_memory(l.to, box_bytes(m), m.width * 8, "tensor load");
  std::memset(at, poison(), box_bytes(m));
  std::memset(view + l.to, poison(), box_bytes(m));
  loads.push_back(l);
}

const char* async_view() { return view; }

void fence_proxy_async() { std::memcpy(view + kDynamicShared, dynamic_shared(), kSharedWindow - kDynamicShared); }

}  // namespace chitu::emulated

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* size, const cuuint64_t* stride,
                                const cuuint32_t* box, const cuuint32_t* step, CUtensorMapInterleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill) {
  using chitu::emulated::TensorMap;
  TensorMap m{};
  m.mark = chitu::emulated::kMapMark;
  m.data = static_cast<const char*>(data);
  m.rank = rank;
  m.element = type == CU_TENSOR_MAP_DATA_TYPE_UINT8 ? 1 : type == CU_TENSOR_MAP_DATA_TYPE_UINT16 ? 2 : 4;
  m.width = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : swizzle == CU_TENSOR_MAP_SWIZZLE_64B ? 64 : swizzle == CU_TENSOR_MAP_SWIZZLE_32B ? 32 : 16;
  // What the driver refuses.
  bool valid = rank >= 1 && rank <= 4 && reinterpret_cast<std::uintptr_t>(map) % 64 == 0 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  for (cuuint32_t i = 0; valid && i < 4; ++i) {
    if (i >= rank) {
      m.size[i] = m.box[i] = 1;
      continue;
    }
    valid = size[i] >= 1 && size[i] <= 0xffffffffu && box[i] >= 1 && box[i] <= 256 && step[i] == 1;
    m.size[i] = static_cast<std::uint32_t>(size[i]);
    m.box[i] = box[i];
    if (i + 1 < rank) {
      valid = valid && stride[i] % 16 == 0 && stride[i] < cuuint64_t{1} << 40;
      m.stride[i] = stride[i];
    }
  }
  const std::uint32_t row = m.box[0] * m.element;
  valid = valid && row % 16 == 0 && (swizzle == CU_TENSOR_MAP_SWIZZLE_NONE || row <= m.width);
  if (!valid) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** entry, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *entry = known ? reinterpret_cast<void*>(cuTensorMapEncodeTiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return known ? cudaSuccess : cudaErrorInvalidValue;
}
