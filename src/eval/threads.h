#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace chitu::eval {

/// body(i) for i in [0, n) on `threads` threads (0 = one per core), static interleaving: results must not depend on it. Throws what a body threw.
template <class Body>
void parallel_for(std::int64_t n, int threads, const Body& body) {
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int used = static_cast<int>(std::min<std::int64_t>(threads, n));
  std::mutex mutex;
  std::exception_ptr failure;
  auto run = [&](int t) {
    try {
      for (std::int64_t i = t; i < n; i += used) body(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < used; ++t) pool.emplace_back(run, t);
  if (used > 0) run(0);
  for (auto& t : pool) t.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace chitu::eval
