#include "cpu/parallel.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "chitu/error.h"
#include "core/check.h"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace chitu {
namespace cpu {
namespace {

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}
constexpr int kSpins = 2000;  // about 20 us: longer than the gap between the runs of one call, shorter than anyone would notice

/// What the threads of a run share.
struct Run {
  Body body;
  std::int64_t n;
  int slots;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex error_mutex;
  std::exception_ptr error;

  void work(int slot) {
    if (slot >= slots) return;
    for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
      if (failed.load(std::memory_order_relaxed)) continue;  // drain the counter
      try {
        body.call(body.context, i, slot);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
        failed.store(true, std::memory_order_relaxed);
      }
    }
  }
};

class Pool {
 public:
  explicit Pool(int threads) {
    // The workers inherit this mask: a program's signal handlers run on its own threads, never on these.
    // What a thread's own fault or a profiler raises stays open.
    sigset_t held, before;
    sigfillset(&held);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGPROF}) sigdelset(&held, own);
    pthread_sigmask(SIG_SETMASK, &held, &before);
    std::exception_ptr error;
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { loop(i); });
    } catch (...) {  // the system has no more threads
      error = std::current_exception();
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!error) return;
    end();
    std::rethrow_exception(error);
  }
  ~Pool() { end(); }
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // A worker that wakes late finds the run closed and is not waited for: on a busy machine the caller would otherwise sleep behind it.
  void run(Run& r) {
    run_.store(&r);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    r.work(0);
    run_.store(nullptr);  // sequentially consistent, as are the worker's two: it sees null, or this thread sees it inside
    for (int spin = 0;; ++spin) {
      const int inside = inside_.load();
      if (inside == 0) return;
      if (spin < kSpins) pause_cpu();
      else inside_.wait(inside);
    }
  }

 private:
  void end() {
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (auto& w : workers_) w.join();
  }
  void loop(int slot) {
    for (unsigned seen = 0;;) {
      for (int spin = 0; generation_.load(std::memory_order_acquire) == seen; ++spin) {
        if (spin < kSpins) pause_cpu();
        else generation_.wait(seen, std::memory_order_acquire);
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      inside_.fetch_add(1);
      if (Run* r = run_.load()) r->work(slot);
      if (inside_.fetch_sub(1) == 1) inside_.notify_all();
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> inside_{0};
  std::atomic<bool> stop_{false};
  std::atomic<Run*> run_{nullptr};
};

int default_threads() {
  if (const char* text = std::getenv("CHITU_NUM_THREADS")) {
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    CHITU_CHECK(end != text && *end == '\0' && n >= 0 && n <= 4096, "environment CHITU_NUM_THREADS: want a number 0..4096 (0 = default), got '", text, "'");
    if (n > 0) return static_cast<int>(n);
  }
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

struct Settings {
  std::mutex mutex;              // guards the rest
  int threads = 0;               // 0: default
  ParallelFor injected;
  std::unique_ptr<Pool> pool;
  std::mutex running;            // one run at a time owns the pool; another caller works alone
};
Settings& settings() {
  static Settings s;
  return s;
}
int threads_of(const Settings& s) {
  static const int automatic = default_threads();
  return s.threads > 0 ? s.threads : automatic;
}
thread_local bool inside_run = false;

}  // namespace

int parallel_slots() {
  Settings& s = settings();
  const std::lock_guard<std::mutex> lock(s.mutex);
  return threads_of(s);
}

void parallel_run_body(std::int64_t n, int max_slots, Body body) {
  if (n <= 0) return;
  Run run{body, n, max_slots, {}, {}, {}, {}};
  Settings& s = settings();
  ParallelFor injected;
  Pool* pool = nullptr;
  int slots = 1;
  std::unique_lock<std::mutex> running(s.running, std::defer_lock);
  {
    const std::lock_guard<std::mutex> lock(s.mutex);
    slots = threads_of(s);
    injected = s.injected;
    if (!injected && slots > 1 && n > 1 && !inside_run && running.try_lock()) {
      if (!s.pool || s.pool->size() != slots) {
        s.pool.reset();
        s.pool = std::make_unique<Pool>(slots);
      }
      pool = s.pool.get();
    }
  }
  if (injected) {
    // one iteration per slot; each drains the shared counter, so that an iteration is a slot whoever runs it
    injected(std::min<std::int64_t>(std::min(slots, max_slots), n), [&](std::int64_t slot) { run.work(static_cast<int>(slot)); });
  } else if (pool != nullptr) {
    inside_run = true;
    pool->run(run);
    inside_run = false;
  } else {
    run.work(0);
  }
  if (run.error) std::rethrow_exception(run.error);
}

}  // namespace cpu

void set_num_threads(int n) {
  cpu::Settings& s = cpu::settings();
  const std::lock_guard<std::mutex> running(s.running);
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.threads = n > 0 ? n : 0;
}
int num_threads() { return cpu::parallel_slots(); }
void set_parallel_for(ParallelFor parallel_for) {
  cpu::Settings& s = cpu::settings();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.injected = std::move(parallel_for);
}

}  // namespace chitu
