// The kernels of one row at one head_dim bucket, chosen by variant.
#pragma once
#include "cuda/sm80/attention.cuh"
#include "cuda/sm80/launch.h"

namespace chitu::cuda::sm80 {

template <class T>
AttentionKernel describe() {
  return {attention_kernel<T>, kThreads, 2, T::kStageBytes};
}

template <int kHeadDim>
AttentionKernel f16_f16(Variant v) {
  return v == Variant::bf16 ? describe<Traits<Qk::bf16, Pv::bf16, kHeadDim, 64>>() : describe<Traits<Qk::f16, Pv::f16, kHeadDim, 64>>();
}
template <int kHeadDim>
AttentionKernel int8_f16(Variant v) {
  if (v == Variant::int8_f16_f16) return describe<Traits<Qk::s8, Pv::f16_f16, kHeadDim, 64>>();
  return v == Variant::int8_bf16 ? describe<Traits<Qk::s8, Pv::bf16, kHeadDim, 128>>() : describe<Traits<Qk::s8, Pv::f16, kHeadDim, 128>>();
}
template <int kHeadDim>
AttentionKernel int8_f8(Variant v) {
  return v == Variant::int8_e4m3_64 ? describe<Traits<Qk::s8, Pv::e4m3, kHeadDim, 64>>() : describe<Traits<Qk::s8, Pv::e4m3, kHeadDim, 128>>();
}
template <int kHeadDim>
AttentionKernel int8_i8(Variant v) {
  return v == Variant::int8_s8 ? describe<Traits<Qk::s8, Pv::s8, kHeadDim, 128>>() : describe<Traits<Qk::s8, Pv::u8, kHeadDim, 128>>();
}

}  // namespace chitu::cuda::sm80
