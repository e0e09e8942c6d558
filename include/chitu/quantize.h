#pragma once

#include <cstddef>
#include <cstdint>

#include "chitu/export.h"
#include "chitu/method.h"
#include "chitu/tensor.h"

namespace chitu {

/// K and V as a method's kernels read them, with scales and means, in one contiguous caller-owned blob that starts with a 256-byte header naming
/// method, layout and shape: one cache entry, one message, one file. A view; the blob must outlive it. On a CPU a call checks the header; on CUDA it cannot
/// without waiting for the device, so there the fields below are believed, and a blob serves the version that made it.
struct QuantizedKV {
  const void* data = nullptr;
  std::size_t bytes = 0;
  Device device{};
  Method method = Method::automatic;
  DType dtype = DType::f32;  ///< of the k and v it was made from; q must have it too
  std::int64_t batch = 0, seqlen = 0, num_heads_kv = 0, head_dim = 0, head_dim_v = 0;
};

struct QuantizeOptions {
  Method method = Method::chitu_int8;
  const std::int32_t* seqlens_k = nullptr;  ///< optional [batch] on the device of k: only the first seqlens_k[b] keys count;
                                            ///< a call that reads the blob gives the same lengths in AttentionArgs::sequences.seqlens_k
};

/// Size of the blob; depends on shapes, dtype and method only.
CHITU_API std::size_t quantized_kv_bytes(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& options);
CHITU_API std::size_t quantize_kv_workspace_bytes(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& options);
/// k, v: [batch, seqlen, num_heads_kv, head_dim | head_dim_v]. blob: quantized_kv_bytes(), 256-byte aligned, on the device of k.
CHITU_API QuantizedKV quantize_kv(const ConstTensorView& k, const ConstTensorView& v, const QuantizeOptions& options, void* blob, void* workspace,
                                  Stream stream = {});

}  // namespace chitu
