#include "peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "chitu/chitu.h"

namespace chitu::cli {
namespace {

/// All threads at once, as the kernels run: cores that share a clock or a thermal budget are slower together. The best of several short rounds.
double dot_peak_tflops(int threads) {
  constexpr int kRounds = 5;
  constexpr auto kLength = std::chrono::milliseconds(40);
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<double> rates(static_cast<size_t>(threads), 0.0);
    std::atomic<int> ready{0};
    std::vector<std::thread> pool;
    pool.reserve(static_cast<size_t>(threads));
    for (int t = 0; t < threads; ++t) {
      pool.emplace_back([&, t] {
        ready.fetch_add(1);
        while (ready.load() < threads) std::this_thread::yield();
        const auto begin = std::chrono::steady_clock::now();
        auto now = begin;
        int64_t operations = 0;
        while (now - begin < kLength) {
          operations += cpu_dot_peak(100000);
          now = std::chrono::steady_clock::now();
        }
        rates[static_cast<size_t>(t)] = static_cast<double>(operations) / std::chrono::duration<double>(now - begin).count();
      });
    }
    for (std::thread& thread : pool) thread.join();
    double sum = 0;
    for (const double rate : rates) sum += rate;
    best = std::max(best, sum * 1e-12);
  }
  return best;
}

}  // namespace

std::optional<Peak> measured_peak(Device device) {
  if (device.type != DeviceType::cpu) return std::nullopt;
  static const double tflops = dot_peak_tflops(num_threads());
  return Peak{"8-bit dot products on registers", tflops};
}

}  // namespace chitu::cli
