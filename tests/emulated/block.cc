#include "emulated/block.h"

#include <link.h>

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "emulated/fiber.h"

namespace chitu::emulated {

uint3 thread_index, block_index;
dim3 block_size, grid_size;

namespace {

constexpr int kMaxWarps = kMaxThreads / 32, kBarriers = 16;

struct Fiber {
  void* stack;
  bool live;
  const char* waits_for;  // null: it can run
  std::uint64_t detail;
};

struct Warp {
  std::uint32_t live, ready;  // lanes
  int arrived;                // at the collective
  Execute execute;
  const char* name;
  void* operands[32];
};

struct Barrier {
  int wanted, arrived;  // threads
  std::vector<int> waiting;
};

/// Ends a block from outside of its threads.
struct Ended {};

struct State {
  Fiber fibers[kMaxThreads];
  Warp warps[kMaxWarps];
  std::uint32_t ready_warps;
  Barrier barriers[kBarriers];
  int running, live;  // running -1: the scheduler itself
  void* scheduler;
  std::uint32_t launches;
  bool reversed, modest, faulted;
  void (*body)(void*);
  void* argument;
  std::uint32_t shared_bytes;
  std::string fault;
};

State s;
std::mutex launching;
alignas(1024) char window[kSharedWindow];

std::vector<Unit>& units() {
  static std::vector<Unit> list;
  return list;
}

/// A thread that can run, first of warp `from_warp` unless it is to be passed over; -1: none.
int next_thread(int from_warp, bool pass_over = false) {
  const auto pick = [](std::uint32_t set) { return s.reversed ? 31 - std::countl_zero(set) : std::countr_zero(set); };
  int w = from_warp;
  if (s.warps[w].ready == 0 || pass_over) {
    const std::uint32_t others = s.ready_warps & ~(1u << w);
    if (others == 0) return -1;
    // The next one in this launch's direction, cyclically.
    const std::uint32_t turned = s.reversed ? std::rotl(others, 31 - w) : std::rotr(others, w);
    w = (w + (s.reversed ? pick(turned) - 31 : pick(turned)) + kMaxWarps) % kMaxWarps;
  }
  return w * 32 + pick(s.warps[w].ready);
}

void mark_ready(int thread) {
  s.fibers[thread].waits_for = nullptr;
  s.warps[thread / 32].ready |= 1u << thread % 32;
  s.ready_warps |= 1u << thread / 32;
}

void mark_waiting(int thread) {
  Warp& w = s.warps[thread / 32];
  w.ready &= ~(1u << thread % 32);
  if (w.ready == 0) s.ready_warps &= ~(1u << thread / 32);
}

void enter(int thread) {
  s.running = thread;
  thread_index = {static_cast<unsigned>(thread), 0, 0};
}

/// Leaves the running thread, which is not ready; comes back when it was picked again.
void leave() {
  const int me = s.running, next = next_thread(me / 32);
  if (next == me) return;
  if (next >= 0) {
    enter(next);
    chitu_emulated_switch(&s.fibers[me].stack, s.fibers[next].stack);
  } else {
    s.running = -1;
    chitu_emulated_switch(&s.fibers[me].stack, s.scheduler);
  }
}

void complete(Barrier& b) {
  for (int t : b.waiting) mark_ready(t);
  b.waiting.clear();
  b.arrived = b.wanted = 0;
}

/// __syncthreads waits for those that have not ended.
void recheck_block_barrier() {
  Barrier& b = s.barriers[0];
  if (b.arrived > 0 && b.arrived >= s.live) complete(b);
}

void thread_main() {
  s.body(s.argument);
  const int me = s.running;
  Warp& w = s.warps[me / 32];
  if (w.arrived > 0) fault("ends while other lanes of its warp wait in %s", w.name);
  for (const Unit& unit : units())
    if (unit.thread_ends != nullptr) unit.thread_ends();
  s.fibers[me].live = false;
  w.live &= ~(1u << me % 32);
  --s.live;
  mark_waiting(me);
  recheck_block_barrier();
  leave();
  __builtin_unreachable();
}

std::string deadlock() {
  std::map<std::pair<std::string, std::uint64_t>, std::vector<int>> groups;
  for (int t = 0; t < static_cast<int>(block_size.x); ++t)
    if (s.fibers[t].live) groups[{s.fibers[t].waits_for == nullptr ? "nothing" : s.fibers[t].waits_for, s.fibers[t].detail}].push_back(t);
  std::string text = "no thread of block " + std::to_string(block_index.x) + " can go on:";
  for (const auto& [what, threads] : groups) {
    char line[160];
    std::snprintf(line, sizeof line, " %zu threads (%d..%d) wait for %s %#llx;", threads.size(), threads.front(), threads.back(), what.first.c_str(),
                  static_cast<unsigned long long>(what.second));
    text += line;
  }
  return text;
}

/// Static shared memory is thread-local: the executable's part of this thread's.
std::pair<char*, std::size_t> static_shared() {
  std::pair<char*, std::size_t> found{nullptr, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* to) {
        for (int i = 0; i < info->dlpi_phnum; ++i)
          if (info->dlpi_phdr[i].p_type == PT_TLS && info->dlpi_tls_data != nullptr)
            *static_cast<std::pair<char*, std::size_t>*>(to) = {static_cast<char*>(info->dlpi_tls_data), info->dlpi_phdr[i].p_memsz};
        return 1;  // the first is the executable
      },
      &found);
  return found;
}

void start_block(unsigned index, int threads, std::pair<char*, std::size_t> statics) {
  block_index = {index, 0, 0};
  std::memset(window, poison(), sizeof window);
  std::memset(statics.first, poison(), statics.second);
  for (Barrier& b : s.barriers) b.wanted = b.arrived = 0, b.waiting.clear();
  s.ready_warps = 0;
  s.live = threads;
  for (Warp& w : s.warps) w.live = w.ready = 0, w.arrived = 0;
  for (int t = 0; t < threads; ++t) {
    s.fibers[t] = {prepare_stack(t, thread_main), true, nullptr, 0};
    s.warps[t / 32].live |= 1u << t % 32;
    mark_ready(t);
  }
  for (const Unit& unit : units()) unit.reset();
}

void run_block(int threads) {
  while (!s.faulted) {
    const int next = next_thread(s.reversed ? (threads - 1) / 32 : 0);
    if (next >= 0) {
      enter(next);
      chitu_emulated_switch(&s.scheduler, s.fibers[next].stack);
      continue;
    }
    if (s.live == 0) break;
    bool moved = false;
    for (const Unit& unit : units()) moved = moved || (unit.progress != nullptr && unit.progress());
    if (!moved) {
      s.fault = deadlock();
      return;
    }
  }
  if (s.faulted) return;
  const char *behind = window + kDynamicShared + s.shared_bytes, *end = window + sizeof window;
  if (std::any_of(behind, end, [](char c) { return static_cast<unsigned char>(c) != poison(); })) {
    s.fault = "block " + std::to_string(block_index.x) + " wrote behind its " + std::to_string(s.shared_bytes) + " bytes of dynamic shared memory";
  }
}

void run_grid(int threads) {
  const auto statics = static_shared();
  for (unsigned b = 0; b < grid_size.x && s.fault.empty(); ++b) {
    const unsigned index = s.reversed ? grid_size.x - 1 - b : b;
    try {
      start_block(index, threads, statics);
      run_block(threads);
    } catch (const Ended&) {}
  }
}

}  // namespace

