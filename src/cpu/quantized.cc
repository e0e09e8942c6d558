#include "cpu/quantized.h"

#include <algorithm>
#include <cstring>

#include "chitu/error.h"
#include "core/check.h"
#include "cpu/prepare.h"

namespace chitu::cpu {
namespace {

constexpr char kMagic[8] = {'C', 'h', 'i', 't', 'u', 'K', 'V', '2'};
constexpr char kLayout[] = "cpu: k [8][d/4][16][4] u8, v [d/16][32][16][4] s8 tokens 0213";

}  // namespace

std::string quantize_why_not(const core::QuantizeProblem& p) {
  if (p.scheme.method != Method::chitu_int8) {
    return core::concat("the CPU keeps 8-bit K and V for chitu_int8 only, not for ", method_name(p.scheme.method));
  }
  return {};
}

BlobHeader blob_header(const core::QuantizeProblem& p) {
  BlobHeader h{};
  const TileLayout l = tile_layout(p.head_dim, p.head_dim_v, true);
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  std::memcpy(h.layout, kLayout, sizeof kLayout);
  h.method = static_cast<std::uint32_t>(p.scheme.method);
  h.dtype = static_cast<std::uint32_t>(p.dtype);
  h.batch = p.batch;
  h.seqlen = p.seqlen_k;
  h.num_heads_kv = p.num_heads_kv;
  h.head_dim = p.head_dim;
  h.head_dim_v = p.head_dim_v;
  h.tile_bytes = l.bytes;
  h.channel_offset = 256 + round_up(8 * p.batch, 256);
  h.factor_offset = h.channel_offset + round_up(4 * p.batch * p.num_heads_kv * l.dv, 256);
  h.tiles_offset = h.factor_offset + round_up(4 * p.batch * p.num_heads_kv * l.dk, 256);
  h.bytes = h.tiles_offset + round_up(p.batch * p.num_heads_kv * tiles_of(p.seqlen_k) * l.bytes, 256);
  return h;
}

QuantizedView view_of_blob(const void* data, const BlobHeader& h) {
  QuantizedView v;
  auto* base = const_cast<unsigned char*>(static_cast<const unsigned char*>(data));
  v.layout = tile_layout(h.head_dim, h.head_dim_v, true);
  v.tiles = base + h.tiles_offset;
  v.channel = reinterpret_cast<float*>(base + h.channel_offset);
  v.q_factor = reinterpret_cast<float*>(base + h.factor_offset);
  v.heads = h.num_heads_kv;
  v.channels = v.layout.dv;
  v.v_c3 = true;
  v.tiles_per_head = tiles_of(h.seqlen);
  return v;
}

BlobHeader check_blob(const QuantizedKV& kv, const core::Problem& p) {
  BlobHeader h;
  CHITU_CHECK(kv.bytes >= sizeof h, "kv.bytes: want at least ", sizeof h, ", got ", kv.bytes);
  std::memcpy(&h, kv.data, sizeof h);
  CHITU_CHECK(std::memcmp(h.magic, kMagic, sizeof kMagic) == 0 && std::strncmp(h.layout, kLayout, sizeof h.layout) == 0,
              "kv.data: want a blob that quantize_kv made on a CPU with this version, got something else");
  const core::QuantizeProblem q{p.device, p.caps, p.dtype, p.scheme, p.batch, p.seqlen_k, p.num_heads_kv, p.head_dim, p.head_dim_v, false};
  const BlobHeader want = blob_header(q);
  CHITU_CHECK(std::memcmp(&want, &h, sizeof h) == 0, "kv: its fields (method, dtype, batch, seqlen, heads, head_dim) differ from the header of the blob");
  CHITU_CHECK(kv.bytes >= static_cast<std::size_t>(h.bytes), "kv.bytes: want ", h.bytes, ", got ", kv.bytes);
  const auto* lengths = reinterpret_cast<const std::int64_t*>(static_cast<const unsigned char*>(kv.data) + 256);
  for (std::int64_t b = 0; b < h.batch; ++b) {
    CHITU_CHECK(lengths[b] >= 0 && lengths[b] <= h.seqlen, "kv.data: want lengths of 0..", h.seqlen, " in the blob, got ", lengths[b], " at ", b);
  }
  return h;
}

std::size_t quantized_kv_bytes(const core::QuantizeProblem& p) { return static_cast<std::size_t>(blob_header(p).bytes); }

void quantize_kv(const core::QuantizeCall& call, void* blob, core::Workspace& ws) {
  const core::QuantizeProblem& q = call.problem;
  const BlobHeader header = blob_header(q);
  QuantizedView view = view_of_blob(blob, header);
  // the pre-pass of an attention call over the same keys
  core::Problem p;
  p.device = q.device;
  p.dtype = q.dtype;
  p.scheme = q.scheme;
  p.batch = q.batch;
  p.seqlen_k = q.seqlen_k;
  p.num_heads_q = p.num_heads_kv = q.num_heads_kv;
  p.head_dim = q.head_dim;
  p.head_dim_v = q.head_dim_v;
  p.padded = q.padded;
  AttentionArgs args;
  args.k = call.k;
  args.v = call.v;
  args.sequences.seqlens_k = call.seqlens_k;
  Work work({p, args, call.stream}, ws, 1);
  view.channel_inv = ws.take<float>(q.batch * q.num_heads_kv * view.layout.dv);
  view.k_factor = ws.take<float>(q.batch * q.num_heads_kv * view.layout.dk);
  const ThreadScratch scratch(ws, quantize_scratch_bytes(view.layout));
  if (ws.measuring()) return;
  work.fill();
  std::memset(blob, 0, static_cast<std::size_t>(header.tiles_offset));
  std::memcpy(blob, &header, sizeof header);
  auto* lengths = reinterpret_cast<std::int64_t*>(static_cast<unsigned char*>(blob) + 256);
  for (std::int64_t b = 0; b < q.batch; ++b) lengths[b] = work.sequence(b).range.k_len;
  // A blob may be stored, sent and compared: what the tiles leave alone (token scales of plain tiles, tiles beyond the length, the end) is 0 as well.
  for (std::int64_t t = 0; t < q.batch * q.num_heads_kv * view.tiles_per_head; ++t) {
    const bool used = t % view.tiles_per_head < tiles_of(lengths[t / view.tiles_per_head / q.num_heads_kv]);
    const std::int64_t from = used ? view.layout.token : 0;
    std::memset(view.tiles + t * view.layout.bytes + from, 0, static_cast<std::size_t>(view.layout.bytes - from));
  }
  const std::int64_t end = header.tiles_offset + q.batch * q.num_heads_kv * view.tiles_per_head * view.layout.bytes;
  std::memset(static_cast<unsigned char*>(blob) + end, 0, static_cast<std::size_t>(header.bytes - end));
  channel_weights(p, work, view, scratch);
  key_factors(p, work, view, scratch);
  quantize_tiles(p, work, view, scratch);
}

}  // namespace chitu::cpu
