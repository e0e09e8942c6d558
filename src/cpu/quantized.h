#pragma once

// The 8-bit copies of K and V of a call: made by the pre-pass in its workspace, or found in a blob that quantize_kv made.

#include "cpu/call.h"

namespace chitu::cpu {

/// First bytes of a blob. Then, each 256-byte aligned: int64 length[batch]; f32 channel[batch][heads][dv]; f32 q_factor[batch][heads][dk]; tiles
/// [batch][heads][tiles_of(seqlen)].
struct BlobHeader {
  char magic[8];  // "ChituKV2"
  std::uint32_t method, dtype;
  std::int64_t batch, seqlen, num_heads_kv, head_dim, head_dim_v, tile_bytes, channel_offset, factor_offset, tiles_offset, bytes;
  char layout[64];
};
static_assert(sizeof(BlobHeader) <= 256);

/// Where tiles, channel factors and sequence means of (sequence, head) are.
struct QuantizedView {
  TileLayout layout{};
  KQuant k_quant = KQuant::tile_groups;
  bool v_c3 = false;
  unsigned char* tiles = nullptr;
  float* channel = nullptr;      // [sequence][head][channels]: factor of out
  float* channel_inv = nullptr;  // same: factor of V before it is rounded
  float* k_mean = nullptr;       // [sequence][head][dk], or null
  float* q_factor = nullptr;     // own methods: same, sign of the rotation * weight of K's channel
  float* k_factor = nullptr;     // same: sign / weight
  std::int64_t heads = 0, tiles_per_head = 0, channels = 0;
  bool packed = false;           // tiles of all sequences one after the other, head by head: [head][all tiles]; else [sequence][head][tiles_per_head]

  unsigned char* tiles_of_head(std::int64_t sequence, std::int64_t head, std::int64_t first_tile) const {
    const std::int64_t at = packed ? head * tiles_per_head + first_tile : (sequence * heads + head) * tiles_per_head;
    return tiles + at * layout.bytes;
  }
  float* factors(float* array, std::int64_t sequence, std::int64_t head) const { return array == nullptr ? nullptr : array + (sequence * heads + head) * channels; }
  /// Of one of the arrays of [dk].
  float* of_keys(float* array, std::int64_t sequence, std::int64_t head) const {
    return array == nullptr ? nullptr : array + (sequence * heads + head) * layout.dk;
  }
};

BlobHeader blob_header(const core::QuantizeProblem& p);
QuantizedView view_of_blob(const void* data, const BlobHeader& header);
/// Throws InvalidArgument when the blob is not what `kv` says, or its lengths are none.
BlobHeader check_blob(const QuantizedKV& kv, const core::Problem& p);

std::string quantize_why_not(const core::QuantizeProblem& p);
std::size_t quantized_kv_bytes(const core::QuantizeProblem& p);
void quantize_kv(const core::QuantizeCall& call, void* blob, core::Workspace& ws);

}  // namespace chitu::cpu
