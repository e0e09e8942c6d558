// Differential check of the CPU rows: random small problems against the reference running the scheme that the row executes, and the 8-bit tiles of every
// ISA tier against each other, bit for bit.   check_rows [cases] [seed] [only this case]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "chitu/chitu.h"
#include "core/codec.h"
#include "core/kernel.h"
#include "core/rotation.h"
#include "core/validate.h"
#include "cpu/call.h"

using namespace chitu;

namespace {

struct Tensor {
  std::vector<unsigned char> bytes;
  ConstTensorView view;
};

std::mt19937_64 rng;
std::int64_t pick(std::int64_t lo, std::int64_t hi) { return std::uniform_int_distribution<std::int64_t>(lo, hi)(rng); }
bool chance(double p) { return std::uniform_real_distribution<double>(0, 1)(rng) < p; }

void put(Tensor& t, std::int64_t at, float x) {
  if (t.view.dtype == DType::f32) {
    std::memcpy(t.bytes.data() + at * 4, &x, 4);
  } else {
    const std::uint16_t h = t.view.dtype == DType::f16 ? core::f32_to_f16(x) : core::f32_to_bf16(x);
    std::memcpy(t.bytes.data() + at * 2, &h, 2);
  }
}

/// Random strides: a permutation of batch, seqlen, heads, with gaps; the gaps hold NaN.
Tensor random_tensor(DType dtype, std::int64_t b, std::int64_t s, std::int64_t h, std::int64_t d, double sigma, int flavour) {
  Tensor t;
  t.view.dtype = dtype;
  t.view.shape = {b, s, h, d};
  std::int64_t pitch = d + pick(0, 3);
  if (chance(0.5)) {
    t.view.stride = {s * h * pitch, h * pitch, pitch, 1};
  } else {
    t.view.stride = {h * s * pitch, pitch, s * pitch, 1};
  }
  t.bytes.resize(static_cast<std::size_t>((b * s * h + 1) * pitch) * dtype_size(dtype));
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(t.bytes.size() / dtype_size(dtype)); ++i) put(t, i, NAN);
  std::normal_distribution<float> normal(0, static_cast<float>(sigma));
  std::vector<float> channel(static_cast<std::size_t>(d), 0.0f);
  for (float& x : channel) x = flavour == 1 ? normal(rng) * 3 : 0.0f;
  for (std::int64_t ib = 0; ib < b; ++ib)
    for (std::int64_t is = 0; is < s; ++is)
      for (std::int64_t ih = 0; ih < h; ++ih) {
        const float row = flavour == 2 ? std::exp2(1.5f * normal(rng) / static_cast<float>(sigma)) : flavour == 3 && is % 50 == 7 ? 0.0f : 1.0f;
        for (std::int64_t id = 0; id < d; ++id) {
          float x = (normal(rng) + channel[static_cast<std::size_t>(id)]) * row;
          if (flavour == 4) x = 0;
          put(t, ib * t.view.stride[0] + is * t.view.stride[1] + ih * t.view.stride[2] + id, x);
        }
      }
  t.view.data = t.bytes.data();
  return t;
}

struct Outputs {
  std::vector<float> out, lse;
};

Outputs run_row(const core::Kernel& row, const core::Problem& p, AttentionArgs args) {
  Outputs o;
  const std::int64_t b = args.q.shape[0], s = args.q.shape[1], h = args.q.shape[2];
  o.out.assign(static_cast<std::size_t>(b * s * h * p.head_dim_v), NAN);
  o.lse.assign(static_cast<std::size_t>(b * s * h), NAN);
  args.out = contiguous_view<void*, 4>(o.out.data(), DType::f32, {b, s, h, p.head_dim_v});
  args.lse = contiguous_view<float*, 3>(o.lse.data(), DType::f32, {b, h, s});
  core::Workspace measure;
  row.run({p, args, nullptr}, measure);
  std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(256, measure.used() + 256), std::free);
  std::memset(memory.get(), 0xff, measure.used());
  core::Workspace carve(memory.get(), measure.used());
  row.run({p, args, nullptr}, carve);
  return o;
}