const std::string& last_fault() { return s.fault; }
bool reversed() { return s.reversed; }
bool modest() { return s.modest; }
unsigned char poison() { return s.reversed ? 0xFF : 0x5A; }
void add_unit(const Unit& unit) { units().push_back(unit); }

cudaError_t launch(std::int64_t blocks, int threads, std::int64_t shared, void (*body)(void*), void* argument) {
  const std::lock_guard lock(launching);
  if (blocks < 0 || blocks > 0x7fffffff || threads < 1 || threads > kMaxThreads || shared < 0 || shared > gpu().shared_bytes)
    return cudaErrorInvalidConfiguration;
  // Not by turns: calls of an even number of launches would meet one order only.
  const std::uint32_t mode = ++s.launches * 0x9e3779b1u >> 30;
  s.reversed = (mode & 1) != 0;
  s.modest = (mode & 2) != 0;
  s.faulted = false;
  s.fault.clear();
  s.body = body;
  s.argument = argument;
  s.shared_bytes = static_cast<std::uint32_t>(shared);
  grid_size = {static_cast<unsigned>(blocks), 1, 1};
  block_size = {static_cast<unsigned>(threads), 1, 1};
  std::thread(run_grid, threads).join();  // a thread of its own, because its thread-local memory is poisoned
  return s.fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

void fault(const char* format, ...) {
  char text[400];
  std::va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  s.faulted = true;
  if (s.running < 0) {
    s.fault = "block " + std::to_string(block_index.x) + ": " + text;
    throw Ended();
  }
  s.fault = "thread " + std::to_string(s.running) + " of block " + std::to_string(block_index.x) + ": " + text;
  void* abandoned = nullptr;
  s.running = -1;
  chitu_emulated_switch(&abandoned, s.scheduler);
  __builtin_unreachable();
}

void wait_for(const char* what, std::uint64_t detail) {
  Fiber& me = s.fibers[s.running];
  me.waits_for = what;
  me.detail = detail;
  mark_waiting(s.running);
  leave();
}

void wake(int thread) { mark_ready(thread); }

void let_others_run() {
  const int me = s.running, next = next_thread(me / 32, true);
  if (next < 0) return;
  enter(next);
  chitu_emulated_switch(&s.fibers[me].stack, s.fibers[next].stack);
}

namespace {
/// Counts the running thread; true when it was the last.
bool arrive_at(int id, int threads) {
  if (id < 0 || id >= kBarriers) fault("named barrier %d: there are %d", id, kBarriers);
  Barrier& b = s.barriers[id];
  if (threads % 32 != 0) fault("named barrier %d for %d threads: wants whole warps", id, threads);
  if (b.arrived > 0 && b.wanted != threads) fault("named barrier %d for %d threads, others wait there for %d", id, threads, b.wanted);
  b.wanted = threads;
  if (++b.arrived < (threads == 0 ? s.live : threads)) return false;
  complete(b);
  return true;
}
}  // namespace

void barrier_sync(int id, int threads) {
  if (arrive_at(id, threads)) return;
  s.barriers[id].waiting.push_back(s.running);
  wait_for(threads == 0 ? "__syncthreads" : "named barrier", static_cast<std::uint64_t>(id));
}

void collective(const char* name, Execute execute, void* operand) {
  const int me = s.running;
  Warp& w = s.warps[me / 32];
  if (w.live != ~0u) fault("%s in a warp of which lanes have ended (%#x are left)", name, w.live);
  if (w.arrived > 0 && w.name != name) fault("%s while other lanes of its warp are in %s", name, w.name);
  w.operands[me % 32] = operand;
  w.name = name;
  w.execute = execute;
  if (++w.arrived < 32) return wait_for(name, 0);
  execute(w.operands);
  w.arrived = 0;
  for (int l = 0; l < 32; ++l)
    if (l != me % 32) mark_ready(me / 32 * 32 + l);
}

char* dynamic_shared() { return window + kDynamicShared; }

std::uint32_t shared_address(const void* p) {
  const std::ptrdiff_t at = static_cast<const char*>(p) - window;
  if (at < 0 || at >= static_cast<std::ptrdiff_t>(kSharedWindow)) fault("%p is not in dynamic shared memory", p);
  return static_cast<std::uint32_t>(at);
}

char* shared_memory(std::uint32_t address, std::uint32_t bytes, std::uint32_t alignment, const char* instruction) {
  if (address % alignment != 0) fault("%s: address %#x is not a multiple of %u", instruction, address, alignment);
  if (address < kDynamicShared || std::uint64_t{address} + bytes > kDynamicShared + s.shared_bytes) {
    fault("%s: %u bytes at %#x are not in the %u bytes of shared memory from %#x on", instruction, bytes, address, s.shared_bytes, kDynamicShared);
  }
  return window + address;
}

}  // namespace chitu::emulated
