#pragma once

// The library's thread pool. Persistent threads that spin briefly and then sleep; a run is one generation with one atomic work counter, the caller
// takes part, and there is no barrier inside. A body learns which of num_threads() slots it runs in, for its scratch memory.

#include <cstdint>
#include <type_traits>

#include "chitu/attention.h"

namespace chitu::cpu {

/// Function reference: no allocation on the way to the threads.
struct Body {
  void (*call)(void* context, std::int64_t item, int slot);
  void* context;
};

/// Slots a run uses unless it is given fewer; scratch memory is sized by it.
int parallel_slots();
/// body(item, slot) for every item of [0, n) in at most `slots` slots; returns when all are done. No two items run in one slot at the same time.
/// The first exception is rethrown.
void parallel_run_body(std::int64_t n, int slots, Body body);

template <class Fn>
void parallel_run(std::int64_t n, int slots, Fn&& fn) {
  using Plain = std::remove_reference_t<Fn>;
  parallel_run_body(n, slots, {[](void* context, std::int64_t item, int slot) { (*static_cast<Plain*>(context))(item, slot); }, &fn});
}

}  // namespace chitu::cpu