const core::Kernel& row_named(const core::Backend& backend, const std::string& name) {
  for (const core::Kernel& k : backend.kernels)
    if (name == k.name) return k;
  std::abort();
}

bool check_case(int number, bool loud) {
  const Method methods[] = {Method::chitu_int8, Method::chitu_int8, Method::chitu, Method::sage1, Method::int_flash, Method::int_flash_half, Method::exact};
  const Method method = methods[pick(0, 6)];
  const DType dtypes[] = {DType::f32, DType::f16, DType::bf16};
  const DType dtype = dtypes[pick(0, 2)];
  const std::int64_t dims[] = {1, 3, 8, 16, 20, 32, 64, 72, 80, 96, 128, 160, 256};
  const std::int64_t d = dims[pick(0, 12)], dv = chance(0.7) ? d : dims[pick(0, 12)];
  const std::int64_t b = pick(1, 3), hkv = pick(1, 2), group = chance(0.6) ? 1 : pick(2, 5);
  std::int64_t sq = chance(0.3) ? pick(1, 4) : pick(1, 150), sk = chance(0.3) ? pick(0, 20) : pick(1, chance(0.1) ? 5000 : 400);
  const int fq = static_cast<int>(pick(0, 4)), fk = static_cast<int>(pick(0, 5)), fv = static_cast<int>(pick(0, 5));
  const double sigma_q = std::exp2(static_cast<double>(pick(-4, 2)));
  Tensor q = random_tensor(dtype, b, sq, hkv * group, d, sigma_q, fq), k = random_tensor(dtype, b, sk, hkv, d, 1.0, fk), v = random_tensor(dtype, b, sk, hkv, dv, 1.0, fv);
  AttentionArgs args;
  args.q = q.view;
  args.k = k.view;
  args.v = v.view;
  AttentionOptions options;
  options.method = method;
  if (chance(0.3)) options.mask = Mask::causal();
  else if (chance(0.2)) options.mask = Mask::window(pick(0, 200), pick(0, 100));
  if (chance(0.2)) options.mask.diagonal = pick(-100, 100);
  if (chance(0.2)) options.softmax_scale = std::exp2(static_cast<float>(pick(-6, 0))) * (chance(0.5) ? -1.0f : 1.0f);
  if (chance(0.05)) options.softmax_scale = 0.0f;
  std::vector<std::int32_t> lengths, cu_q, cu_k;
  std::vector<unsigned char> mask_bool;
  std::vector<float> mask_add;
  const int layout = static_cast<int>(pick(0, 4));
  if (layout == 1) {
    for (std::int64_t i = 0; i < b; ++i) lengths.push_back(static_cast<std::int32_t>(pick(0, sk)));
    args.sequences.seqlens_k = lengths.data();
  } else if (layout == 2) {  // packed: batch 0 of the tensors, cut in three
    args.q.shape[0] = args.k.shape[0] = args.v.shape[0] = 1;
    const std::int64_t q1 = pick(0, sq), q2 = pick(q1, sq), k1 = pick(0, sk), k2 = pick(k1, sk);
    cu_q = {0, static_cast<int>(q1), static_cast<int>(q2), static_cast<int>(sq)};
    cu_k = {0, static_cast<int>(k1), static_cast<int>(k2), static_cast<int>(sk)};
    args.sequences = {cu_q.data(), cu_k.data(), nullptr, 3, sq, sk};
  } else if (layout == 3 && sk > 0) {
    const std::int64_t n = b * hkv * group * sq * sk;
    const bool boolean = chance(0.5);
    if (boolean) {
      for (std::int64_t i = 0; i < n; ++i) mask_bool.push_back(chance(0.7));
      args.mask = contiguous_view<const void*, 4>(mask_bool.data(), DType::boolean, {b, hkv * group, sq, sk});
    } else {
      std::normal_distribution<float> normal;
      for (std::int64_t i = 0; i < n; ++i) mask_add.push_back(chance(0.1) ? -INFINITY : normal(rng));
      args.mask = contiguous_view<const void*, 4>(mask_add.data(), DType::f32, {b, hkv * group, sq, sk});
    }
  }
  Tensor dummy;
  std::vector<float> space(static_cast<std::size_t>(args.q.shape[0] * sq * hkv * group * dv));
  args.out = contiguous_view<void*, 4>(space.data(), DType::f32, {args.q.shape[0], sq, hkv * group, dv});
  std::vector<float> lse_space(static_cast<std::size_t>(args.q.shape[0] * sq * hkv * group));
  args.lse = contiguous_view<float*, 3>(lse_space.data(), DType::f32, {args.q.shape[0], hkv * group, sq});
  core::Problem p = core::validate(args, options);
  p.scheme = core::resolve_scheme(method, dtype, {});
  const core::Kernel* row = nullptr;
  for (const core::Kernel& kernel : cpu::backend().kernels)
    if (kernel.why_not(p).empty()) {
      row = &kernel;
      break;
    }
  if (row == nullptr) {
    std::printf("case %d: no row\n", number);
    return false;
  }
  const Outputs fast = run_row(*row, p, args);
  core::Problem spec = p;
  if (row->executes != nullptr) spec.scheme = row->executes(p);
  const Outputs want = run_row(row_named(ref::backend(), method == Method::exact ? "ref_exact" : "ref_scheme"), spec, args);
  double worst = 0, worst_lse = 0;
  bool shape_ok = true;
  for (std::size_t r = 0; r < want.lse.size(); ++r) {
    const float a = fast.lse[r], e = want.lse[r];
    if ((a == -INFINITY) != (e == -INFINITY) || std::isnan(a) != std::isnan(e)) shape_ok = false;
    else if (std::isfinite(e)) worst_lse = std::max(worst_lse, static_cast<double>(std::fabs(a - e)) / (1 + std::fabs(e)));
  }
  for (std::size_t r = 0; r < want.out.size() / static_cast<std::size_t>(dv); ++r) {
    double top = 0, diff = 0;
    for (std::int64_t i = 0; i < dv; ++i) {
      const float a = fast.out[r * dv + i], e = want.out[r * dv + i];
      if (std::isnan(a) != std::isnan(e)) {
        shape_ok = false;
        if (loud && i == 0) std::printf("row %zu: fast %g want %g lse %g %g\n", r, a, e, fast.lse[r], want.lse[r]);
      }
      top = std::max(top, static_cast<double>(std::fabs(e)));
      diff = std::max(diff, static_cast<double>(std::fabs(a - e)));
    }
    if (loud && diff > 2e-3 * top) std::printf("row %zu: top %g diff %g fast %g %g want %g %g lse %g %g\n", r, top, diff, fast.out[r * dv], fast.out[r * dv + dv - 1], want.out[r * dv], want.out[r * dv + dv - 1], fast.lse[0], want.lse[0]);
    if (method == Method::exact) top = std::max(top, 1.0);  // its values cancel down to nothing where d = 1
    if (diff > 0) worst = std::max(worst, diff / (top + 1e-30));
  }
  // exact is compared with f64, so its P in 16 bits counts
  const double bar = method == Method::exact ? (dtype == DType::f32 ? 1e-4 : dtype == DType::f16 ? 4e-3 : 4e-2) : 4e-3, lse_bar = 2e-5;
  const bool ok = shape_ok && worst <= bar && worst_lse <= lse_bar;
  if (!ok || loud) {
    std::printf("%s case %d: %s %s b=%ld hkv=%ld g=%ld sq=%ld sk=%ld d=%ld/%ld layout=%d flavours %d%d%d out %.2e lse %.2e%s\n", ok ? "ok  " : "FAIL", number,
                std::string(method_name(method)).c_str(), dtype_name(dtype), static_cast<long>(b), static_cast<long>(hkv), static_cast<long>(group),
                static_cast<long>(sq), static_cast<long>(sk), static_cast<long>(d), static_cast<long>(dv), layout, fq, fk, fv, worst, worst_lse,
                shape_ok ? "" : " NaN or -inf differ");
  }
  return ok;
}

