#pragma once

// What every CPU row shares: where the sequences lie, how work is cut into items, where the 8-bit copies of K and V are.

#include <cstdint>

#include "core/kernel.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace chitu::cpu {

inline std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
inline std::int64_t tiles_of(std::int64_t keys) { return (keys + kTile - 1) / kTile; }
Elem elem_of(DType t);

/// Layout of a tile; without V codes dv is 0.
TileLayout tile_layout(std::int64_t head_dim, std::int64_t head_dim_v, bool v_codes);

/// Scratch memory per thread, as many slots as the workspace holds: the number of threads may have changed since it was measured.
class ThreadScratch {
 public:
  ThreadScratch(core::Workspace& ws, std::int64_t bytes);
  int slots() const { return slots_; }
  void* operator[](int slot) const { return memory_ + slot * bytes_; }

 private:
  std::int64_t bytes_;
  int slots_;
  char* memory_;
};

/// The sequences of a call, and its attention work: items of `rows_per_item` rows of one sequence and KV head. Rows of the heads of a GQA group that
/// belong to one query stand next to each other.
class Work {
 public:
  struct Sequence {
    core::SequenceRange range;
    std::int64_t first_item, first_tile;  // tiles: per KV head, counted over all sequences before
  };
  struct Item {
    std::int64_t sequence, head, index;
  };
  Work(const core::Call& call, core::Workspace& ws, int rows_per_item);
  void fill();  ///< reads the sequence arrays; not while measuring

  const Sequence& sequence(std::int64_t b) const { return sequences_[b]; }
  std::int64_t items() const { return sequences_[problem_.batch].first_item; }
  std::int64_t tiles() const { return sequences_[problem_.batch].first_tile; }
  /// Upper bound from the Problem alone: what memory is taken for.
  std::int64_t max_tiles() const;
  Item item(std::int64_t i) const;  ///< heads outermost, long rows of a causal head first
  /// Tile number `t` of tiles() as (sequence, tile of it).
  Item tile(std::int64_t t) const;

  Rows q_rows(std::int64_t sequence, std::int64_t head) const;  ///< of a query head
  Rows k_rows(std::int64_t sequence, std::int64_t head) const { return rows_of(args_.k, sequence, head); }
  Rows v_rows(std::int64_t sequence, std::int64_t head) const { return rows_of(args_.v, sequence, head); }
  /// Everything of AttendArgs but the 8-bit side.
  AttendArgs attend_args(const Item& item) const;

 private:
  Rows rows_of(const ConstTensorView& view, std::int64_t sequence, std::int64_t head) const;
  const core::Problem& problem_;
  const AttentionArgs& args_;
  Sequence* sequences_;  // [batch + 1]
  int rows_per_item_;
};

}  // namespace chitu::cpu
