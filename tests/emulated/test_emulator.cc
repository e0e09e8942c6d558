// The emulator itself: what it must report, in kernels of a few lines.

#include <gtest/gtest.h>

#include <cuda.h>

#include <string>
#include <type_traits>
#include <vector>

#include "cuda/launch.h"
#include "emulated/device.h"

// After device.h.
#include "cuda/device/ptx/mma.cuh"
#include "cuda/device/ptx/shared.cuh"
#include "cuda/device/ptx/sync.cuh"
#include "cuda/device/ptx/tma.cuh"
#include "cuda/device/ptx/wgmma.cuh"
#include "cuda/sm80/ptx.cuh"

namespace chitu::test {
namespace {

namespace ptx = cuda::ptx;
namespace ptx80 = cuda::sm80::ptx;

/// "" or the fault of a launch of `threads` threads with 64 KB of dynamic shared memory.
template <class... Params>
std::string run(void (*kernel)(Params...), int threads, std::type_identity_t<Params>... params) {
  return cuda::launch_kernel(kernel, 1, threads, 64 * 1024, nullptr, params...) == cudaSuccess ? "" : emulated::last_fault();
}
/// The same in every order.
template <class... Params>
std::string run_often(void (*kernel)(Params...), int threads, std::type_identity_t<Params>... params) {
  std::string fault;
  for (int i = 0; i < 8 && fault.empty(); ++i) fault = run(kernel, threads, params...);
  return fault;
}

#define EXPECT_FAULT(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Emulator, ReportsADeadlock) {
  const auto fault = run(
      +[] {
        if (threadIdx.x < 32) ptx::bar_sync(1, 96);
        __syncthreads();
      },
      64);
  EXPECT_FAULT(fault, "32 threads (0..31) wait for named barrier 0x1");
  EXPECT_FAULT(fault, "32 threads (32..63) wait for __syncthreads");
}

TEST(Emulator, ReportsLanesThatDisagree) {
  EXPECT_FAULT(run(
                   +[] { threadIdx.x % 2 ? __syncwarp() : static_cast<void>(__any_sync(~0u, 1)); }, 32),
               "while other lanes of its warp are in");
  EXPECT_FAULT(run(
                   +[] {
                     if (threadIdx.x != 3) __syncwarp();
                   },
                   32),
               "__syncwarp");
  EXPECT_FAULT(run(
                   +[] { __syncwarp(0xffff); }, 32),
               "whole warps");
}

/// The order of warps changes from launch to launch, and a warp runs ahead: a missing barrier changes what is read in some.
TEST(Emulator, AMissingBarrierShows) {
  std::vector<int> out(64);
  const auto kernel = +[](int* to) {
    __shared__ int from[64];
    from[threadIdx.x] = static_cast<int>(threadIdx.x);
    to[threadIdx.x] = from[63 - threadIdx.x];
  };
  bool wrong = false;
  for (int i = 0; i < 8; ++i) {
    ASSERT_EQ(run(kernel, 64, out.data()), "");
    for (int t = 0; t < 64; ++t) wrong = wrong || out[static_cast<std::size_t>(t)] != 63 - t;
  }
  EXPECT_TRUE(wrong);
}

TEST(Emulator, SharedMemoryStartsPoisoned) {
  std::vector<int> out(2);
  const auto kernel = +[](int* to) {
    __shared__ int fixed;
    CHITU_DYNAMIC_SHARED(int, 16, dynamic);
    to[0] = fixed;
    to[1] = dynamic[5];
    fixed = dynamic[5] = 1;
  };
  for (int i = 0; i < 8; ++i) {
    ASSERT_EQ(run(kernel, 1, out.data()), "");
    EXPECT_TRUE(out[0] == -1 || out[0] == 0x5a5a5a5a) << out[0];
    EXPECT_EQ(out[0], out[1]);
  }
}

TEST(Emulator, ReportsAStoreBehindSharedMemory) {
  EXPECT_FAULT(run(
                   +[] {
                     CHITU_DYNAMIC_SHARED(char, 16, shared);
                     shared[64 * 1024 + 3] = 1;
                   },
                   1),
               "behind its 65536 bytes");
}

TEST(Emulator, ACopyLandsWhenItIsWaitedFor) {
  alignas(16) std::uint32_t from[4] = {1, 2, 3, 4}, out[2] = {};
  ASSERT_EQ(run(
                +[](const std::uint32_t* source, std::uint32_t* to) {
                  CHITU_DYNAMIC_SHARED(std::uint32_t, 16, shared);
                  shared[3] = 9;
                  ptx80::cp_async_16(ptx80::shared_address(shared), source, 8);
                  ptx80::cp_async_commit();
                  to[0] = shared[1];
                  ptx80::cp_async_wait<0>();
                  to[1] = shared[1] + shared[3];
                },
                1, from, out),
            "");
  EXPECT_TRUE(out[0] == 0x5a5a5a5a || out[0] == 0xffffffff);
  EXPECT_EQ(out[1], 2u);
  EXPECT_FAULT(run(
                   +[](const std::uint32_t* source) {
                     CHITU_DYNAMIC_SHARED(std::uint32_t, 16, shared);
                     ptx80::cp_async_16(ptx80::shared_address(shared), source, 16);
                     ptx80::cp_async_commit();
                   },
                   1, from),
               "without waiting for its cp.async");
  EXPECT_FAULT(run(
                   +[](const std::uint32_t* source) { ptx80::cp_async_16(64 * 1024 + emulated::kDynamicShared, source, 16); }, 1, from),
               "not in the 65536 bytes");
}

TEST(Emulator, MbarriersCountPhases) {
  ASSERT_EQ(run_often(
                +[] {
                  CHITU_DYNAMIC_SHARED(std::uint64_t, 16, barrier);
                  if (threadIdx.x == 0) ptx::mbarrier_init(barrier, 64);
                  __syncthreads();
                  for (unsigned i = 0; i < 5; ++i) {
                    ptx::mbarrier_arrive(barrier);
                    ptx::mbarrier_wait(barrier, i % 2);
                  }
                },
                64),
            "");
  EXPECT_FAULT(run(
                   +[] {
                     CHITU_DYNAMIC_SHARED(std::uint64_t, 16, barrier);
                     ptx::mbarrier_init(barrier, 1);
                     ptx::mbarrier_arrive_expect_tx(barrier, 16);
                     ptx::mbarrier_wait(barrier, 0);
                   },
                   1),
               "mbarrier, parity 0");
  EXPECT_FAULT(run(
                   +[] {
                     CHITU_DYNAMIC_SHARED(std::uint64_t, 16, barrier);
                     ptx::mbarrier_wait(barrier, 0);
                   },
                   1),
               "there is no mbarrier");
}

struct Map {
  CUtensorMap map;
};

/// 6 rows of 5 chunks of 16 bytes, loaded as a box of 8 x 4 from column -8 and row -1 on: what lies outside is zero.
TEST(Emulator, TensorLoadsSwizzleAndFillWithZeros) {
  alignas(16) static std::uint16_t tensor[6 * 40];
  for (int i = 0; i < 240; ++i) tensor[i] = static_cast<std::uint16_t>(i + 1);
  Map m;
  const cuuint64_t size[] = {40, 6, 1}, stride[] = {80, 480};
  const cuuint32_t box[] = {32, 8, 1}, step[] = {1, 1, 1};
  ASSERT_EQ(cuTensorMapEncodeTiled(&m.map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 3, tensor, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                   CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            CUDA_SUCCESS);
  std::vector<std::uint16_t> out(8 * 32);
  const auto kernel = +[](Map map, std::uint16_t* to, bool fence) {
    CHITU_DYNAMIC_SHARED(char, 16, raw);
    char* shared = raw + ((1024 - (ptx::smem_u32(raw) & 1023)) & 1023);
    auto* barrier = reinterpret_cast<std::uint64_t*>(shared + 1024);
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(barrier, 1);
      if (fence) ptx::fence_barrier_init();
      ptx::mbarrier_arrive_expect_tx(barrier, 512);
      ptx::tma_load_3d(shared, &map, barrier, -8, -1, 0);
      to[0] = *reinterpret_cast<std::uint16_t*>(shared + 64);
    }
    __syncthreads();
    ptx::mbarrier_wait(barrier, 0);
    if (threadIdx.x != 0) return;
    if (to[0] != 0x5a5a && to[0] != 0xffff) return;  // landed too early
    std::memcpy(to, shared, 512);
  };
  ASSERT_EQ(run_often(kernel, 64, m, out.data(), true), "");
  for (int r = 0; r < 8; ++r)
    for (int c = 0; c < 32; ++c) {
      const int row = r - 1, column = c - 8, chunk = c / 8 ^ (r / 2 % 4);
      const int want = row < 0 || row >= 6 || column < 0 ? 0 : row * 40 + column + 1;
      EXPECT_EQ(out[static_cast<std::size_t>(r * 32 + chunk * 8 + c % 8)], want) << r << " " << c;
    }
  EXPECT_FAULT(run(kernel, 64, m, out.data(), false), "before fence.mbarrier_init");
}

enum class Wgmma { right, no_fence, no_wait, no_proxy_fence, spoilt_registers };

/// d = a b with a of ones in registers and b[k][n] = k + n, MN-major, 16 x 64, written by ordinary stores.
void wgmma_kernel(float* out, Wgmma what) {
  CHITU_DYNAMIC_SHARED(char, 16, raw);
  char* shared = raw + ((1024 - (ptx::smem_u32(raw) & 1023)) & 1023);
  for (unsigned i = threadIdx.x; i < 16 * 64; i += 128) {
    const unsigned k = i / 64, n = i % 64, at = emulated::swizzled(ptx::smem_u32(shared) + k * 128 + n * 2, 128) - ptx::smem_u32(shared);
    *reinterpret_cast<std::uint16_t*>(shared + at) = static_cast<std::uint16_t>(emulated::pack_f16(static_cast<float>(k + n), 0));
  }
  if (what != Wgmma::no_proxy_fence) ptx::fence_proxy_async();
  __syncthreads();
  float d[32];
  for (float& x : d) x = 1;
  std::uint32_t a[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00};
  if (what != Wgmma::no_fence) ptx::wgmma_fence();
  ptx::wgmma_rs_f16(d, a, ptx::wgmma_descriptor(ptx::smem_u32(shared), 16, 1024, ptx::Swizzle::b128), true);
  ptx::wgmma_commit();
  if (what == Wgmma::spoilt_registers) a[0] = 0;
  const bool before = d[0] == d[0];
  if (what != Wgmma::no_wait) ptx::wgmma_wait<0>();
  const unsigned row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
  for (unsigned i = 0; i < 32; ++i) out[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2] = before ? -1 : d[i];
}

TEST(Emulator, WgmmaRunsWhenItIsWaitedFor) {
  std::vector<float> out(64 * 64);
  const auto correct = [&] {
    for (int r = 0; r < 64; ++r)
      for (int n = 0; n < 64; ++n)
        if (out[static_cast<std::size_t>(r * 64 + n)] != static_cast<float>(1 + 120 + 16 * n)) return false;
    return true;
  };
  EXPECT_EQ(run_often(wgmma_kernel, 128, out.data(), Wgmma::right), "");
  EXPECT_TRUE(correct());
  EXPECT_FAULT(run(wgmma_kernel, 128, out.data(), Wgmma::no_fence), "without a wgmma.fence");
  EXPECT_FAULT(run(wgmma_kernel, 128, out.data(), Wgmma::no_wait), "did not commit or wait for");
  for (Wgmma what : {Wgmma::no_proxy_fence, Wgmma::spoilt_registers}) {
    EXPECT_EQ(run(wgmma_kernel, 128, out.data(), what), "");
    EXPECT_FALSE(correct());
  }
}

}  // namespace
}  // namespace chitu::test
