// What the kernels of the pre-pass take, method by method, as a share of a device-to-device copy's speed over the bytes that each must move.
//   prepass_bench        median of 21 runs; ONLY=name of a method, BF16=1: bf16 instead of f16, TILES=0: V of chitu_fast and sage2 as the generic rows read it
// It checks nothing (tests/cuda does). Built by benchmarks/kernels/build.sh.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/codec.h"
#include "cuda/prepass.h"

using namespace chitu;
using cuda::kTile;

namespace {

constexpr int kRuns = 21;

struct Shape {
  int batch, seqlen, heads, head_dim;
  std::int64_t elements() const { return std::int64_t{batch} * seqlen * heads * head_dim; }
};

__global__ void fill(std::uint16_t* x, std::int64_t n, bool bf16, std::uint32_t seed) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < n; i += std::int64_t{gridDim.x} * blockDim.x) {
    float sum = -2.0f;
    std::uint32_t r = static_cast<std::uint32_t>(i) * 2654435761u + seed;
    for (int k = 0; k < 4; ++k) r = r * 1664525u + 1013904223u, sum += static_cast<float>(r >> 8) * 5.9604645e-8f;  // nearly normal
    x[i] = bf16 ? core::f32_to_bf16(sum) : core::f32_to_f16(sum);
  }
}

