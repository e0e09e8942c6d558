#include "emulated/async.h"

#include <cstring>
#include <deque>
#include <vector>

#include "emulated/block.h"
#include "emulated/fiber.h"

namespace chitu::emulated {
namespace {

struct Copy {
  char* to;
  const void* from;
  int bytes;
};

struct ThreadCopies {
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

ThreadCopies threads[kMaxThreads];

void land(const std::vector<Copy>& group) {
  for (const Copy& c : group) {
    if (c.bytes > 0) std::memcpy(c.to, c.from, static_cast<std::size_t>(c.bytes));
    std::memset(c.to + c.bytes, 0, static_cast<std::size_t>(16 - c.bytes));
  }
}

void reset() {
  for (ThreadCopies& t : threads) t.open.clear(), t.groups.clear();
}

void thread_ends() {
  const ThreadCopies& t = threads[thread()];
  if (!t.open.empty()) fault("ends with %zu copies of cp.async that were never committed", t.open.size());
  for (const auto& group : t.groups)
    if (!group.empty()) fault("ends without waiting for its cp.async");
}

[[maybe_unused]] const bool added = (add_unit({reset, nullptr, thread_ends}), true);

}  // namespace

void copy_async(std::uint32_t to, const void* from, int bytes) {
  char* at = shared_memory(to, 16, 16, "cp.async");
  if (bytes < 0 || bytes > 16) fault("cp.async of %d bytes", bytes);
  if (bytes > 0 && reinterpret_cast<std::uintptr_t>(from) % 16 != 0) fault("cp.async from %p, which is not a multiple of 16", from);
  std::memset(at, poison(), 16);
  threads[thread()].open.push_back({at, from, bytes});
}

void copy_commit() {
  ThreadCopies& t = threads[thread()];
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void copy_wait(int pending) {
  ThreadCopies& t = threads[thread()];
  while (t.groups.size() > static_cast<std::size_t>(pending)) {
    land(t.groups.front());
    t.groups.pop_front();
  }
}

}  // namespace chitu::emulated
