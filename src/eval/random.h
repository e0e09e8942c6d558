#pragma once

// Counter-based random numbers: element i of stream s is a pure function of (seed, s, i), so any machine, thread count or order gives the same bits.
// The normal uses only IEEE +, -, *, / and sqrt of doubles (own series for log, sin and cos): libm differs between systems, these operations do not.

#include <array>
#include <cstdint>

namespace chitu::eval {

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

/// A sequence of numbers named by (seed, stream); every member may be asked for in any order.
class Random {
 public:
  Random(std::uint64_t seed, std::uint32_t stream) : seed_(seed), stream_(stream) {}
  std::uint32_t bits(std::uint64_t i) const;
  double uniform(std::uint64_t i) const;                  ///< in (0, 1)
  double normal(std::uint64_t i) const;                   ///< N(0, 1), |x| < 6.8
  std::array<double, 4> normals4(std::uint64_t i) const;  ///< normal(4i) .. normal(4i + 3)
  double student_t3(std::uint64_t i) const;               ///< Student's t with 3 degrees of freedom divided by sqrt(3): unit variance

 private:
  std::uint64_t seed_;
  std::uint32_t stream_;
};

/// out[i] = Random(seed, stream).normal(i), 0 <= i < n, on `threads` threads (0 = one per core).
void fill_normal(float* out, std::int64_t n, std::uint64_t seed, std::uint32_t stream, int threads = 0);

/// cos and sin of 2*pi*turns, and 2^x, from the same basic operations.
std::array<double, 2> cos_sin_turns(double turns);
double exp2_exact_ops(double x);

}  // namespace chitu::eval
