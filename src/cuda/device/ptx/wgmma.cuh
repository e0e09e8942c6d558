// wgmma (sm_90a): asynchronous warpgroup matrix products. One PTX instruction per function.
// d: accumulators of this thread; a: descriptor (SS) or registers (RS); b: descriptor; accumulate = false overwrites d.
#pragma once
#include <cstdint>

namespace chitu::cuda::ptx {

// Order register accesses of the warpgroup before the next wgmma.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Close the group of products issued so far.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Wait until at most kPending of the newest groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Pin registers here: the compiler may move neither their reads nor their writes across.
template <class T, int kCount>
__device__ __forceinline__ void pin(T (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (sizeof(T) == 4 && T(0.5) == T(0)) {
      asm volatile("" : "+r"(r[i])::"memory");
    } else {
      asm volatile("" : "+f"(r[i])::"memory");
    }
  }
}

enum class Swizzle : int { b128 = 1, b64 = 2, b32 = 3 };

// Shared memory matrix descriptor; strides in bytes. K-major: `stride` between groups of 8 rows, `leading` unused.
// MN-major: `leading` between swizzle-wide column chunks, `stride` between groups of 8 k.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t smem_address, uint32_t leading, uint32_t stride, Swizzle swizzle) {
  return static_cast<uint64_t>((smem_address & 0x3FFFF) >> 4) | static_cast<uint64_t>((leading & 0x3FFFF) >> 4) << 16 |
         static_cast<uint64_t>((stride & 0x3FFFF) >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

// clang-format off
#define CHITU_OPS_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define CHITU_OPS_16 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CHITU_OPS_32 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define CHITU_OPS_48 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CHITU_OPS_64 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define CHITU_OPS_80 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define CHITU_OPS_96 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define CHITU_OPS_112 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define CHITU_OPS_TO_32 CHITU_OPS_0 ", " CHITU_OPS_16
#define CHITU_OPS_TO_48 CHITU_OPS_0 ", " CHITU_OPS_16 ", " CHITU_OPS_32
#define CHITU_OPS_TO_36 CHITU_OPS_TO_32 ", %32, %33, %34, %35"
#define CHITU_OPS_TO_52 CHITU_OPS_TO_48 ", %48, %49, %50, %51"
#define CHITU_OPS_TO_68 CHITU_OPS_TO_64 ", %64, %65, %66, %67"
#define CHITU_OPS_TO_64 CHITU_OPS_0 ", " CHITU_OPS_16 ", " CHITU_OPS_32 ", " CHITU_OPS_48
#define CHITU_OPS_TO_128 CHITU_OPS_0 ", " CHITU_OPS_16 ", " CHITU_OPS_32 ", " CHITU_OPS_48 ", " CHITU_OPS_64 ", " CHITU_OPS_80 ", " CHITU_OPS_96 ", " CHITU_OPS_112
#define CHITU_ACC16(c, d, o) c(d[o + 0]), c(d[o + 1]), c(d[o + 2]), c(d[o + 3]), c(d[o + 4]), c(d[o + 5]), c(d[o + 6]), c(d[o + 7]), c(d[o + 8]), c(d[o + 9]), c(d[o + 10]), c(d[o + 11]), c(d[o + 12]), c(d[o + 13]), c(d[o + 14]), c(d[o + 15])
#define CHITU_ACC4(c, d, o) c(d[o + 0]), c(d[o + 1]), c(d[o + 2]), c(d[o + 3])
#define CHITU_ACC32(c, d, o) CHITU_ACC16(c, d, o), CHITU_ACC16(c, d, o + 16)
#define CHITU_ACC48(c, d, o) CHITU_ACC32(c, d, o), CHITU_ACC16(c, d, o + 32)
#define CHITU_ACC64(c, d, o) CHITU_ACC32(c, d, o), CHITU_ACC32(c, d, o + 32)
#define CHITU_ACC36(c, d, o) CHITU_ACC32(c, d, o), CHITU_ACC4(c, d, o + 32)
#define CHITU_ACC52(c, d, o) CHITU_ACC48(c, d, o), CHITU_ACC4(c, d, o + 48)
#define CHITU_ACC68(c, d, o) CHITU_ACC64(c, d, o), CHITU_ACC4(c, d, o + 64)
#define CHITU_ACC128(c, d, o) CHITU_ACC64(c, d, o), CHITU_ACC64(c, d, o + 64)
// clang-format on

// 64 keys, 32 channels of s8, both operands K-major.
__device__ __forceinline__ void wgmma_ss_s8(int32_t (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" CHITU_OPS_TO_32 "}, %32, %33, p;\n}"
      : CHITU_ACC32("+r", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 128 keys, 32 channels of s8, both operands K-major.
__device__ __forceinline__ void wgmma_ss_s8(int32_t (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" CHITU_OPS_TO_64 "}, %64, %65, p;\n}"
      : CHITU_ACC64("+r", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 64 keys, 16 channels of f16, both operands K-major.
__device__ __forceinline__ void wgmma_ss_f16(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" CHITU_OPS_TO_32 "}, %32, %33, p, 1, 1, 0, 0;\n}"
      : CHITU_ACC32("+f", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 128 keys, 16 channels of f16, both operands K-major.
__device__ __forceinline__ void wgmma_ss_f16(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" CHITU_OPS_TO_64 "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : CHITU_ACC64("+f", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 64 keys, 16 channels of bf16, both operands K-major.
__device__ __forceinline__ void wgmma_ss_bf16(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CHITU_OPS_TO_32 "}, %32, %33, p, 1, 1, 0, 0;\n}"
      : CHITU_ACC32("+f", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 128 keys, 16 channels of bf16, both operands K-major.
__device__ __forceinline__ void wgmma_ss_bf16(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" CHITU_OPS_TO_64 "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : CHITU_ACC64("+f", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 64 channels, 16 keys of f16, A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_f16(float (&d)[32], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" CHITU_OPS_TO_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : CHITU_ACC32("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 96 channels, 16 keys of f16, A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_f16(float (&d)[48], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {" CHITU_OPS_TO_48 "}, {%48, %49, %50, %51}, %52, p, 1, 1, 1;\n}"
      : CHITU_ACC48("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 128 channels, 16 keys of f16, A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_f16(float (&d)[64], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" CHITU_OPS_TO_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
      : CHITU_ACC64("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 256 channels, 16 keys of f16, A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_f16(float (&d)[128], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" CHITU_OPS_TO_128 "}, {%128, %129, %130, %131}, %132, p, 1, 1, 1;\n}"
      : CHITU_ACC128("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 64 channels, 16 keys of bf16, A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_bf16(float (&d)[32], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CHITU_OPS_TO_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : CHITU_ACC32("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 96 channels, 16 keys of bf16, A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_bf16(float (&d)[48], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {" CHITU_OPS_TO_48 "}, {%48, %49, %50, %51}, %52, p, 1, 1, 1;\n}"
      : CHITU_ACC48("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 128 channels, 16 keys of bf16, A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_bf16(float (&d)[64], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" CHITU_OPS_TO_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
      : CHITU_ACC64("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 256 channels, 16 keys of bf16, A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_bf16(float (&d)[128], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" CHITU_OPS_TO_128 "}, {%128, %129, %130, %131}, %132, p, 1, 1, 1;\n}"
      : CHITU_ACC128("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 64 channels, 32 keys of e4m3, A in registers, B K-major.
__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[32], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" CHITU_OPS_TO_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1;\n}"
      : CHITU_ACC32("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 128 channels, 32 keys of e4m3, A in registers, B K-major.
__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[64], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" CHITU_OPS_TO_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1;\n}"
      : CHITU_ACC64("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 72 channels, 32 keys of e4m3, A in registers, B K-major.
__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[36], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %41, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n72k32.f32.e4m3.e4m3 {" CHITU_OPS_TO_36 "}, {%36, %37, %38, %39}, %40, p, 1, 1;\n}"
      : CHITU_ACC36("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 96 channels, 32 keys of e4m3, A in registers, B K-major.
__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[48], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k32.f32.e4m3.e4m3 {" CHITU_OPS_TO_48 "}, {%48, %49, %50, %51}, %52, p, 1, 1;\n}"
      : CHITU_ACC48("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 104 channels, 32 keys of e4m3, A in registers, B K-major.
__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[52], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %57, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n104k32.f32.e4m3.e4m3 {" CHITU_OPS_TO_52 "}, {%52, %53, %54, %55}, %56, p, 1, 1;\n}"
      : CHITU_ACC52("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 136 channels, 32 keys of e4m3, A in registers, B K-major.
__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[68], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %73, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n136k32.f32.e4m3.e4m3 {" CHITU_OPS_TO_68 "}, {%68, %69, %70, %71}, %72, p, 1, 1;\n}"
      : CHITU_ACC68("+f", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 64 channels, 32 keys, A of u8 in registers, B of s8 K-major.
__device__ __forceinline__ void wgmma_rs_u8s8(int32_t (&d)[32], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 {" CHITU_OPS_TO_32 "}, {%32, %33, %34, %35}, %36, p;\n}"
      : CHITU_ACC32("+r", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 96 channels, 32 keys, A of u8 in registers, B of s8 K-major.
__device__ __forceinline__ void wgmma_rs_u8s8(int32_t (&d)[48], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k32.s32.u8.s8 {" CHITU_OPS_TO_48 "}, {%48, %49, %50, %51}, %52, p;\n}"
      : CHITU_ACC48("+r", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// 128 channels, 32 keys, A of u8 in registers, B of s8 K-major.
__device__ __forceinline__ void wgmma_rs_u8s8(int32_t (&d)[64], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 {" CHITU_OPS_TO_64 "}, {%64, %65, %66, %67}, %68, p;\n}"
      : CHITU_ACC64("+r", d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

}  // namespace chitu::cuda::ptx
