// One CTA: a producer warpgroup and consumers of class C, from the barriers to the last piece of work.
#pragma once
#include "consumer.cuh"
#include "cuda/device/ptx/shared.cuh"

namespace chitu::cuda::sm90 {

template <class T, class C>
__device__ __forceinline__ void consume(const AttentionParams& p, char* smem, Barriers& bar, int warpgroup, int warp, int lane) {
  C consumer(p, smem, bar, warpgroup, warp, lane);
  RingState<2> work_ring;
  Work w;
  bool more = next_work(bar, work_ring, w);
  if (more) consumer.prepare(w);
  while (more) {
    consumer.run(w);
    const Work done = w;
    const int row = consumer.row;
    more = next_work(bar, work_ring, w);
    if (more) consumer.prepare(w);  // its loads are on their way during what follows
    consumer.finish(done, row);
  }
}

template <class T>
__device__ __forceinline__ void init_barriers(Barriers& bar) {
  constexpr int kConsumers = T::kWarpgroups * 128, kBiasLanes = kBiasWarps * 32;
  constexpr int kReaders = kConsumers + (T::kTileBias ? kBiasLanes : 0);
  ptx::mbarrier_init(&bar.q_full, 1);
  ptx::mbarrier_init(&bar.q_empty, kConsumers);
  ptx::mbarrier_init(&bar.q16_full, 1);
  for (int i = 0; i < T::kStages; ++i) {
    ptx::mbarrier_init(&bar.k_full[i], 1);
    ptx::mbarrier_init(&bar.k_empty[i], kConsumers);
    if (i >= T::kVStages) continue;
    ptx::mbarrier_init(&bar.v_full[i], 1);
    ptx::mbarrier_init(&bar.v_empty[i], kConsumers / 32);
  }
  for (int i = 0; i < 2; ++i) {
    ptx::mbarrier_init(&bar.bias_full[i], kBiasLanes);
    ptx::mbarrier_init(&bar.bias_empty[i], kConsumers);
    ptx::mbarrier_init(&bar.work_full[i], 1);
    ptx::mbarrier_init(&bar.work_empty[i], kReaders);
  }
  ptx::fence_barrier_init();
}

template <class T, class C>
__device__ __forceinline__ void run_roles(const AttentionParams& p, const WorkShape& shape, const TensorMaps& maps) {
  CHITU_DYNAMIC_SHARED(char, 16, smem_raw);
  char* smem = smem_raw + ((1024 - (ptx::smem_u32(smem_raw) & 1023)) & 1023);
  Barriers& bar = *reinterpret_cast<Barriers*>(smem + T::kBarrierOffset);
  int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) init_barriers<T>(bar);
  C::init_shared(smem);
  __syncthreads();
  if (warp < 4) {
    ptx::setmaxnreg_dec<T::kProducerRegisters>();
    if (warp == 0) {
      if (lane == 0) produce<T>(p, shape, maps, smem, bar);
    } else if (T::kTileBias) {
      make_bias<T>(p, maps, smem, bar, warp, lane);
    }
  } else {
    ptx::setmaxnreg_inc<T::kConsumerRegisters>();
    consume<T, C>(p, smem, bar, warp / 4 - 1, warp % 4, lane);
  }
}

}  // namespace chitu::cuda::sm90
