// Correctness and speed of the sm_90 kernels with 8-bit PV, without the library, several variants in one binary.
//   sm90_8bit_bench [check] [repeat] [time] [sweep]      exit 1 if a check fails; ONLY=name part, ALL=1: time the variants that the library does not use too
#include <unistd.h>

#include <cstring>

#include "sm90_bench.cuh"
#include "sm90_reference8.cuh"
#include "sm90_variants8.h"

using bench::Kind;

// Adds what 8-bit PV reads to a prepared problem.
template <class T>
void prepare8(AttentionParams& p, Buffers& mem, const Shape& s, Kind kind, bool flagged) {
  prepare_any<T>(p, mem, s, false);
  const int64_t tiles = int64_t{p.batch} * p.num_heads_kv * p.tiles_k, channels = int64_t{p.batch} * p.num_heads_kv * p.head_dim;
  T* v = static_cast<T*>(const_cast<void*>(p.v.data));
  if (flagged) bench::weaken_tokens<T><<<2048, 256>>>(v, int64_t{p.batch} * p.seqlen_k, p.num_heads_kv * p.head_dim, 0.05f);
  float *absmax = mem.take<float>(channels), *v_scale = mem.take<float>(channels), *scale = mem.take<float>(tiles * 128), *limit = mem.take<float>(tiles),
        *mean = mem.take<float>(tiles * p.head_dim);
  uint8_t* codes = mem.take<uint8_t>(tiles * 128 * p.head_dim);
  bench::channel_absmax<T><<<dim3(p.num_heads_kv, p.batch), p.head_dim>>>(p, absmax);
  bench::make_v8<T><<<dim3(p.tiles_k, p.num_heads_kv, p.batch), 128>>>(p, kind, absmax, codes, v_scale, scale, limit, mean);
  p.v8t = codes;
  p.v_scale = v_scale;
  p.token_scale = scale;
  p.shift_limit = limit;
  p.tile_mean = mean;
  if (kind == Kind::sage) p.k_mean = nullptr;
  CHECK(cudaGetLastError());
  CHECK(cudaDeviceSynchronize());
}

void prepare8(AttentionParams& p, Buffers& mem, const Shape& s, const Variant8& v, bool flagged) {
  v.bf16 ? prepare8<__nv_bfloat16>(p, mem, s, static_cast<Kind>(v.kind), flagged) : prepare8<__half>(p, mem, s, static_cast<Kind>(v.kind), flagged);
}

template <class T>
int check(const Variant8& v, const Shape& s, bool flagged) {
  Buffers mem;
  AttentionParams p;
  const Kind kind = static_cast<Kind>(v.kind);
  prepare8<T>(p, mem, s, kind, flagged);
  int64_t rows = int64_t{s.batch} * s.heads_q * s.seqlen_q;
  double *out = mem.take<double>(rows * s.head_dim), *lse = mem.take<double>(rows), *stats = mem.take<double>(4), h[4];
  CHECK(run(v.launch, p));
  CHECK(cudaDeviceSynchronize());
  bench::reference8<T><<<dim3(s.seqlen_q, s.heads_q, s.batch), 128>>>(p, kind, v.log_words, out, lse);
  CHECK(cudaMemset(stats, 0, 32));
  bench::compare<T><<<64, 128>>>(p, out, lse, stats);
  CHECK(cudaMemcpy(h, stats, 32, cudaMemcpyDeviceToHost));
  const double error = h[1] > 0 ? sqrt(h[0] / h[1]) : sqrt(h[0]);
  // The roundings are the reference's own: what is left are codes within the last bit of a tie, the cut sums of the FP8 accumulator, and the output's type.
  const double bar = (std::is_same_v<T, __half> ? 6e-4 : 5e-3) + (kind == Kind::int8 ? 1e-3 : 3e-3);
  const double lse_bar = (v.log_words ? 1.0 / 16 : 3e-4) + (s.scale >= 0.5f ? 2e-3 : 0);
  const bool ok = error < bar && h[2] < lse_bar && h[3] == 0;
  static const bool verbose = std::getenv("VERBOSE") != nullptr;
  if (!ok || verbose) {
    std::printf("%s %-14s D%d %s B%d H%d/%d Sq%d Sk%d%s w%d%s%s s%g: error %.2e lse %.1e bad %g\n", ok ? "ok  " : "FAIL", v.name, s.head_dim,
                std::is_same_v<T, __half> ? "f16" : "bf16", s.batch, s.heads_q, s.heads_kv, s.seqlen_q, s.seqlen_k, s.causal ? " causal" : "", s.left,
                s.lengths ? " ragged" : "", flagged ? " flagged" : "", s.scale, error, h[2], h[3]);
  }
  return ok ? 0 : 1;
}

int check_all(const Variant8& v) {
  const int d = v.head_dim;
  const std::vector<Shape> shapes = {{1, 1, 1, 128, 128, d},
                                     {1, 2, 2, 300, 1000, d},
                                     {2, 4, 2, 257, 385, d, true},
                                     {1, 2, 1, 200, 2300, d, true},
                                     {1, 1, 1, 500, 130, d, true},
                                     {3, 2, 1, 190, 700, d, true, -1, true},
                                     {3, 2, 2, 129, 640, d, false, -1, true},
                                     {1, 2, 2, 600, 600, d, true, 150},
                                     {1, 1, 1, 33, 1, d},
                                     {1, 2, 2, 128, 1111, d, false, -1, false, 0, 3.f},
                                     {2, 1, 1, 65, 129, d, false, -1, false, 0.5f},
                                     {1, 2, 1, 300, 1500, d, true, -1, false, 2.f},
                                     {1, 2, 1, 300, 1500, d, false, 400, false, 1.f},
                                     {1, 1, 1, 100, 300, d, false, -1, false, -0.1f}};
  int failures = 0;
  for (const Shape& s : shapes) {
    for (bool flagged : {false, true}) {
      if (flagged && static_cast<Kind>(v.kind) != Kind::int8) continue;
      failures += v.bf16 ? check<__nv_bfloat16>(v, s, flagged) : check<__half>(v, s, flagged);
    }
  }
  return failures;
}

