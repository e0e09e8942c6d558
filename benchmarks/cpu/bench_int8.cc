// Times chitu_int8 on the CPU below the library's front: pre-pass and attention, by the clock of the calling thread's CPU time (1 thread) or wall clock.
// bench_int8 [seqlen] [head_dim] [heads] [causal] [rounds] [threads] [lse]
#include <time.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/codec.h"
#include "core/rotation.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

using namespace chitu;
using namespace chitu::cpu;

namespace {
double seconds(clockid_t c) {
  timespec t;
  clock_gettime(c, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
std::uint64_t state = 88172645463325252ull;
double uniform() {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (static_cast<double>(state >> 11) + 0.5) / 9007199254740992.0;
}
float normal() { return static_cast<float>(std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform())); }
int pad16(int n) { return (n + 15) / 16 * 16; }
std::int64_t align(std::int64_t n) { return (n + 63) / 64 * 64; }
}  // namespace

int main(int argc, char** argv) {
  auto arg = [&](int i, long d) { return argc > i ? std::atol(argv[i]) : d; };
  const std::int64_t n = arg(1, 4096);
  const int hd = static_cast<int>(arg(2, 64)), heads = static_cast<int>(arg(3, 8)), causal = static_cast<int>(arg(4, 0)), rounds = static_cast<int>(arg(5, 6)),
            threads = static_cast<int>(arg(6, 1)), want_lse = static_cast<int>(arg(7, 1));
  set_num_threads(threads);
  const IsaTable& isa = isa_table();
  std::vector<std::uint16_t> q(n * heads * hd), k(q.size()), v(q.size()), out(q.size());
  std::vector<float> lse(n * heads);
  for (auto* x : {&q, &k, &v})
    for (auto& e : *x) e = core::f32_to_f16(normal());
  TileLayout l{hd, hd, pad16(hd), pad16(hd), 0, 0, 0, 0, 0, 0, 0};
  l.v = l.k + kTile * l.dk;
  l.head = l.v + kTile * l.dv;
  l.mean = l.head + 64;
  l.vbar = l.mean + align(4 * l.dk);
  l.token = l.vbar + align(4 * l.dv);
  l.bytes = l.token + 4 * kTile;
  const std::int64_t tiles = (n + kTile - 1) / kTile;
  auto* blob = static_cast<unsigned char*>(std::aligned_alloc(256, align(l.bytes * tiles * heads + 4096)));
  std::vector<float> c(heads * 256), ci(heads * 256);
  float factor[256];
  for (int d = 0; d < 256; ++d) factor[d] = core::rotation_sign(d) ? -1.0f : 1.0f;
  const std::int64_t scratch_bytes = align(std::max<std::int64_t>(isa.lut_scratch_bytes(l.dk, l.dv), 2 * kTile * 4 * std::max(l.dk, l.dv)));
  auto* scratch = static_cast<char*>(std::aligned_alloc(256, scratch_bytes * threads + 4096));
  std::memset(scratch, 0, scratch_bytes * threads);
  const std::int64_t stride = static_cast<std::int64_t>(heads) * hd, items = (n + isa.rows_per_item - 1) / isa.rows_per_item;
  double best_pre = 1e9, best_all = 1e9, peak = 0;
  const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  for (int round = 0; round < rounds; ++round) {
    const double p0 = seconds(CLOCK_THREAD_CPUTIME_ID);
    const auto ops = static_cast<double>(isa.dot_peak(1000000));
    peak = std::max(peak, ops / (seconds(CLOCK_THREAD_CPUTIME_ID) - p0) * 1e-9);
    const double t0 = seconds(clock);
    parallel_run(heads, threads, [&](std::int64_t h, int) { isa.channel_weights({v.data() + h * hd, stride, Elem::f16}, n, hd, l.dv, &c[h * 256], &ci[h * 256]); });
    parallel_run(heads * tiles, threads, [&](std::int64_t i, int slot) {
      const std::int64_t h = i / tiles;
      const QuantizeArgs a{{k.data() + h * hd, stride, Elem::f16},
                           {v.data() + h * hd, stride, Elem::f16},
                           n,
                           l,
                           blob + h * tiles * l.bytes,
                           &ci[h * 256],
                           nullptr,
                           factor,
                           KQuant::tile_groups,
                           true,
                           4.0f};
      isa.quantize_tile(a, i % tiles, scratch + slot * scratch_bytes);
    });
    const double t1 = seconds(clock);
    parallel_run(heads * items, threads, [&](std::int64_t i, int slot) {
      const std::int64_t h = i % heads;
      AttendArgs a{};
      a.q = {q.data() + h * hd, stride, Elem::f16};
      a.out = out.data() + h * hd;
      a.out_stride = stride;
      a.out_elem = Elem::f16;
      a.lse = want_lse ? lse.data() + h * n : nullptr;
      a.lse_stride = 1;
      a.group = 1;
      a.seqlen_q = a.seqlen_k = n;
      a.left = std::int64_t{1} << 60;
      a.right = causal ? 0 : a.left;
      a.softmax_scale = 1.0f / std::sqrt(static_cast<float>(hd));
      a.layout = l;
      a.tiles = blob + h * tiles * l.bytes;
      a.channel = &c[h * 256];
      a.factor = factor;
      isa.attend_lut(a, items - 1 - i / heads, scratch + slot * scratch_bytes);
    });
    const double t2 = seconds(clock);
    best_pre = std::min(best_pre, t1 - t0);
    best_all = std::min(best_all, t2 - t0);
  }
  const double flops = 4.0 * heads * static_cast<double>(n) * n * hd * (causal ? 0.5 : 1);
  // sampled rows against f64
  double err = 0, ref2 = 0, lse_err = 0;
  for (int row = 0; row < 24; ++row) {
    const int h = row % heads;
    const std::int64_t i = (row * 7919 + 13) % n, end = causal ? i + 1 : n;
    std::vector<double> p(end);
    double m = -1e300, sum = 0;
    for (std::int64_t j = 0; j < end; ++j) {
      double s = 0;
      for (int d = 0; d < hd; ++d) s += static_cast<double>(core::f16_to_f32(q[i * stride + h * hd + d])) * core::f16_to_f32(k[j * stride + h * hd + d]);
      p[j] = s / std::sqrt(static_cast<double>(hd));
      m = std::max(m, p[j]);
    }
    for (auto& x : p) sum += x = std::exp(x - m);
    for (int d = 0; d < hd; ++d) {
      double o = 0;
      for (std::int64_t j = 0; j < end; ++j) o += p[j] * core::f16_to_f32(v[j * stride + h * hd + d]);
      o /= sum;
      const double e = core::f16_to_f32(out[i * stride + h * hd + d]) - o;
      err += e * e;
      ref2 += o * o;
    }
    lse_err = std::max(lse_err, std::fabs(lse[h * n + i] - (m + std::log(sum))));
  }
  std::printf("%s S=%ld D=%d H=%d causal=%d threads=%d: %.1f GFLOP/s = %.1f %% of %d x %.0f (%.2f ms, pre-pass %.2f ms = %.1f %%), nrmse %.2f %%, lse error %.1e\n", isa.name,
              static_cast<long>(n), hd, heads, causal, threads, flops / best_all * 1e-9, 100 * flops / best_all * 1e-9 / (peak * threads), threads, peak, best_all * 1e3, best_pre * 1e3, 100 * best_pre / best_all,
              100 * std::sqrt(err / ref2), want_lse ? lse_err : 0.0);
}
