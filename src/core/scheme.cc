#include "core/scheme.h"

#include <array>
#include <utility>

#include "chitu/error.h"
#include "core/check.h"

namespace chitu::core {
namespace {

constexpr std::array<std::pair<Method, std::string_view>, 9> kNames = {{{Method::automatic, "automatic"},
                                                                        {Method::exact, "exact"},
                                                                        {Method::sage1, "sage1"},
                                                                        {Method::sage2, "sage2"},
                                                                        {Method::int_flash, "int_flash"},
                                                                        {Method::int_flash_half, "int_flash_half"},
                                                                        {Method::chitu, "chitu"},
                                                                        {Method::chitu_int8, "chitu_int8"},
                                                                        {Method::chitu_fast, "chitu_fast"}}};

constexpr Grain kPerToken{1, 1};
constexpr Grain kTileThread{128, 4};  // 4 groups of 32 keys: tokens 8i + 2g + {0, 1}, one per thread column of an mma tile

PFormat sixteen_bit(DType input) { return input == DType::bf16 ? PFormat::bf16 : PFormat::f16; }

Scheme own_scheme(Method method, DType input) {
  Scheme s;
  s.method = method;
  s.rotate = true;
  s.k_center = Center::tile_mean;
  s.k_weights = true;
  s.q_grain = kPerToken;
  s.k_grain = kTileThread;
  if (method == Method::chitu) {
    s.p = sixteen_bit(input);
    s.p_range = input == DType::bf16 ? 1.0f : 128.0f;  // keeps f16 P of a lagging maximum (2^8 * 2^7 = 2^15) in range and small P out of the subnormals
    s.p_ref = PReference::lazy;
    s.lazy_octaves = 8.0f;
    s.v = input == DType::bf16 ? VFormat::bf16 : VFormat::f16;
  } else if (method == Method::chitu_int8) {
    s.p = PFormat::u8;
    s.p_range = 255.0f;
    s.p_ref = PReference::tile;
    s.p_sum = PSum::corrected;
    s.v = VFormat::s8_c3;
    s.accumulate = Accumulate::tile_s32;
  } else {
    s.p = PFormat::e4m3;
    s.p_range = 256.0f;
    s.p_ref = PReference::tile;
    s.p_sum = PSum::quantized;
    s.v = VFormat::e4m3_channel;
    s.v_range = 448.0f;
    s.accumulate = Accumulate::tile_f32;
    s.exponential = Exponential::log_code;
    s.log_code_mask = 0x55555555u;
  }
  return s;
}

Scheme sage_scheme(Method method) {
  Scheme s;
  s.method = method;
  s.k_center = Center::sequence_mean;
  if (method == Method::sage1) {
    s.q_grain = {128, 1};
    s.k_grain = {64, 1};
    s.p = PFormat::f16;
    s.v = VFormat::f16;
    s.accumulate = Accumulate::tile_f16;
    s.tile_n = 64;
  } else {
    s.q_grain = {16, 8};  // SageAttention's Hopper grouping: rows 16b + t, 16b + t + 8
    s.k_grain = {128, 4};
    s.p = PFormat::e4m3;
    s.p_range = 448.0f;
    s.v = VFormat::e4m3_channel;
    s.v_range = 448.0f;
    s.accumulate = Accumulate::fp8_tile;
    s.tile_n = 128;
  }
  return s;
}

Scheme int_flash_scheme(Method method, DType input) {
  Scheme s;
  s.method = method;
  s.q_grain = kPerToken;
  s.k_grain = kPerToken;
  if (method == Method::int_flash) {
    s.p = PFormat::s8;
    s.p_range = 127.0f;
    s.v = VFormat::s8_tensor;
    s.accumulate = Accumulate::tile_s32;
    s.tile_n = 32;  // the block size of the original ChituAttention's tables
  } else {
    s.p = sixteen_bit(input);
    s.v = input == DType::bf16 ? VFormat::bf16 : VFormat::f16;
    s.tile_n = 64;
  }
  return s;
}

void apply_granularity(Scheme& s, Granularity granularity, FragmentFamily family) {
  const bool sm90 = family == FragmentFamily::sm90;
  switch (granularity) {
    case Granularity::per_block:
      s.q_grain = {128, 1};
      s.k_grain = {64, 1};
      break;
    case Granularity::per_warp:
      s.q_grain = {sm90 ? 16 : 32, 1};
      s.k_grain = {sm90 ? 128 : 64, 1};
      break;
    case Granularity::per_thread:
      s.q_grain = {sm90 ? 16 : 32, 8};
      s.k_grain = {sm90 ? 128 : 64, 4};
      break;
    case Granularity::per_token:
      s.q_grain = kPerToken;
      s.k_grain = kPerToken;
      break;
  }
  if (s.method == Method::sage2) s.tile_n = sm90 ? 128 : 64;
}

void apply_accumulation(Scheme& s, PvAccumulation accumulation) {
  const bool fp8 = s.method == Method::sage2;
  switch (accumulation) {
    case PvAccumulation::fp32:
      s.accumulate = fp8 ? Accumulate::fp8_direct : Accumulate::f32;
      return;
    case PvAccumulation::fp32_fp32:
      CHITU_CHECK(fp8, "scheme.pv_accumulation: fp32_fp32 belongs to sage2 (FP8 PV); sage1 takes fp32, fp16 or fp16_fp32");
      s.accumulate = Accumulate::fp8_tile;
      return;
    case PvAccumulation::fp32_fp16:  // SageAttention2++: 448 * 2.25 * 64 keys = 64512 fits f16
      CHITU_CHECK(fp8, "scheme.pv_accumulation: fp32_fp16 belongs to sage2 (FP8 PV); sage1 takes fp32, fp16 or fp16_fp32");
      s.accumulate = Accumulate::tile_f16;
      s.v_range = 2.25f;
      s.tile_n = 64;
      return;
    case PvAccumulation::fp16:
    case PvAccumulation::fp16_fp32:
      CHITU_CHECK(!fp8, "scheme.pv_accumulation: fp16 and fp16_fp32 belong to sage1 (16-bit PV); sage2 takes fp32, fp32_fp32 or fp32_fp16");
      s.accumulate = accumulation == PvAccumulation::fp16 ? Accumulate::f16 : Accumulate::tile_f16;
      return;
  }
}

}  // namespace

Scheme default_scheme(Method method, DType input) {
  switch (method) {
    case Method::sage1:
    case Method::sage2:
      return sage_scheme(method);
    case Method::int_flash:
    case Method::int_flash_half:
      return int_flash_scheme(method, input);
    case Method::chitu:
    case Method::chitu_int8:
    case Method::chitu_fast:
      return own_scheme(method, input);
    case Method::automatic:
    case Method::exact:
      break;
  }
  Scheme s;
  s.method = Method::exact;
  if (input == DType::f32) return s;
  s.p = sixteen_bit(input);
  s.v = input == DType::bf16 ? VFormat::bf16 : VFormat::f16;
  return s;
}

Scheme resolve_scheme(Method method, DType input, const SchemeOptions& o) {
  Scheme s = default_scheme(method, input);
  const bool sage = method == Method::sage1 || method == Method::sage2;
  const bool int_flash = method == Method::int_flash || method == Method::int_flash_half;
  const std::string_view name = method_name(method);
  CHITU_CHECK(!o.granularity || *o.granularity <= Granularity::per_token, "scheme.granularity: want a member of the enum, got ",
              static_cast<int>(*o.granularity));
  CHITU_CHECK(!o.family || *o.family <= FragmentFamily::mma_sync, "scheme.family: want a member of the enum, got ", static_cast<int>(*o.family));
  CHITU_CHECK(!o.pv_accumulation || *o.pv_accumulation <= PvAccumulation::fp16_fp32, "scheme.pv_accumulation: want a member of the enum, got ",
              static_cast<int>(*o.pv_accumulation));
  CHITU_CHECK(sage || !(o.granularity || o.family || o.pv_accumulation),
              "scheme.granularity, family, pv_accumulation: only sage1 and sage2 take them, the method is ", name);
  CHITU_CHECK(sage || int_flash || !(o.smooth_k || o.smooth_q || o.smooth_v),
              "scheme.smooth_k, smooth_q, smooth_v: only the sage and int_flash methods take them, the method is ", name);
  const Granularity granularity = o.granularity.value_or(method == Method::sage2 ? Granularity::per_thread : Granularity::per_block);
  CHITU_CHECK(!o.family || method == Method::sage2 || granularity == Granularity::per_warp || granularity == Granularity::per_thread,
              "scheme.family: in sage1 only granularities per_warp and per_thread depend on it; set scheme.granularity to one of them");
  if (o.granularity || o.family) {
    apply_granularity(s, granularity, o.family.value_or(FragmentFamily::sm90));
  }
  if (o.pv_accumulation) apply_accumulation(s, *o.pv_accumulation);
  if (o.smooth_k) s.k_center = *o.smooth_k ? Center::sequence_mean : Center::none;
  if (o.smooth_q) s.smooth_q = *o.smooth_q;
  if (o.smooth_v) s.smooth_v = *o.smooth_v;
  return s;
}

std::string first_difference(const Scheme& a, const Scheme& b) {
  if (a.method != b.method) return "method";
  if (a.rotate != b.rotate) return "rotate";
  if (a.k_center != b.k_center) return "smooth_k";
  if (a.k_weights != b.k_weights) return "k_weights";
  if (a.smooth_q != b.smooth_q) return "smooth_q";
  if (a.smooth_v != b.smooth_v) return "smooth_v";
  if (a.q_grain != b.q_grain || a.k_grain != b.k_grain) return "granularity";
  if (a.p != b.p || a.p_range != b.p_range || a.p_ref != b.p_ref || a.p_sum != b.p_sum || a.lazy_octaves != b.lazy_octaves) return "p";
  if (a.v != b.v || a.v_range != b.v_range || a.flag_ratio != b.flag_ratio) return "v";
  if (a.accumulate != b.accumulate) return "pv_accumulation";
  if (a.exponential != b.exponential || a.log_code_mask != b.log_code_mask) return "exponential";
  if (a.tile_n != b.tile_n || a.reverse != b.reverse) return "tile_n";
  return {};
}

}  // namespace chitu::core

namespace chitu {

std::optional<Method> parse_method(std::string_view name) {
  for (const auto& [method, text] : core::kNames)
    if (text == name) return method;
  return std::nullopt;
}

std::string_view method_name(Method method) {
  for (const auto& [m, text] : core::kNames)
    if (m == method) return text;
  return "unknown";
}

std::vector<Method> list_methods() {
  std::vector<Method> all;
  for (const auto& [method, text] : core::kNames)
    if (method != Method::automatic) all.push_back(method);
  return all;
}

}  // namespace chitu
