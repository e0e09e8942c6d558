#pragma once

// Which buffers a method's kernels read, where they come from (workspace or a QuantizedKV blob), and the launches that fill them.

#include "core/kernel.h"
#include "core/workspace.h"
#include "cuda/quantize.h"

namespace chitu::cuda {

View make_view(const ConstTensorView& v);
Sequence make_sequence(const core::Problem& p, const Sequences& s);

/// K and V of one call or blob, in plain numbers.
struct KvShape {
  core::Scheme scheme;
  DType dtype;
  Sequence sequence;
  int heads, head_dim, head_dim_v;
  bool blob;  ///< everything is stored, 8-bit V as 8 bits
  bool e4m3_tiles = false;  ///< e4m3 V in the layout of v8t, for kernels that multiply 8 bits
};

/// Null where the method has no such buffer.
struct KvBuffers {
  std::int8_t* k8 = nullptr;
  float *k_scale = nullptr, *sequence_mean = nullptr, *q_factor = nullptr, *v_scale = nullptr;
  void* k_mean = nullptr;
  std::uint16_t* v16 = nullptr;
  std::uint8_t* v8 = nullptr;
  std::int8_t* v8t = nullptr;
  float *token_scale = nullptr, *tile_mean = nullptr, *shift_limit = nullptr;
};

/// Statistics that only the pre-pass needs.
struct KvScratch {
  float *k_tiles = nullptr, *k_factor = nullptr, *v_tiles = nullptr, *v_factor = nullptr;
  std::uint32_t* v_bounds = nullptr;
};

struct QBuffers {
  std::int8_t* codes = nullptr;
  float *scale = nullptr, *mean_dot = nullptr;
};

KvBuffers take_kv(const KvShape& s, core::Workspace& ws);
KvScratch take_scratch(const KvShape& s, core::Workspace& ws);
QBuffers take_q(const core::Problem& p, const Sequence& s, bool mean_dot, core::Workspace& ws);

/// What quantize_rows and prepare_v need to know first.
void prepare_statistics(const KvShape& s, const KvBuffers& b, const KvScratch& scratch, const View& k, const View& v, cudaStream_t stream);
void prepare_v(const KvShape& s, const KvBuffers& b, const KvScratch& scratch, const View& v, cudaStream_t stream);
void set_grain(QuantizeRowsParams& p, const core::Grain& g);
QuantizeRowsParams k_rows(const KvShape& s, const KvBuffers& b, const KvScratch& scratch, const View& k);

/// The blob of a QuantizedKV: this header of 256 bytes, then the buffers of KvShape in the order of take_kv.
struct BlobHeader {
  char magic[8] = {'C', 'H', 'I', 'T', 'U', 'K', 'V', 0};
  std::uint32_t version = 2;
  std::uint32_t layout = 1;  ///< 1: src/cuda, keys in tiles of 128
  std::uint32_t method = 0, dtype = 0;
  std::int64_t batch = 0, seqlen = 0, heads = 0, head_dim = 0, head_dim_v = 0;
  char reserved[192] = {};
};
static_assert(sizeof(BlobHeader) == 256);

KvShape blob_shape(const core::Scheme& scheme, DType dtype, std::int64_t batch, std::int64_t seqlen, std::int64_t heads, std::int64_t head_dim,
                   std::int64_t head_dim_v, const std::int32_t* seqlens_k);
std::size_t blob_bytes(const KvShape& s);
/// The buffers inside a blob.
KvBuffers blob_buffers(const KvShape& s, const void* blob);
void write_header(const BlobHeader& h, void* blob, cudaStream_t stream);

}  // namespace chitu::cuda
