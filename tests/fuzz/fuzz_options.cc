// libFuzzer target: any bytes as a call. plan() accepts it or throws an exception of the library; what it accepts runs on buffers of exactly the size
// that the views span (AddressSanitizer sees one byte beyond), and the result obeys bounds that hold for every method (tests/common/oracle.h).
// One call of eight reads K and V from a blob of quantize_kv, whole or damaged: a damaged one is refused, or the result is right all the same.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "chitu/chitu.h"
#include "common/oracle.h"
#include "core/codec.h"

namespace {

using namespace chitu;

/// Deals out the input; zeros when it has ended.
class Reader {
 public:
  Reader(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  std::uint8_t byte() { return at_ < size_ ? data_[at_++] : 0; }
  std::int64_t below(std::int64_t n) { return byte() % n; }
  std::int64_t number() {
    constexpr std::int64_t special[] = {0,
                                        1,
                                        -1,
                                        2,
                                        127,
                                        128,
                                        256,
                                        257,
                                        std::int64_t{1} << 31,
                                        std::int64_t{1} << 32,
                                        std::int64_t{1} << 59,
                                        std::int64_t{1} << 60,
                                        std::int64_t{1} << 62,
                                        std::numeric_limits<std::int64_t>::max(),
                                        std::numeric_limits<std::int64_t>::min()};
    const std::uint8_t b = byte();
    if (b < 15) return special[b];
    if (b < 60) return b - 15;
    std::uint64_t x = 0;
    for (int i = 0; i < b % 9; ++i) x = x << 8 | byte();
    return static_cast<std::int64_t>(x);
  }
  float real() {
    constexpr float special[] = {0.0f, 1.0f, -1.0f, 0.125f, 1e-8f, 1e-38f, 1e-42f, 1e3f, 1e38f, INFINITY, -INFINITY, NAN};
    const std::uint8_t b = byte();
    return b < 12 ? special[b] : static_cast<float>(b - 128) / 64.0f;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

[[noreturn]] void finding(const char* what, const AttentionArgs& a, const Plan& p) {
  std::fprintf(stderr, "%s: %s\n", what, p.describe().c_str());
  (void)a;
  std::abort();
}

constexpr std::int64_t kAddress = std::int64_t{1} << 40;  // stands for memory until plan() has accepted the call

/// A legal call of small random sizes; addresses are numbers far apart.
void legal_call(Reader& r, AttentionArgs& a, AttentionOptions& o, std::int32_t* lengths) {
  constexpr DType dtypes[] = {DType::f32, DType::f16, DType::bf16};
  constexpr std::int64_t dims[] = {1, 2, 3, 8, 16, 33, 40, 64, 65, 96, 128, 200, 256};
  const std::int64_t batch = r.below(3), heads_kv = 1 + r.below(3), heads_q = heads_kv * (1 + r.below(3)), seqlen_q = r.below(20), seqlen_k = r.below(200);
  const std::int64_t dim = dims[r.below(13)], dim_v = r.below(3) == 0 ? dims[r.below(13)] : dim;
  const DType dtype = dtypes[r.below(3)];
  auto at = [](std::int64_t slot) { return reinterpret_cast<void*>(slot * kAddress); };
  auto view = [&](std::int64_t slot, std::int64_t rows, std::int64_t heads, std::int64_t d) {
    const std::uint8_t layout = r.byte();
    TensorView v = contiguous_view<void*, 4>(at(slot), dtype, {batch, rows, heads, d});
    if (layout % 4 == 1) v = from_bhsd(contiguous_view<void*, 4>(at(slot), dtype, {batch, heads, rows, d}));
    if (layout % 4 == 2) v.stride = {rows * heads * (d + 3), heads * (d + 3), d + 3, 1};
    return v;
  };
  auto input = [&](const TensorView& v) { return ConstTensorView{v.data, v.dtype, v.device, v.shape, v.stride}; };
  a.q = input(view(1, seqlen_q, heads_q, dim));
  a.k = input(view(2, seqlen_k, heads_kv, dim));
  a.v = input(view(3, seqlen_k, heads_kv, dim_v));
  a.out = view(4, seqlen_q, heads_q, dim_v);
  if (r.below(2) == 0) a.out.dtype = DType::f32;
  if (r.below(2) == 0) a.lse = contiguous_view<float*, 3>(static_cast<float*>(at(5)), DType::f32, {batch, heads_q, seqlen_q});
  const std::int64_t dense = r.below(6);
  if (dense >= 4)
    a.mask = contiguous_view<const void*, 4>(at(6), dense == 4 ? DType::boolean : DType::f32, {1, r.below(2) == 0 ? 1 : heads_q, seqlen_q, seqlen_k});
  if (r.below(3) == 0) o.mask.right = r.below(9) - 4;
  if (r.below(4) == 0) o.mask.left = r.below(40) - 4;
  if (r.below(4) == 0) o.mask.diagonal = r.below(30) - 15;
  if (r.below(4) == 0) o.softmax_scale = r.real();
  if (r.below(5) == 0 && batch > 0) {
    for (std::int64_t b = 0; b < batch; ++b) lengths[b] = static_cast<std::int32_t>(r.below(seqlen_k + 1));
    a.sequences.seqlens_k = lengths;
  }
  o.method = static_cast<Method>(r.below(9));
}

template <class T>
T* moved(T* address, std::int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(address) + static_cast<std::uintptr_t>(bytes));
}

/// One field takes any value.
void spoil(Reader& r, AttentionArgs& a, AttentionOptions& o, std::int32_t* lengths) {
  ConstTensorView* inputs[] = {&a.q, &a.k, &a.v, &a.mask};
  ConstTensorView& in = *inputs[r.below(4)];
  switch (r.below(22)) {
    case 0:
      in.shape[static_cast<std::size_t>(r.below(4))] = r.number();
      break;
    case 1:
      in.stride[static_cast<std::size_t>(r.below(4))] = r.number();
      break;
    case 2:
      in.dtype = static_cast<DType>(r.byte());
      break;
    case 3:
      in.data = moved(in.data, r.below(32));
      break;
    case 4:
      in.data = nullptr;
      break;
    case 5:
      in.device = {static_cast<DeviceType>(r.below(2)), static_cast<int>(r.number())};
      break;
    case 6:
      a.out.shape[static_cast<std::size_t>(r.below(4))] = r.number();
      break;
    case 7:
      a.out.stride[static_cast<std::size_t>(r.below(4))] = r.number();
      break;
    case 8:
      a.out.data = moved(a.out.data, r.below(32));
      break;
    case 9:
      a.out.dtype = static_cast<DType>(r.below(5));
      break;
    case 10:
      a.lse.shape[static_cast<std::size_t>(r.below(3))] = r.number();
      break;
    case 11:
      a.lse.stride[static_cast<std::size_t>(r.below(3))] = r.number();
      break;
    case 12:
      a.sequences.batch = r.number();
      break;
    case 13:
      a.sequences.max_seqlen_k = r.number();
      break;
    case 14:
      lengths[r.below(3)] = static_cast<std::int32_t>(r.number()), a.sequences.seqlens_k = lengths;
      break;
    case 15:
      o.mask = {r.number(), r.number(), r.number()};
      break;
    case 16:
      o.softmax_scale = r.real();
      break;
    case 17:
      o.method = static_cast<Method>(r.byte());
      break;
    case 18:
      o.scheme.granularity = static_cast<Granularity>(r.below(6));
      break;
    case 19:
      o.scheme.pv_accumulation = static_cast<PvAccumulation>(r.below(7)), o.scheme.smooth_v = r.below(2) == 0;
      break;
    case 20:
      o.scheme.family = static_cast<FragmentFamily>(r.below(3)), o.scheme.smooth_q = r.below(2) == 0;
      break;
    default: {
      const auto rows = list_kernels({});
      o.kernel = rows[static_cast<std::size_t>(r.byte()) % rows.size()].name;
    }
  }
}

/// Packed sequences over the same tensors.
void pack(Reader& r, AttentionArgs& a, std::int32_t* cu) {
  for (ConstTensorView* v : {&a.q, &a.k, &a.v}) v->shape[0] = 1;
  a.out.shape[0] = a.lse.shape[0] = 1;
  auto offsets = [&](std::int32_t* at, std::int64_t total) {
    at[0] = 0;
    for (int b = 1; b < 4; ++b) at[b] = static_cast<std::int32_t>(at[b - 1] + r.below(std::max<std::int64_t>(1, total - at[b - 1] + 1)));
    if (r.below(16) == 0) at[r.below(4)] = static_cast<std::int32_t>(r.number());
  };
  offsets(cu, a.q.shape[1]);
  offsets(cu + 4, a.k.shape[1]);
  a.sequences = {cu, cu + 4, nullptr, 3, a.q.shape[1], a.k.shape[1]};
}

/// Number of elements from the first to behind the last of a view; -1 when there is none or too many to allocate.
template <class View>
std::int64_t extent(const View& v) {
  __int128 last = 0;
  for (std::size_t i = 0; i < v.shape.size(); ++i) {
    if (v.shape[i] == 0) return 0;
    if (v.shape[i] > 1) last += static_cast<__int128>(v.shape[i] - 1) * v.stride[i];
  }
  return last < (1 << 20) ? static_cast<std::int64_t>(last) + 1 : -1;
}

/// Gives the view memory of exactly its extent, with the same alignment to 16 bytes.
template <class View>
bool allocate(View& v, Memory& memory, std::uint64_t seed, bool values) {
  const std::int64_t n = extent(v);
  if (n < 0) return false;
  if (v.data == nullptr || n == 0) return true;
  const std::size_t size = dtype_size(v.dtype), offset = reinterpret_cast<std::uintptr_t>(v.data) % 16;
  memory.reset(std::malloc(static_cast<std::size_t>(n) * size + offset));
  auto* base = static_cast<std::uint8_t*>(memory.get()) + offset;
  for (std::int64_t i = 0; i < n; ++i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const float x = values ? static_cast<float>(static_cast<std::int32_t>(seed >> 32)) * 0x1p-30f : NAN;  // inputs in -2 .. 2, outputs poisoned
    if (v.dtype == DType::boolean) base[i] = (seed >> 40) % 3 != 0;
    if (v.dtype == DType::f32) reinterpret_cast<float*>(base)[i] = x;
    if (v.dtype == DType::f16) reinterpret_cast<std::uint16_t*>(base)[i] = core::f32_to_f16(x);
    if (v.dtype == DType::bf16) reinterpret_cast<std::uint16_t*>(base)[i] = core::f32_to_bf16(x);
  }
  v.data = reinterpret_cast<decltype(v.data)>(base);
  return true;
}

void check_result(const AttentionArgs& a, const AttentionOptions& o, const Plan& p) {
  const Method m = p.method();
  // What the shape of the exponential adds to the lse, at most: the 16-bit table's index and truncation, log-code's straight line.
  const double exponential = m == Method::chitu_int8 ? 0.0055 + 128.0 / 32640 : m == Method::chitu_fast ? 0.09 : 0.0;
  for (std::int64_t b = 0; b < test::oracle_sequences(a); ++b)
    for (std::int64_t h = 0; h < a.q.shape[2]; ++h)
      for (std::int64_t i = 0; i < test::oracle_queries(a, b); i += 5) {
        const test::OracleRow row = test::oracle_row(a, o, b, h, i);
        if (!(row.largest_score < 1e30)) continue;  // beyond f32
        const double logits = (m == Method::exact ? 0.0 : row.logit_bound) + 1e-4 + 0x1p-16 * row.largest_score;
        // A rounded weight may double (0.5 of a step becomes 1); V rounds by at most a step of its largest; then out's own rounding.
        const double v_bound = row.visible == 0 ? 0.0 : (m == Method::int_flash ? 4.5 : 2.5);
        for (std::int64_t c = 0; c < a.v.shape[3]; ++c) {
          const double x = test::read_out(a, b, h, i, c);
          if (!std::isfinite(x) || std::fabs(x) > v_bound) finding("out is not finite or too large", a, p);
          if (m == Method::exact && std::fabs(x - row.out[static_cast<std::size_t>(c)]) > (2 * std::expm1(2 * logits) + 0x1p-5) * 2)
            finding("exact is not", a, p);
        }
        if (a.lse.data == nullptr) continue;
        const double lse = test::read_lse(a, b, h, i);
        if (row.visible == 0 ? lse != row.lse : !(std::fabs(lse - row.lse) <= logits + exponential)) finding("lse beyond its hard bound", a, p);
      }
}

/// More products of q and k than a fuzzer should wait for.
bool too_long(const ConstTensorView& q, std::int64_t seqlen_k) {
  double work = static_cast<double>(seqlen_k);
  for (auto n : q.shape) work *= static_cast<double>(n);
  return work > 3e6;
}

Memory workspace_of(std::size_t bytes) {
  if (bytes == 0) return {};
  Memory memory(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  std::memset(memory.get(), 0xFF, bytes);
  return memory;
}

void run_call(AttentionArgs a, const AttentionOptions& o, std::uint64_t seed) {
  if (too_long(a.q, a.k.shape[1])) return;
  Memory memory[6];
  if (!allocate(a.q, memory[0], seed, true) || !allocate(a.k, memory[1], seed + 1, true) || !allocate(a.v, memory[2], seed + 2, true) ||
      !allocate(a.mask, memory[3], seed + 3, true) || !allocate(a.out, memory[4], 0, false) || !allocate(a.lse, memory[5], 0, false)) {
    return;
  }
  const Plan p = plan(a, o);
  if (p.workspace_bytes() > (1u << 26)) return;
  const Memory workspace = workspace_of(p.workspace_bytes());
  run(p, a, workspace.get());
  check_result(a, o, p);
}

/// K and V of a call as a blob, and what may be wrong with it.
struct Cache {
  QuantizedKV kv;
  std::vector<std::uint8_t> bytes;
  std::int32_t lengths[4] = {};  ///< that it was made with
  std::int64_t misaligned = 0;
  bool null = false;
  bool judge = true;  ///< the content is still that of K and V
};

constexpr std::size_t kFields = 16, kLengths = 256;  // of the header: five int64 (batch, seqlen, heads, head_dim, head_dim_v), four of the layout

void put(std::vector<std::uint8_t>& bytes, std::size_t at, std::int64_t x) {
  if (at + sizeof x <= bytes.size()) std::memcpy(bytes.data() + at, &x, sizeof x);
}

/// One thing about the blob becomes something else.
void damage(Reader& r, Cache& c) {
  QuantizedKV& kv = c.kv;
  std::int64_t* fields[] = {&kv.batch, &kv.seqlen, &kv.num_heads_kv, &kv.head_dim, &kv.head_dim_v};
  const std::size_t field = static_cast<std::size_t>(r.below(9));
  const std::int64_t x = r.number();
  switch (r.below(12)) {
    case 0:  // a truncated file, or one with something behind it
      kv.bytes = r.below(2) == 0 ? static_cast<std::size_t>(x) : kv.bytes - r.byte();
      break;
    case 1:
      *fields[field % 5] = x;
      break;
    case 2:
      put(c.bytes, kFields + 8 * field, x);
      break;
    case 3:  // a header that agrees with what the caller says: within a tile nothing else tells how many keys there were
      *fields[field % 5] = x, put(c.bytes, kFields + 8 * (field % 5), x), c.judge = false;
      break;
    case 4:
      if (!c.bytes.empty())
        c.bytes[static_cast<std::size_t>(r.byte()) % std::min<std::size_t>(c.bytes.size(), 256)] ^= static_cast<std::uint8_t>(1 + r.below(255));
      break;
    case 5:
      put(c.bytes, kLengths + 8 * static_cast<std::size_t>(r.below(3)), x), c.judge = false;
      break;
    case 6:  // codes, scales, means
      for (std::size_t at = kLengths + 8 * static_cast<std::size_t>(kv.batch) + r.byte(); at < c.bytes.size(); at += 1 + static_cast<std::size_t>(x & 1023)) {
        c.bytes[at] ^= static_cast<std::uint8_t>(field + 0x80);
      }
      c.judge = false;
      break;
    case 7:
      kv.dtype = static_cast<DType>(r.byte());
      break;
    case 8:
      kv.method = static_cast<Method>(r.byte());
      break;
    case 9:
      kv.device = {static_cast<DeviceType>(r.below(2)), static_cast<int>(x)};
      break;
    case 10:
      c.misaligned = r.byte();
      break;
    default:
      c.null = true;
  }
}

/// False when the call is too large, or has no blob.
bool make_cache(Reader& r, AttentionArgs& a, std::uint64_t seed, Memory* memory, Cache& cache) {
  QuantizeOptions options;
  if (r.below(8) == 0) options.method = static_cast<Method>(r.below(10));
  options.seqlens_k = a.sequences.seqlens_k;
  const std::size_t bytes = quantized_kv_bytes(a.k, a.v, options), scratch = quantize_kv_workspace_bytes(a.k, a.v, options);
  if (bytes > (1u << 21) || scratch > (1u << 26) || !allocate(a.k, memory[0], seed, true) || !allocate(a.v, memory[1], seed + 1, true)) return false;
  const Memory blob = workspace_of(bytes), workspace = workspace_of(scratch);
  cache.kv = quantize_kv(a.k, a.v, options, blob.get(), workspace.get());
  const auto* first = static_cast<const std::uint8_t*>(blob.get());
  cache.bytes.assign(first, first + bytes);
  for (std::int64_t b = 0; b < a.k.shape[0]; ++b)
    cache.lengths[b] = options.seqlens_k == nullptr ? static_cast<std::int32_t>(a.k.shape[1]) : options.seqlens_k[b];
  return true;
}

/// A call that reads a blob of exactly the bytes its view claims; its plan may have been made for the blob before the damage.
void cached_call(Reader& r, AttentionArgs a, AttentionOptions o, std::int32_t* lengths, std::uint8_t kind) {
  if (too_long(a.q, a.k.shape[1])) return;
  Memory memory[6];
  Cache cache;
  if (!make_cache(r, a, kind, memory, cache)) return;
  const ConstTensorView k = a.k, v = a.v;
  a.k = a.v = {};
  if (r.below(4) != 0) o.method = Method::automatic;
  const QuantizedKV whole = cache.kv;
  for (int i = kind / 4 % 4; i > 1; --i) damage(r, cache);
  if (r.below(8) == 0) spoil(r, a, o, lengths);
  if (a.sequences.seqlens_k != nullptr && a.q.shape[0] > 3) return;
  if (r.below(8) == 0) a.sequences.seqlens_k = nullptr;
  const std::size_t size = cache.kv.bytes, given = std::min<std::size_t>(size, 1u << 22);
  void* blob = nullptr;
  if (posix_memalign(&blob, 256, given + static_cast<std::size_t>(cache.misaligned)) != 0) return;
  const Memory owner(blob);
  auto* at = static_cast<std::uint8_t*>(blob) + cache.misaligned;
  std::memset(at, 0, given);
  std::memcpy(at, cache.bytes.data(), std::min(given, cache.bytes.size()));
  cache.kv.data = cache.null ? nullptr : at;
  a.kv = &cache.kv;
  const bool late = r.below(4) == 0;
  QuantizedKV before = whole;
  before.data = at;
  AttentionArgs planned = a;
  if (late) planned.kv = &before;
  plan(planned, o);
  explain(planned, o);
  if (size > given) return;  // it claims bytes that it does not have: the caller's word, as for any pointer
  if (!allocate(a.q, memory[2], kind + 2u, true) || !allocate(a.mask, memory[3], kind + 3u, true) || !allocate(a.out, memory[4], 0, false) ||
      !allocate(a.lse, memory[5], 0, false)) {
    return;
  }
  planned = a;
  if (late) planned.kv = &before;
  const Plan p = plan(planned, o);
  if (p.workspace_bytes() > (1u << 26)) return;
  const Memory workspace = workspace_of(p.workspace_bytes());
  run(p, a, workspace.get());
  for (std::int64_t b = 0; b < a.q.shape[0]; ++b) {
    const std::int64_t length = a.sequences.seqlens_k == nullptr ? k.shape[1] : a.sequences.seqlens_k[b];
    if (length != cache.lengths[b]) return;  // statistics of other keys than the call sees: the bounds do not hold
  }
  if (!cache.judge) return;
  a.kv = nullptr, a.k = k, a.v = v;
  check_result(a, o, p);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Reader r(data, size);
  AttentionArgs args;
  AttentionOptions options;
  std::int32_t lengths[4] = {}, cu[8] = {};
  const std::uint8_t kind = r.byte();
  legal_call(r, args, options, lengths);
  if (kind % 4 == 3) pack(r, args, cu);
  const bool cached = kind / 16 % 8 == 7;
  for (int i = cached ? 0 : kind / 4 % 4; i > 1; --i) spoil(r, args, options, lengths);
  // The caller owns the arrays: that they hold as many lengths as the call has sequences cannot be checked.
  const std::int64_t sequences = args.sequences.cu_seqlens_q != nullptr ? args.sequences.batch : args.q.shape[0];
  if (sequences > 3 && (args.sequences.cu_seqlens_q != nullptr || args.sequences.seqlens_k != nullptr)) return 0;
  try {
    if (cached) {
      cached_call(r, args, options, lengths, kind);
      return 0;
    }
    plan(args, options);
    explain(args, options);
    run_call(args, options, kind);
  } catch (const Error& error) {
    if (*error.what() == '\0') std::abort();
  }
  return 0;
}
