// Other schedules of `chitu` at head_dim 128. Names: warpgroups, order of work, eighths of the exponentials that come from multiply-adds.
#include "sm90_schedules.cuh"

std::vector<Variant> schedule_variants_d128() {
  using chitu::cuda::sm90::Order;
  return {
      schedule<128, 2, Order::overlapped, 1>("d128_2_poly1"),
      schedule<128, 2, Order::overlapped, 2>("d128_2_poly2"),
  };
}