// The same call many times: the bits of out and lse must not change.
int repeat(const Variant8& v, int times) {
  Shape s{2, 8, 2, 1000, 1500, v.head_dim, true};
  Buffers mem;
  AttentionParams p;
  prepare8(p, mem, s, v, false);
  int64_t rows = int64_t{s.batch} * s.heads_q * s.seqlen_q, words = rows * s.head_dim / 2;
  uint32_t *out = mem.take<uint32_t>(words), *lse = mem.take<uint32_t>(rows);
  int *count = mem.take<int>(1), h;
  CHECK(cudaMemset(count, 0, 4));
  CHECK(run(v.launch, p));
  CHECK(cudaMemcpy(out, p.out, words * 4, cudaMemcpyDeviceToDevice));
  CHECK(cudaMemcpy(lse, p.lse, rows * 4, cudaMemcpyDeviceToDevice));
  for (int i = 0; i < times; ++i) {
    CHECK(cudaMemsetAsync(p.out, 0xff, words * 4));
    CHECK(run(v.launch, p));
    count_differences<<<256, 256>>>(out, static_cast<const uint32_t*>(p.out), words, count);
    count_differences<<<256, 256>>>(lse, reinterpret_cast<const uint32_t*>(p.lse), rows, count);
  }
  CHECK(cudaMemcpy(&h, count, 4, cudaMemcpyDeviceToHost));
  std::printf("repeat %-14s D%d %d runs, %d words differ\n", v.name, v.head_dim, times, h);
  return h != 0;
}

void time_all(const std::vector<Variant8>& chosen, const std::vector<int>& lengths, const std::string& command) {
  const char* path = std::getenv("JSON");
  std::FILE* json = path ? std::fopen(path, "w") : nullptr;
  bool first = true;
  if (json) {
    cudaDeviceProp device;
    CHECK(cudaGetDeviceProperties(&device, 0));
    const char *hash = std::getenv("GIT_HASH"), *date = std::getenv("DATE"), *driver = std::getenv("DRIVER");
    std::fprintf(json,
                 "{\"gpu\": \"%s\", \"driver\": \"%s\", \"git\": \"%s\", \"date\": \"%s\", \"command\": \"%s\", \"repeats\": 20, \"statistic\": "
                 "\"median\",\n \"results\": [",
                 device.name, driver ? driver : "", hash ? hash : "", date ? date : "", command.c_str());
  }
  for (int causal = 0; causal < 2; ++causal) {
    for (int length : lengths) {
      for (const Variant8& v : chosen) {
        for (bool flagged : {false, true}) {
          if (flagged && static_cast<Kind>(v.kind) != Kind::int8) continue;
          Shape s{std::max(1, 16384 / length), 2048 / v.head_dim, 2048 / v.head_dim, length, length, v.head_dim, causal == 1};
          Buffers mem;
          AttentionParams p;
          prepare8(p, mem, s, v, flagged);
          double spread;
          usleep(150000);  // let the power budget recover: variants must not heat each other
          double tflops = time_launch(v.launch, p, s, 20, &spread);
          if (json) {
            std::fprintf(json,
                         "%s\n  {\"kernel\": \"%s\", \"head_dim\": %d, \"batch\": %d, \"heads\": %d, \"seqlen\": %d, \"causal\": %s, \"flagged\": %s, "
                         "\"kernel_tflops\": %.1f, \"spread_percent\": %.1f}",
                         first ? "" : ",", v.name, v.head_dim, s.batch, s.heads_q, length, causal ? "true" : "false", flagged ? "true" : "false", tflops,
                         spread);
            first = false;
          }
          std::printf("time %-14s D%-3d S%-5d %-6s %-7s %7.1f TFLOPS  spread %.1f%%  %4.0f MHz\n", v.name, v.head_dim, length, causal ? "causal" : "",
                      flagged ? "flagged" : "", tflops, spread, clock_mhz());
          std::fflush(stdout);
        }
      }
    }
  }
  if (json) {
    std::fprintf(json, "\n]}\n");
    std::fclose(json);
  }
}

int main(int argc, char** argv) {
  auto wants = [&](const char* word) {
    for (int i = 1; i < argc; ++i)
      if (!std::strcmp(argv[i], word)) return true;
    return false;
  };
  const char* only = std::getenv("ONLY");
  const bool all = std::getenv("ALL") != nullptr;
  std::vector<Variant8> chosen;
  for (const Variant8& v : variants8())
    if ((!only || std::strstr(v.name, only)) && (all || only || v.library)) chosen.push_back(v);
  int failures = 0;
  if (wants("check")) {
    for (const Variant8& v : chosen) failures += check_all(v);
    std::printf("%d failures\n", failures);
  }
  if (wants("repeat"))
    for (const Variant8& v : chosen) failures += repeat(v, 1000);
  if (wants("time")) time_all(chosen, wants("sweep") ? std::vector<int>{1024, 4096, 16384, 32768} : std::vector<int>{16384}, command_line(argc, argv));
  return failures != 0;
}