struct Memory {
  void* data = nullptr;
  explicit Memory(std::size_t bytes) { CHITU_CUDA(cudaMalloc(&data, bytes)); }
  ~Memory() { cudaFree(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

float median(std::vector<float> x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

float elapsed_us(cudaEvent_t begin, cudaEvent_t end) {
  float ms = 0;
  CHITU_CUDA(cudaEventElapsedTime(&ms, begin, end));
  return ms * 1e3f;
}

template <class Body>
float time_us(const Body& body) {
  cudaEvent_t begin, end;
  CHITU_CUDA(cudaEventCreate(&begin));
  CHITU_CUDA(cudaEventCreate(&end));
  std::vector<float> us;
  for (int i = -2; i < kRuns; ++i) {
    CHITU_CUDA(cudaEventRecord(begin));
    body();
    CHITU_CUDA(cudaEventRecord(end));
    CHITU_CUDA(cudaEventSynchronize(end));
    if (i >= 0) us.push_back(elapsed_us(begin, end));
  }
  CHITU_CUDA(cudaEventDestroy(begin));
  CHITU_CUDA(cudaEventDestroy(end));
  return median(us);
}

// The buffers and parameters of one method's pre-pass over q, k and v of one shape.
struct Prepass {
  cuda::KvShape shape;
  cuda::KvBuffers kv;
  cuda::KvScratch scratch;
  cuda::View q, k, v;
  cuda::QuantizePairParams rows{};
  std::unique_ptr<Memory> workspace;
  std::int64_t v_bytes = 0;  // written

  Prepass(Method method, DType dtype, const Shape& s, bool e4m3_tiles, void* q_data, void* k_data, void* v_data) {
    const core::Scheme scheme = core::resolve_scheme(method, dtype, {});
    const std::int64_t tiles = cuda::div_up(s.seqlen, kTile), total = std::int64_t{s.batch} * s.seqlen;
    const cuda::Sequence sequence{nullptr, nullptr, nullptr, s.seqlen, s.seqlen, total, total, tiles * kTile, tiles, s.batch, false};
    shape = {scheme, dtype, sequence, s.heads, s.head_dim, s.head_dim, false, e4m3_tiles};
    const auto view = [&](void* data) {
      return cuda::View{data, std::int64_t{s.seqlen} * s.heads * s.head_dim, std::int64_t{s.heads} * s.head_dim, s.head_dim, dtype, true};
    };
    q = view(q_data), k = view(k_data), v = view(v_data);
    const bool mean_dot = scheme.k_center == core::Center::sequence_mean;
    cuda::QuantizeRowsParams of_q{};
    const auto take = [&](core::Workspace& ws) {
      kv = cuda::take_kv(shape, ws);
      scratch = cuda::take_scratch(shape, ws);
      const std::int64_t q_rows = std::int64_t{s.batch} * s.heads * sequence.q_rows;
      of_q.codes = ws.take<std::int8_t>(q_rows * cuda::code_dim(s.head_dim));
      of_q.scale = ws.take<float>(q_rows);
      if (mean_dot) of_q.mean_dot = ws.take<float>(q_rows);
    };
    core::Workspace measure;
    take(measure);
    workspace = std::make_unique<Memory>(measure.used());
    core::Workspace carve(workspace->data, measure.used());
    take(carve);
    of_q.x = q;
    of_q.sequence = sequence;
    of_q.is_q = true;
    of_q.factor = kv.q_factor;
    of_q.heads = s.heads, of_q.head_dim = s.head_dim, of_q.heads_per_kv = 1;
    cuda::set_grain(of_q, scheme.q_grain);
    of_q.sequence_mean = mean_dot ? kv.sequence_mean : nullptr;
    of_q.softmax_scale = 0.1f;
    rows.k = cuda::k_rows(shape, kv, scratch, k);
    rows.q = of_q;
    rows.k_blocks = std::int64_t{s.batch} * s.heads * tiles;
    rows.blocks = 2 * rows.k_blocks;
    v_bytes = kv.v16 != nullptr ? 2 * s.elements() : kv.v8t != nullptr ? s.elements() : 0;
  }

  void run() const {
    cuda::prepare_statistics(shape, kv, scratch, k, v, nullptr);
    cuda::quantize_rows(rows, nullptr);
    cuda::prepare_v(shape, kv, scratch, v, nullptr);
  }

  // Bytes that a kernel has to move; 0: too few to matter.
  std::int64_t bytes_of(const std::string& kernel, const Shape& s) const {
    const auto is = [&](const char* name) { return kernel.find(name) != std::string::npos; };
    const std::int64_t n = s.elements();
    if (is("quantize_rows_kernel")) return 2 * 3 * n;
    if (is("tile_statistics_kernel")) return (kv.sequence_mean != nullptr ? 2 * n : 0) + (scratch.v_factor != nullptr ? 2 * n : 0);
    if (is("sample_squares_kernel")) return 2 * n / 8;
    return is("v_rows_kernel") || is("v_tiles_kernel") ? 2 * n + v_bytes : 0;
  }
};

// "v_tiles_kernel<..>" of a mangled name: the identifiers that end in _kernel are enough to tell the kernels apart.
std::string short_name(const void* kernel) {
  const char* mangled = nullptr;
  CHITU_CUDA(cudaFuncGetName(&mangled, kernel));
  for (const char* name : {"quantize_rows_kernel", "tile_statistics_kernel", "head_statistics_kernel", "sample_squares_kernel", "channel_weights_kernel",
                           "key_factors_kernel", "v_rows_kernel", "v_tiles_kernel"})
    if (std::strstr(mangled, name) != nullptr) return name;
  return mangled;
}

void time_method(Method method, DType dtype, const Shape& s, bool e4m3_tiles, void* const (&data)[3], double copy_speed) {
  const Prepass prepass(method, dtype, s, e4m3_tiles, data[0], data[1], data[2]);
  const float whole = time_us([&] { prepass.run(); });
  std::vector<cuda::TimedLaunch> launches;
  std::vector<std::string> order;
  std::map<std::string, std::vector<float>> us;
  cuda::timed_launches = &launches;
  for (int i = 0; i < kRuns; ++i) {
    launches.clear();
    prepass.run();
    CHITU_CUDA(cudaDeviceSynchronize());
    for (const cuda::TimedLaunch& t : launches) {
      const std::string name = short_name(t.kernel);
      if (i == 0) order.push_back(name);
      us[name].push_back(elapsed_us(t.begin, t.end));
      CHITU_CUDA(cudaEventDestroy(t.begin));
      CHITU_CUDA(cudaEventDestroy(t.end));
    }
  }
  cuda::timed_launches = nullptr;
  const auto share = [&](std::int64_t bytes, float t) { return static_cast<double>(bytes) / t / 1e3 / copy_speed * 100; };
  const std::int64_t least = 6 * s.elements() + (prepass.v_bytes > 0 ? 2 * s.elements() + prepass.v_bytes : 0);  // everything read once
  std::printf("  %-15s %8.1f us  %3.0f %% of copy over %.1f MB\n", std::string(method_name(method)).c_str(), whole, share(least, whole),
              static_cast<double>(least) / 1e6);
  for (const std::string& name : order) {
    const float t = median(us[name]);
    const std::int64_t bytes = prepass.bytes_of(name, s);
    std::printf("    %-26s %6.1f us", name.c_str(), t);
    if (bytes > 0) std::printf("  %3.0f %%", share(bytes, t));
    std::printf("\n");
  }
}

}  // namespace

int main() {
  const char *only = std::getenv("ONLY"), *tiles = std::getenv("TILES");
  const bool bf16 = std::getenv("BF16") != nullptr, e4m3_tiles = tiles == nullptr || std::strcmp(tiles, "0") != 0;
  const DType dtype = bf16 ? DType::bf16 : DType::f16;
  for (const Shape& s : {Shape{1, 16384, 16, 128}, Shape{1, 16384, 32, 64}, Shape{4, 4096, 16, 128}, Shape{1, 16384, 8, 256}}) {
    const std::size_t bytes = static_cast<std::size_t>(2 * s.elements());
    const Memory q(bytes), k(bytes), v(bytes);
    void* const data[3] = {q.data, k.data, v.data};
    for (int i = 0; i < 3; ++i) fill<<<1024, 256>>>(static_cast<std::uint16_t*>(data[i]), s.elements(), bf16, 12345u * (i + 1));
    CHITU_CUDA(cudaDeviceSynchronize());
    const float copy = time_us([&] { CHITU_CUDA(cudaMemcpyAsync(data[0], data[1], bytes, cudaMemcpyDeviceToDevice)); });
    const double speed = 2.0 * static_cast<double>(bytes) / copy / 1e3;  // GB/s
    std::printf("%d x %d x %d x %d %s: copy %.1f us, %.0f GB/s\n", s.batch, s.seqlen, s.heads, s.head_dim, bf16 ? "bf16" : "f16", copy, speed);
    for (Method m : {Method::chitu, Method::chitu_int8, Method::chitu_fast, Method::sage1, Method::sage2, Method::int_flash, Method::int_flash_half}) {
      if (only != nullptr && method_name(m) != only) continue;
      time_method(m, dtype, s, e4m3_tiles, data, speed);
      std::fflush(stdout);
    }
  }
  return 0;
}
