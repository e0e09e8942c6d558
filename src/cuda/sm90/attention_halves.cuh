// Two halves of every key tile in turn: while the weights of one are made, S of the next and PV of the one before run. The registers of half a tile are few
// enough for three warpgroups at head_dim 64. Of method `chitu`.
#pragma once
#include "attention.cuh"

namespace chitu::cuda::sm90 {

template <class T>
struct HalvesConsumer : Consumer<T> {
  static_assert(T::kOrder == Order::halves);
  using Base = Consumer<T>;
  using Base::Base, Base::bar, Base::phase, Base::o, Base::packed, Base::release;
  using typename Base::Score;
  Score s[2][T::kScores];  // of a tile's halves

  template <bool kMasked, int kStage>
  __device__ __forceinline__ void step(const Work& w, int n) {
    this->template next_tile<kStage>();
    this->template softmax<kMasked, kStage, 0>(w, n, s[0], [&] {
      this->template issue_qk<kStage, 1>(s[1]);
      this->template issue_pv<kStage ^ 1, 1>();
      return issued<kStage>();
    });
    end_products<1>();
    release(&bar.v_empty[kStage ^ 1]);
    this->rescale();
    ptx::mbarrier_wait(&bar.v_full[kStage], phase);
    second_half<kMasked, kStage>(w, n);
  }

  // S of the next tile's first half, behind the last tile in vain, of whatever lies there: a branch would serialize the products.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void second_half(const Work& w, int n) {
    if (n > w.n_begin) ptx::mbarrier_wait(&bar.k_full[this->template k_stage<kStage, true>()], this->template k_parity<kStage, true>());
    this->template softmax<kMasked, kStage, 1>(w, n, s[1], [&] {
      this->template issue_qk<kStage, 0, true>(s[0]);
      this->template issue_pv<kStage, 0>();
      return issued<kStage>();
    });
    release(&bar.k_empty[this->template k_stage<kStage>()]);
    if (n > w.n_begin) this->fetch_tile(n - 1);
    end_products<0>();
    this->rescale();
  }

  template <int kStage>
  __device__ __forceinline__ bool issued() {
    return ptx::mbarrier_test(&bar.k_full[this->template k_stage<kStage>()], this->template k_parity<kStage>());
  }

  template <int kHalf>
  __device__ __forceinline__ void end_products() {
    ptx::wgmma_wait<0>();
    ptx::pin(s[kHalf]);
    ptx::pin(o);
    ptx::pin(packed[kHalf]);
  }

  __device__ __forceinline__ void first_tile(const Work& w, int n) {
    this->template next_tile<0>();
    ptx::mbarrier_wait(&bar.k_full[this->template k_stage<0>()], this->template k_parity<0>());
    this->template issue_qk<0, 0>(s[0]);
    this->template issue_qk<0, 1>(s[1]);
    ptx::wgmma_wait<0>();
    ptx::pin(s[0]);
    ptx::pin(s[1]);
    this->template first_softmax<true, 0>(w, n, s[0]);
    ptx::mbarrier_wait(&bar.v_full[0], phase);
    this->clear_value_tail(w, n);
    second_half<true, 0>(w, n);
  }

  __device__ __forceinline__ void run(const Work& w) {
    this->reset(w);
    if (w.n_end <= w.n_begin) return;
    this->begin(w);
    this->walk(*this, w);
    if ((w.n_end - w.n_begin) % 2) {
      this->template last_pv<0, 1>();
      this->skip_stage();
    } else {
      this->template last_pv<1, 1>();
    }
    this->leave_bias_group();
  }
};

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    attention_halves_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ WorkShape shape, const __grid_constant__ TensorMaps maps) {
  run_roles<T, HalvesConsumer<T>>(p, shape, maps);
}

}  // namespace chitu::cuda::sm90
