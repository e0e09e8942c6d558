// Two tiles of 64 rows in turn in one warpgroup: while the weights of one are made, both products of the other run. So a warp always has exponentials to do,
// and no product is waited for where it would be idle. Of method `chitu`, where two O fit: head_dim 64.
#pragma once
#include "attention.cuh"

namespace chitu::cuda::sm90 {

template <class T>
struct PairConsumer {
  static_assert(T::kOrder == Order::in_turn && T::kInt8Qk);
  using Score = typename T::Score;
  Consumer<T> first, second;  // the rings and their phases are those of `first`
  Score s_first[T::kScores], s_second[T::kScores];

  __device__ __forceinline__ PairConsumer(const AttentionParams& p, char* smem, Barriers& bar, int warpgroup, int warp, int lane)
      : first(p, smem, bar, warpgroup * 2, warp, lane), second(p, smem, bar, warpgroup * 2 + 1, warp, lane) {}

  static __device__ __forceinline__ void init_shared(char*) {}

  // Weights of tile n of the first rows beside PV of tile n + 1 and S of tile n of the second ones; then the other way round, a tile further. S is issued
  // only when PV is done: both at once would need 224 registers.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void step(const Work& w, int n) {
    if constexpr (kStage == 0) first.phase ^= 1;
    const auto issued = [&] { return ptx::mbarrier_test(&first.bar.k_full[kStage], first.phase); };
    first.template softmax<kMasked, kStage>(
        w, n, s_first,
        [&] {
          second.template issue_pv<kStage ^ 1>();
          return issued();
        },
        [&] {
          ptx::mbarrier_wait(&first.bar.v_full[kStage], first.phase);
          end_pv(second);
          first.release(&first.bar.v_empty[kStage ^ 1]);
          second.template issue_qk<kStage>(s_second);
          return issued();
        });
    first.rescale();
    end_qk(s_second);
    second.template softmax<kMasked, kStage>(
        w, n, s_second,
        [&] {
          first.template issue_pv<kStage>();
          return issued();
        },
        [&] {
          wait_next_keys<kStage>(w, n);
          end_pv(first);
          first.template issue_qk<kStage ^ 1>(s_first);  // behind the last tile in vain, of whatever lies there: a branch would serialize the products
          return issued();
        });
    second.rescale();
    leave_keys<kStage>(w, n);
    end_qk(s_first);
  }

  __device__ __forceinline__ void first_tile(const Work& w, int n) {
    first.phase ^= 1;
    ptx::mbarrier_wait(&first.bar.k_full[0], first.phase);
    first.template issue_qk<0>(s_first);
    second.template issue_qk<0>(s_second);
    end_qk(s_first);
    ptx::pin(s_second);
    first.template first_softmax<true, 0>(w, n, s_first);
    second.template first_softmax<true, 0>(w, n, s_second);
    ptx::mbarrier_wait(&first.bar.v_full[0], first.phase);
    first.clear_value_tail(w, n);
    wait_next_keys<0>(w, n);
    first.template issue_pv<0>();
    first.template issue_qk<1>(s_first);
    leave_keys<0>(w, n);
    end_pv(first);
    ptx::pin(s_first);
  }

  static __device__ __forceinline__ void end_pv(Consumer<T>& rows) {
    ptx::wgmma_wait<0>();
    ptx::pin(rows.o);
    ptx::pin(rows.packed[0]);
  }

  static __device__ __forceinline__ void end_qk(Score (&s)[T::kScores]) {
    ptx::wgmma_wait<0>();
    ptx::pin(s);
  }

  template <int kStage>
  __device__ __forceinline__ void wait_next_keys(const Work& w, int n) {
    if (n > w.n_begin) ptx::mbarrier_wait(&first.bar.k_full[kStage ^ 1], first.phase ^ kStage);
  }

  template <int kStage>
  __device__ __forceinline__ void leave_keys(const Work& w, int n) {
    first.release(&first.bar.k_empty[kStage]);
    if (n > w.n_begin) first.fetch_tile(n - 1, second);
  }

  __device__ __forceinline__ void run(const Work& w) {
    first.reset(w);
    second.reset(w);
    if (w.n_end <= w.n_begin) return;
    first.begin(w, second);
    first.walk(*this, w);
    if ((w.n_end - w.n_begin) % 2) {
      second.template last_pv<0>();
      first.skip_stage();
    } else {
      second.template last_pv<1>();
    }
    first.leave_bias_group();
  }

  __device__ __forceinline__ void finish(const Work& w) {
    first.finish(w);
    second.finish(w);
  }
};

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    attention_pair_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ WorkShape shape, const __grid_constant__ TensorMaps maps) {
  run_roles<T, PairConsumer<T>>(p, shape, maps);
}

}  // namespace chitu::cuda::sm90