/// Tiles of all tiers, byte for byte.
bool check_tiers() {
  using namespace chitu::cpu;
  bool ok = true;
  const std::int64_t dims[] = {1, 5, 16, 24, 64, 96, 100, 128, 200, 256};
  for (int i = 0; i < 60; ++i) {
    const std::int64_t d = dims[pick(0, 9)], dv = dims[pick(0, 9)], n = pick(1, 300);
    const DType dtype = static_cast<DType>(pick(0, 2));
    const Tensor k = random_tensor(dtype, 1, n, 1, d, 1, static_cast<int>(pick(0, 4))), v = random_tensor(dtype, 1, n, 1, dv, 1, static_cast<int>(pick(0, 4)));
    float factor[256];
    for (int c = 0; c < 256; ++c) factor[c] = (core::rotation_sign(c) ? -1.0f : 1.0f) / static_cast<float>(1 << c % 3);
    const TileLayout l = tile_layout(d, dv, true);
    std::vector<unsigned char> first;
    for (Isa tier : {Isa::scalar, Isa::avx2, Isa::avx512vnni, Isa::avx512bf16}) {
      const IsaTable* isa = isa_table(tier);
      if (isa == nullptr) continue;
      std::vector<float> c(512), inv(512);
      const Rows kr{k.view.data, k.view.stride[1], elem_of(dtype)}, vr{v.view.data, v.view.stride[1], elem_of(dtype)};
      isa->channel_weights(vr, n, static_cast<int>(dv), l.dv, c.data(), inv.data());
      const std::int64_t tiles = tiles_of(n);
      std::vector<unsigned char> all(static_cast<std::size_t>(l.bytes * tiles + 64)), scratch(static_cast<std::size_t>(2 * kTile * 4 * 256 + 64));
      auto align = [](unsigned char* x) { return x + (64 - reinterpret_cast<std::uintptr_t>(x) % 64) % 64; };
      const QuantizeArgs a{kr, vr, n, l, align(all.data()), inv.data(), nullptr, factor, KQuant::tile_groups, true, 4.0f};
      for (std::int64_t t = 0; t < tiles; ++t) isa->quantize_tile(a, t, align(scratch.data()));
      std::vector<unsigned char> result(align(all.data()), align(all.data()) + l.bytes * tiles);
      result.insert(result.end(), reinterpret_cast<unsigned char*>(c.data()), reinterpret_cast<unsigned char*>(c.data()) + 4 * l.dv);
      if (first.empty()) first = result;
      if (first != result) {
        ok = false;
        std::printf("FAIL tiles of %s differ, d=%ld/%ld n=%ld %s\n", isa->name, static_cast<long>(d), static_cast<long>(dv), static_cast<long>(n), dtype_name(dtype));
      }
    }
  }
  return ok;
}

