#include "variants.h"

namespace chitu::study {
namespace {

using core::Center;
using core::Exponential;
using core::PFormat;
using core::PReference;
using core::PSum;
using core::Scheme;
using core::VFormat;

Scheme own(Method m) { return core::default_scheme(m, DType::f16); }

/// Only Q and K are rounded.
Scheme qk_only(bool rotate, Center center, core::Grain k_grain, std::int64_t tile_n = 128, bool weights = false) {
  Scheme s = own(Method::chitu);
  s.rotate = rotate;
  s.k_weights = weights;
  s.k_center = center;
  s.k_grain = k_grain;
  s.tile_n = tile_n;
  s.p = PFormat::f32;
  s.p_range = 1;
  s.v = VFormat::input;
  return s;
}

/// Only P and V are rounded.
Scheme pv_only(Method m, VFormat v, PSum sum) {
  Scheme s = own(m);
  s.q_grain = s.k_grain = {};
  s.v = v;
  s.p_sum = sum;
  return s;
}

Scheme fast(std::uint32_t mask) {
  Scheme s = own(Method::chitu_fast);
  s.log_code_mask = mask;
  if (mask == 0) s.exponential = Exponential::f32;
  return s;
}

}  // namespace

std::vector<Variant> method_variants(bool all) {
  std::vector<Variant> v;
  for (Method m : {Method::chitu, Method::chitu_int8, Method::chitu_fast, Method::sage2, Method::sage1, Method::int_flash, Method::int_flash_half})
    if (all || v.size() < 4) v.push_back({std::string(method_name(m)), own(m)});
  return v;
}

std::vector<Variant> qk_variants() {
  constexpr core::Grain thread{128, 4}, tile{128, 1}, token{1, 1};
  return {
      {"no mean, no R, per_thread", qk_only(false, Center::none, thread)},
      {"global mean, no R, per_thread", qk_only(false, Center::sequence_mean, thread)},
      {"global mean, R, per_thread", qk_only(true, Center::sequence_mean, thread)},
      {"tile mean, no R, per_thread", qk_only(false, Center::tile_mean, thread)},
      {"tile mean, R, per_thread", qk_only(true, Center::tile_mean, thread)},
      {"tile mean, channel weights, R, per_thread (adopted)", qk_only(true, Center::tile_mean, thread, 128, true)},
      {"tile mean, R, per_tile", qk_only(true, Center::tile_mean, tile)},
      {"tile mean, R, per_token", qk_only(true, Center::tile_mean, token)},
      {"tile 64, R, per_thread", qk_only(true, Center::tile_mean, {64, 4}, 64)},
  };
}

std::vector<Variant> pv_variants() {
  const Method i8 = Method::chitu_int8, f8 = Method::chitu_fast;
  std::vector<Variant> v = {
      {"f16 P (chitu)", pv_only(Method::chitu, VFormat::f16, PSum::raw)},
      {"C1: V per channel", pv_only(i8, VFormat::s8_channel, PSum::quantized)},
      {"C2: V per channel and tile", pv_only(i8, VFormat::s8_channel_tile, PSum::quantized)},
      {"C3, quantised sum", pv_only(i8, VFormat::s8_c3, PSum::quantized)},
      {"C3, raw sum", pv_only(i8, VFormat::s8_c3, PSum::raw)},
      {"C3, corrected sum (proposal)", pv_only(i8, VFormat::s8_c3, PSum::corrected)},
  };
  for (float ratio : {2.0f, 8.0f, 16.0f, 1e9f}) {
    Scheme s = pv_only(i8, VFormat::s8_c3, PSum::corrected);
    s.flag_ratio = ratio;
    v.push_back({ratio > 1e8f ? "C3, never flagged" : "C3, flag ratio " + std::to_string(static_cast<int>(ratio)), s});
  }
  Scheme tile64 = pv_only(i8, VFormat::s8_c3, PSum::corrected);
  tile64.tile_n = 64;
  v.push_back({"C3, tile 64", tile64});
  Scheme running = pv_only(i8, VFormat::s8_channel, PSum::raw);
  running.p_ref = PReference::running;
  v.push_back({"u8 P against the running maximum", running});
  Scheme e4m3 = pv_only(f8, VFormat::e4m3_channel, PSum::quantized);
  e4m3.exponential = Exponential::f32;
  v.push_back({"F8: e4m3 P and V", e4m3});
  for (auto [name, mask] : {std::pair{"F8, log-code 25 %", 0x11u}, std::pair{"F8, log-code 50 %", 0x55u}, std::pair{"F8, log-code 100 %", 0xffu}}) {
    e4m3.exponential = Exponential::log_code;
    e4m3.log_code_mask = mask;
    v.push_back({name, e4m3});
  }
  return v;
}

std::vector<Variant> int8_variants() {
  std::vector<Variant> v = {{"chitu_int8", own(Method::chitu_int8)}};
  Scheme s = own(Method::chitu_int8);
  s.p_sum = PSum::quantized;
  v.push_back({"quantised sum", s});
  s.p_sum = PSum::raw;
  v.push_back({"raw sum", s});
  s = own(Method::chitu_int8);
  s.exponential = Exponential::lut16;
  v.push_back({"16-bit table exponential", s});
  s = own(Method::chitu_int8);
  s.tile_n = 64;
  s.k_grain = {64, 4};
  v.push_back({"tile 64", s});
  return v;
}

std::vector<Variant> fast_variants() {
  return {{"sage2", own(Method::sage2)}, {"0 %", fast(0)},     {"12.5 %", fast(0x01)}, {"25 %", fast(0x11)},
          {"37.5 %", fast(0x25)},        {"50 %", fast(0x55)}, {"75 %", fast(0x77)},   {"100 %", fast(0xff)}};
}

}  // namespace chitu::study
