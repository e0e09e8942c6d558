// Other schedules of `chitu` at head_dim 64. Names: warpgroups, order of work, eighths of the exponentials that come from multiply-adds.
#include "sm90_schedules.cuh"

std::vector<Variant> schedule_variants_d64() {
  using chitu::cuda::sm90::Order;
  return {
      schedule<64, 3, Order::optimistic, 0>("d64_3_optimistic"),
      schedule<64, 3, Order::optimistic, 1>("d64_3_optimistic_poly1"),
      schedule<64, 3, Order::optimistic, 2>("d64_3_optimistic_poly2"),
      schedule<64, 3, Order::halves, 0>("d64_3_halves"),
      schedule<64, 3, Order::halves, 1>("d64_3_halves_poly1"),
      schedule<64, 3, Order::halves, 2>("d64_3_halves_poly2"),
      schedule<64, 2, Order::in_turn, 0>("d64_2_pair"),
      schedule<64, 2, Order::in_turn, 1>("d64_2_pair_poly1"),
      schedule<64, 2, Order::in_turn, 2>("d64_2_pair_poly2"),
  };
}
