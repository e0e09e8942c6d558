#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace chitu {

/// Element types. boolean is one byte, nonzero = true, and only legal for dense masks.
enum class DType : std::uint8_t { f32, f16, bf16, boolean };

/// Bytes of one element.
constexpr std::size_t dtype_size(DType t) { return t == DType::f32 ? 4 : t == DType::boolean ? 1 : 2; }
/// "f32", "f16", "bf16", "bool".
constexpr const char* dtype_name(DType t) { return t == DType::f32 ? "f32" : t == DType::f16 ? "f16" : t == DType::bf16 ? "bf16" : "bool"; }

enum class DeviceType : std::uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;  ///< CUDA ordinal; 0 on the CPU
  friend constexpr bool operator==(Device a, Device b) { return a.type == b.type && a.index == b.index; }
  friend constexpr bool operator!=(Device a, Device b) { return !(a == b); }
};

/// cudaStream_t on CUDA, ignored on the CPU. Opaque, so that no header needs CUDA.
using Stream = void*;

/// Non-owning strided view. Layout is strides (in elements), never an enum: BSHD, BHSD and SBHD are one type. Stride 0 broadcasts.
template <class Ptr, int Rank>
struct BasicView {
  Ptr data = nullptr;
  DType dtype = DType::f32;
  Device device{};
  std::array<std::int64_t, Rank> shape{};
  std::array<std::int64_t, Rank> stride{};
};

/// q, k, v, out: [batch, seqlen, num_heads, head_dim], stride 1 along head_dim. Masks: [batch, num_heads_q, seqlen_q, seqlen_k].
using TensorView = BasicView<void*, 4>;
using ConstTensorView = BasicView<const void*, 4>;
/// [batch, num_heads_q, seqlen_q], f32, any strides; packed sequences: [1, num_heads_q, total_q]. The dtype field must be f32.
using LseView = BasicView<float*, 3>;

/// Contiguous view with the given shape, the last dimension fastest ("bshd" when the shape is [batch, seqlen, num_heads, head_dim]).
template <class Ptr, int Rank>
BasicView<Ptr, Rank> contiguous_view(Ptr data, DType dtype, const std::array<std::int64_t, Rank>& shape, Device device = {}) {
  BasicView<Ptr, Rank> v{data, dtype, device, shape, {}};
  std::int64_t stride = 1;
  for (int i = Rank - 1; i >= 0; --i) {
    v.stride[i] = stride;
    stride *= shape[i];
  }
  return v;
}

/// The same memory read as [batch, num_heads, seqlen, head_dim] ("bhsd") seen as [batch, seqlen, num_heads, head_dim].
template <class Ptr>
BasicView<Ptr, 4> from_bhsd(BasicView<Ptr, 4> v) {
  std::swap(v.shape[1], v.shape[2]);
  std::swap(v.stride[1], v.stride[2]);
  return v;
}

}  // namespace chitu