/// Rows alone (by chunks of keys) and among others (by items of rows), from k and v and from a blob: the same bits.
bool check_decode() {
  bool ok = true;
  for (int i = 0; i < 40; ++i) {
    const std::int64_t dims[] = {16, 40, 64, 128};
    const std::int64_t d = dims[pick(0, 3)], dv = dims[pick(0, 3)], hkv = pick(1, 2), group = pick(1, 2), sq = 40, sk = pick(1, chance(0.5) ? 300 : 9000), few = pick(1, 2),
                       from = pick(0, sq - few);
    const DType dtype = static_cast<DType>(pick(0, 2));
    Tensor q = random_tensor(dtype, 1, sq, hkv * group, d, std::exp2(static_cast<double>(pick(-5, 1))), 0), k = random_tensor(dtype, 1, sk, hkv, d, 1, static_cast<int>(pick(0, 3))),
           v = random_tensor(dtype, 1, sk, hkv, dv, 1, static_cast<int>(pick(0, 3)));
    AttentionArgs args;
    args.q = q.view;
    args.k = k.view;
    args.v = v.view;
    std::vector<float> out(sq * hkv * group * dv, 1), lse(hkv * group * sq, 1), out2(few * hkv * group * dv, 2), lse2(hkv * group * few, 2), out3(out2), lse3(lse2);
    args.out = contiguous_view<void*, 4>(out.data(), DType::f32, {1, sq, hkv * group, dv});
    args.lse = contiguous_view<float*, 3>(lse.data(), DType::f32, {1, hkv * group, sq});
    AttentionOptions options;
    options.method = Method::chitu_int8;
    options.kernel = "cpu_int8_i8";
    const std::int64_t diagonal = pick(-50, sk);
    if (chance(0.5)) {
      options.mask.right = pick(0, 10);
      if (chance(0.5)) options.mask.left = pick(0, sk);
    }
    options.mask.diagonal = diagonal;
    attention(args, options);
    args.q.shape[1] = few;
    args.q.data = q.bytes.data() + static_cast<std::size_t>(from * q.view.stride[1]) * dtype_size(dtype);
    options.mask.diagonal = diagonal + from;
    args.out = contiguous_view<void*, 4>(out2.data(), DType::f32, {1, few, hkv * group, dv});
    args.lse = contiguous_view<float*, 3>(lse2.data(), DType::f32, {1, hkv * group, few});
    attention(args, options);
    QuantizeOptions quantize;
    std::unique_ptr<void, void (*)(void*)> blob(std::aligned_alloc(256, quantized_kv_bytes(args.k, args.v, quantize)), std::free),
        ws(std::aligned_alloc(256, quantize_kv_workspace_bytes(args.k, args.v, quantize) + 256), std::free);
    const QuantizedKV kv = quantize_kv(args.k, args.v, quantize, blob.get(), ws.get());
    args.k = args.v = {};
    args.kv = &kv;
    args.out.data = out3.data();
    args.lse.data = lse3.data();
    attention(args, options);
    bool same = out2 == out3 && lse2 == lse3;
    const bool blob_same = same;
    for (std::int64_t t = 0; t < few; ++t)
      for (std::int64_t h = 0; h < hkv * group; ++h) {
        same = same && std::memcmp(&out[((from + t) * hkv * group + h) * dv], &out2[(t * hkv * group + h) * dv], static_cast<std::size_t>(dv) * 4) == 0;
        same = same && std::memcmp(&lse[h * sq + from + t], &lse2[h * few + t], 4) == 0;
      }
    if (!same) std::printf("FAIL decode %d: sk=%ld d=%ld/%ld few=%ld group=%ld right=%d%s\n", i, static_cast<long>(sk), static_cast<long>(d), static_cast<long>(dv),
                           static_cast<long>(few), static_cast<long>(group), options.mask.right.has_value(), blob_same ? "" : " (blob)");
    ok = ok && same;
  }
  return ok;
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 300, seed = argc > 2 ? std::atoi(argv[2]) : 1, only = argc > 3 ? std::atoi(argv[3]) : -1;
  rng.seed(static_cast<std::uint64_t>(seed));
  int bad = (check_tiers() ? 0 : 1) + (check_decode() ? 0 : 1);
  for (int i = 0; i < cases; ++i) {
    rng.seed(static_cast<std::uint64_t>(seed) * 1000003 + static_cast<std::uint64_t>(i));
    if (only < 0 || only == i) bad += check_case(i, only == i) ? 0 : 1;
  }
  std::printf("%s: %d cases, %d failed\n", cpu_isa().c_str(), cases, bad);
  return bad != 0;
}
