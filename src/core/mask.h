#pragma once

// Band mask of one sequence: key j is visible to query i iff i + diagonal - left <= j <= i + diagonal + right.

#include <cstdint>

#include "core/hd.h"

namespace chitu::core {

/// No limit on one side. Small enough that i + diagonal +- kNoLimit cannot overflow.
constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;

/// As the caller gave it: the diagonal may still depend on the sequence.
struct MaskParams {
  std::int64_t left = kNoLimit, right = kNoLimit;
  std::int64_t diagonal = 0;
  bool bottom_right = true;  ///< diagonal = seqlen_k - seqlen_q of each sequence
  CHITU_HD bool any() const { return left < kNoLimit || right < kNoLimit; }
  CHITU_HD friend bool operator==(const MaskParams& a, const MaskParams& b) {
    return a.left == b.left && a.right == b.right && a.diagonal == b.diagonal && a.bottom_right == b.bottom_right;
  }
};

struct KeyRange {
  std::int64_t begin, end;
};

/// The mask of one sequence with its lengths.
struct Band {
  std::int64_t left, right, diagonal, seqlen_k;

  CHITU_HD Band(const MaskParams& m, std::int64_t seqlen_q, std::int64_t seqlen_k_)
      : left(m.left), right(m.right), diagonal(m.bottom_right ? seqlen_k_ - seqlen_q : m.diagonal), seqlen_k(seqlen_k_) {}

  /// Keys visible to query i: [begin, end), both within 0..seqlen_k; begin == end when there is none.
  CHITU_HD KeyRange keys(std::int64_t i) const {
    std::int64_t b = i + diagonal - left, e = i + diagonal + right + 1;
    if (b < 0) b = 0;
    if (b > seqlen_k) b = seqlen_k;
    if (e > seqlen_k) e = seqlen_k;
    return {b, e < b ? b : e};
  }
  /// Smallest range that holds the keys of all queries in [i0, i1).
  CHITU_HD KeyRange keys(std::int64_t i0, std::int64_t i1) const {
    std::int64_t b = i0 + diagonal - left, e = i1 - 1 + diagonal + right + 1;
    if (b < 0) b = 0;
    if (b > seqlen_k) b = seqlen_k;
    if (e > seqlen_k) e = seqlen_k;
    return {b, e < b ? b : e};
  }
  /// Every key of [j0, j1) is visible to every query of [i0, i1).
  CHITU_HD bool full(std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1) const {
    return j1 <= seqlen_k && j0 >= i1 - 1 + diagonal - left && j1 - 1 <= i0 + diagonal + right;
  }
};

}  // namespace chitu::core
