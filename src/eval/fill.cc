#include "eval/fill.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/codec.h"
#include "eval/random.h"
#include "eval/threads.h"

namespace chitu::eval {
namespace {

// Streams of one (batch, kv head): q of its first query head, k, v, then what a family draws besides. Query head g of a group uses kQ + kStreams * g.
enum Stream : std::uint32_t { kQ, kK, kV, kQExtra, kKExtra, kVExtra, kDirection, kChannels, kPick, kStreams };

/// One kv head with its group of query heads, double until the end.
struct Head {
  std::int64_t seqlen_q, seqlen_k, dim, dim_v, group;
  std::uint64_t seed;
  std::uint32_t base;           ///< first stream of this (batch, kv head)
  double scale;                 ///< softmax_scale
  std::vector<double> q, k, v;  ///< [group * seqlen_q, dim], [seqlen_k, dim], [seqlen_k, dim_v]

  Random random(std::uint32_t s) const { return {seed, base + s}; }
};

void normal(std::vector<double>& x, const Random& r) {
  for (std::size_t i = 0; i < x.size(); i += 4) {
    const auto z = r.normals4(i / 4);
    for (std::size_t j = i; j < x.size() && j < i + 4; ++j) x[j] = z[j - i];
  }
}
void scale_all(std::vector<double>& x, double f) {
  for (double& e : x) e *= f;
}
void add_row(std::vector<double>& x, std::int64_t row, std::span<const double> y, double f) {
  const std::size_t base = static_cast<std::size_t>(row) * y.size();
  for (std::size_t d = 0; d < y.size(); ++d) x[base + d] += f * y[d];
}
void scale_row(std::vector<double>& x, std::int64_t row, std::int64_t dim, double f) {
  for (std::int64_t d = 0; d < dim; ++d) x[static_cast<std::size_t>(row * dim + d)] *= f;
}
double norm(const double* x, std::int64_t n) {
  double s = 0;
  for (std::int64_t i = 0; i < n; ++i) s += x[i] * x[i];
  return std::sqrt(s);
}

std::vector<double> unit_vector(const Head& h) {
  std::vector<double> u(static_cast<std::size_t>(h.dim));
  normal(u, h.random(kDirection));
  scale_all(u, 1 / norm(u.data(), h.dim));
  return u;
}

/// `norm` spread equally over 8 distinct random channels, random signs.
std::vector<double> channel_bias(const Head& h, double total, std::uint64_t which = 0) {
  std::vector<double> b(static_cast<std::size_t>(h.dim), 0.0);
  const Random r = h.random(kChannels);
  const std::int64_t n = std::min<std::int64_t>(8, h.dim);
  std::uint64_t draw = which << 32;
  for (std::int64_t found = 0; found < n;) {
    const std::uint32_t w = r.bits(draw++);
    double& e = b[(w >> 1) % static_cast<std::uint32_t>(h.dim)];
    if (e != 0) continue;
    e = (w & 1 ? total : -total) / std::sqrt(static_cast<double>(n));
    ++found;
  }
  return b;
}

/// Rotary embedding, rotate-halves, base 1e6, of the row at `position`.
void rope(double* x, std::int64_t dim, std::int64_t position) {
  const std::int64_t half = dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency = exp2_exact_ops(-19.931568569324174 * static_cast<double>(i) / static_cast<double>(half));  // 1e6^(-i/half)
    const auto cs = cos_sin_turns(static_cast<double>(position) * frequency / 6.283185307179586477);
    const double a = x[i], b = x[i + half];
    x[i] = a * cs[0] - b * cs[1];
    x[i + half] = b * cs[0] + a * cs[1];
  }
}

void rare_outliers(Head& h) {
  auto apply = [&](std::vector<double>& x, std::uint32_t extra) {
    const Random r = h.random(extra);
    for (std::size_t i = 0; i < x.size(); ++i)
      if (r.uniform(i) < 0.001) x[i] += 10 * r.normal(x.size() + i);
  };
  apply(h.q, kQExtra);
  apply(h.k, kKExtra);
  apply(h.v, kVExtra);
}

void student_t(Head& h) {
  auto apply = [&](std::vector<double>& x, std::uint32_t stream) {
    const Random r = h.random(stream);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = r.student_t3(i);
  };
  apply(h.q, kQ);
  apply(h.k, kK);
  apply(h.v, kV);
}

void k_bias_rope(Head& h, double strength) {
  const auto b = channel_bias(h, strength);
  for (std::int64_t j = 0; j < h.seqlen_k; ++j) {
    add_row(h.k, j, b, 1);
    rope(h.k.data() + j * h.dim, h.dim, j);
  }
  for (std::int64_t i = 0; i < h.group * h.seqlen_q; ++i) rope(h.q.data() + i * h.dim, h.dim, h.seqlen_k - h.seqlen_q + i % h.seqlen_q);
}

void sinks(Head& h, double gap) {
  const auto u = unit_vector(h);
  for (std::int64_t i = 0; i < h.group * h.seqlen_q; ++i) add_row(h.q, i, u, 4);
  for (std::int64_t j = 0; j < std::min<std::int64_t>(4, h.seqlen_k); ++j) {
    add_row(h.k, j, u, gap / (4 * h.scale));
    const double n = norm(h.v.data() + j * h.dim_v, h.dim_v);
    if (n > 0) scale_row(h.v, j, h.dim_v, 0.05 / n);
  }
}

void dominant_key(Head& h, const InputSet& set) {
  const auto u = unit_vector(h);
  scale_all(h.q, 0.3);
  if (set.flat) scale_all(h.k, 0.05);
  for (std::int64_t i = 0; i < h.group * h.seqlen_q; ++i) add_row(h.q, i, u, 4);
  for (std::int64_t j = 0; j < h.seqlen_k; j += 128) add_row(h.k, j, u, set.strength / (4 * h.scale));
  for (double& x : h.v) x += set.v_mean;
}

void ar1(std::vector<double>& x, std::int64_t dim, double r) {
  const double fresh = std::sqrt(1 - r * r);
  for (std::size_t i = static_cast<std::size_t>(dim); i < x.size(); ++i) x[i] = r * x[i - static_cast<std::size_t>(dim)] + fresh * x[i];
}

/// K's mean moves along the sequence: once around an ellipse (drift), or a new random one for each eighth (segments).
void moving_mean(Head& h, const InputSet& set) {
  if (set.family == Family::k_segments) {
    const std::int64_t length = std::max<std::int64_t>(1, (h.seqlen_k + 7) / 8);
    for (std::int64_t j = 0; j < h.seqlen_k; ++j) add_row(h.k, j, channel_bias(h, set.strength, static_cast<std::uint64_t>(j / length)), 1);
    return;
  }
  const auto a = channel_bias(h, set.strength, 0), b = channel_bias(h, set.strength, 1);
  for (std::int64_t j = 0; j < h.seqlen_k; ++j) {
    const auto cs = cos_sin_turns(static_cast<double>(j) / static_cast<double>(h.seqlen_k));
    add_row(h.k, j, a, cs[0]);
    add_row(h.k, j, b, cs[1]);
  }
}

void zero_rows(Head& h) {
  for (std::int64_t i = 0; i < h.group * h.seqlen_q; i += 7) scale_row(h.q, i, h.dim, 0);
  for (std::int64_t j = 0; j < h.seqlen_k; j += 5) scale_row(h.k, j, h.dim, 0);
  for (std::int64_t j = 0; j < h.seqlen_k; j += 3) scale_row(h.v, j, h.dim_v, 0);
}

void constant_channels(Head& h) {
  auto set = [](std::vector<double>& x, std::int64_t dim, std::int64_t d, double value) {
    for (std::size_t i = static_cast<std::size_t>(d); d < dim && i < x.size(); i += static_cast<std::size_t>(dim)) x[i] = value;
  };
  set(h.q, h.dim, 0, 0);
  set(h.k, h.dim, 1, 0);
  set(h.k, h.dim, 2, 3);
  set(h.v, h.dim_v, 3, 0);
  set(h.v, h.dim_v, 4, 2.5);
  set(h.v, h.dim_v, 5, -1e-3);
}

/// Starts from q, k, v ~ N(0, 1).
void apply_family(Head& h, const InputSet& set) {
  const Random pick = h.random(kPick);
  switch (set.family) {
    case Family::gaussian:
      break;
    case Family::uniform:
      for (std::size_t i = 0; i < h.q.size(); ++i) h.q[i] = h.random(kQ).uniform(i);
      for (std::size_t i = 0; i < h.k.size(); ++i) h.k[i] = h.random(kK).uniform(i);
      for (std::size_t i = 0; i < h.v.size(); ++i) h.v[i] = h.random(kV).uniform(i);
      break;
    case Family::rare_outliers:
      rare_outliers(h);
      break;
    case Family::k_bias: {
      const auto b = channel_bias(h, set.strength);
      for (std::int64_t j = 0; j < h.seqlen_k; ++j) add_row(h.k, j, b, 1);
      break;
    }
    case Family::k_bias_rope:
      k_bias_rope(h, set.strength);
      break;
    case Family::k_first_tile: {
      const auto b = channel_bias(h, 1);
      for (std::int64_t j = 0; j < std::min<std::int64_t>(128, h.seqlen_k); ++j)
        for (std::int64_t d = 0; d < h.dim; ++d)
          if (b[static_cast<std::size_t>(d)] != 0) h.k[static_cast<std::size_t>(j * h.dim + d)] *= set.strength;
      break;
    }
    case Family::sinks:
      sinks(h, set.strength);
      break;
    case Family::student_t:
      student_t(h);
      break;
    case Family::v_channels: {
      std::vector<double> mean(static_cast<std::size_t>(h.dim_v));
      normal(mean, h.random(kVExtra));
      for (std::int64_t j = 0; j < h.seqlen_k; ++j) {
        add_row(h.v, j, mean, 1);
        const std::int64_t channels = std::min<std::int64_t>(4, h.dim_v);  // fewer than 4: none twice, 50^4 is no f16
        for (std::int64_t c = 0; c < channels; ++c)
          h.v[static_cast<std::size_t>(j * h.dim_v + (pick.bits(0) + c * h.dim_v / channels) % h.dim_v)] *= set.strength;
      }
      break;
    }
    case Family::v_token:
      if (h.seqlen_k > 0) scale_row(h.v, h.seqlen_k / 3, h.dim_v, set.strength);
      break;
    case Family::k_tokens:
      for (std::int64_t j = 0; j < h.seqlen_k; ++j)
        if (pick.uniform(static_cast<std::uint64_t>(j)) < 0.005) scale_row(h.k, j, h.dim, set.strength);
      break;
    case Family::logit_std:
      scale_all(h.q, set.strength);
      break;
    case Family::v_mean:
    case Family::weak_v_token:
      scale_all(h.q, 2);
      for (double& x : h.v) x += 1;
      if (set.family == Family::weak_v_token)
        for (std::int64_t j = 0; j < h.seqlen_k; j += 128)
          scale_row(h.v, std::min(h.seqlen_k - 1, j + pick.bits(static_cast<std::uint64_t>(j)) % 128), h.dim_v, set.strength);
      break;
    case Family::ar1:
      ar1(h.k, h.dim, set.strength);
      ar1(h.v, h.dim_v, set.strength);
      break;
    case Family::dominant_key:
      dominant_key(h, set);
      break;
    case Family::k_drift:
    case Family::k_segments:
      moving_mean(h, set);
      break;
    case Family::constant_v:
      for (std::int64_t j = 0; j < h.seqlen_k; ++j)
        for (std::int64_t d = 0; d < h.dim_v; ++d) h.v[static_cast<std::size_t>(j * h.dim_v + d)] = h.random(kVExtra).normal(static_cast<std::uint64_t>(d));
      break;
    case Family::zero_rows:
      zero_rows(h);
      break;
    case Family::constant_channels:
      constant_channels(h);
      break;
  }
}

float round_to(double x, DType t) {
  const float f = static_cast<float>(x);
  return t == DType::f16 ? core::round_f16(f) : t == DType::bf16 ? core::round_bf16(f) : f;
}

constexpr InputSet kSets[] = {
    {"1", "N(0,1)", Family::gaussian},
    {"2", "uniform [0,1): control, shows nothing", Family::uniform},
    {"3", "rare outliers in q, k, v", Family::rare_outliers},
    {"4", "K bias, norm 50", Family::k_bias, 50},
    {"5", "K bias, norm 300", Family::k_bias, 300},
    {"6", "K bias 300 before RoPE", Family::k_bias_rope, 300},
    {"7", "4 sinks, gap 6 nats, small V", Family::sinks, 6},
    {"8", "4 sinks, gap 10 nats, small V", Family::sinks, 10},
    {"9", "Student t3", Family::student_t},
    {"10", "V: means, 4 channels x50", Family::v_channels, 50},
    {"11", "one V token x100", Family::v_token, 100},
    {"12", "0.5 % of K tokens x20", Family::k_tokens, 20},
    {"13", "logit std 4", Family::logit_std, 4},
    {"14", "logit std 2, V mean 1", Family::v_mean},
    {"15", "K, V AR(1) 0.98 along tokens", Family::ar1, 0.98},
    {"16-gap5", "a dominant key per tile, 5 nats", Family::dominant_key, 5},
    {"16-gap6", "a dominant key per tile, 6 nats", Family::dominant_key, 6},
    {"16-gap7", "a dominant key per tile, 7 nats", Family::dominant_key, 7},
    {"16-gap5-mean1", "gap 5, V mean 1", Family::dominant_key, 5, 1},
    {"16-gap6-mean1", "gap 6, V mean 1", Family::dominant_key, 6, 1},
    {"16-gap7-mean1", "gap 7, V mean 1", Family::dominant_key, 7, 1},
    {"16-gap6-flat", "gap 6, other scores flat", Family::dominant_key, 6, 0, true},
    {"16-gap6-flat-mean1", "gap 6, others flat, V mean 1", Family::dominant_key, 6, 1, true},
    {"17-weak", "set 14, a V token per tile x0.2", Family::weak_v_token, 0.2},
    {"17-zero", "set 14, a zero V token per tile", Family::weak_v_token, 0},
    {"drift", "K mean drifts, norm 50", Family::k_drift, 50},
    {"segments", "K mean jumps 8 times, norm 50", Family::k_segments, 50},
    {"first-tile", "8 channels of K x16 in the first 128 keys only", Family::k_first_tile, 16},
    {"constant-v", "V constant along tokens", Family::constant_v},
    {"zero-rows", "zero q, k and v tokens", Family::zero_rows},
    {"constant-channels", "zero and constant channels", Family::constant_channels},
};

}  // namespace

std::span<const InputSet> input_sets() { return kSets; }
const InputSet* find_input_set(std::string_view name) {
  for (const InputSet& s : kSets)
    if (name == s.name) return &s;
  return nullptr;
}

Inputs make_inputs(const InputSet& set, const Shape& s, std::uint64_t seed, DType dtype, double softmax_scale, int threads) {
  Inputs in;
  in.shape = s;
  const std::int64_t group = s.num_heads_q / s.num_heads_kv;
  in.q.resize(static_cast<std::size_t>(s.batch * s.seqlen_q * s.num_heads_q * s.head_dim));
  in.k.resize(static_cast<std::size_t>(s.batch * s.seqlen_k * s.num_heads_kv * s.head_dim));
  in.v.resize(static_cast<std::size_t>(s.batch * s.seqlen_k * s.num_heads_kv * s.head_dim_v));
  parallel_for(s.batch * s.num_heads_kv, threads, [&](std::int64_t i) {
    const std::int64_t b = i / s.num_heads_kv, kv = i % s.num_heads_kv;
    Head h{s.seqlen_q, s.seqlen_k, s.head_dim, s.head_dim_v, group, seed, static_cast<std::uint32_t>(i) * kStreams, softmax_scale, {}, {}, {}};
    if (h.scale == 0) h.scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
    h.q.resize(static_cast<std::size_t>(group * s.seqlen_q * s.head_dim));
    h.k.resize(static_cast<std::size_t>(s.seqlen_k * s.head_dim));
    h.v.resize(static_cast<std::size_t>(s.seqlen_k * s.head_dim_v));
    normal(h.q, h.random(kQ));
    normal(h.k, h.random(kK));
    normal(h.v, h.random(kV));
    apply_family(h, set);
    auto place = [&](const std::vector<double>& from, std::vector<float>& to, std::int64_t heads, std::int64_t rows, std::int64_t dim, std::int64_t head,
                     std::int64_t first) {
      for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t d = 0; d < dim; ++d)
          to[static_cast<std::size_t>(((b * rows + row) * heads + head) * dim + d)] = round_to(from[static_cast<std::size_t>((first + row) * dim + d)], dtype);
    };
    for (std::int64_t g = 0; g < group; ++g) place(h.q, in.q, s.num_heads_q, s.seqlen_q, s.head_dim, kv * group + g, g * s.seqlen_q);
    place(h.k, in.k, s.num_heads_kv, s.seqlen_k, s.head_dim, kv, 0);
    place(h.v, in.v, s.num_heads_kv, s.seqlen_k, s.head_dim_v, kv, 0);
  });
  return in;
}

std::vector<unsigned char> encode(std::span<const float> values, DType dtype) {
  std::vector<unsigned char> bytes(values.size() * dtype_size(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float x = values[i];
    if (dtype == DType::f32) {
      std::memcpy(bytes.data() + 4 * i, &x, 4);
    } else {
      const std::uint16_t h = dtype == DType::f16 ? core::f32_to_f16(x) : core::f32_to_bf16(x);
      std::memcpy(bytes.data() + 2 * i, &h, 2);
    }
  }
  return bytes;
}

std::vector<float> decode(const void* data, std::int64_t n, DType dtype) {
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint16_t h = 0;
    if (dtype != DType::f32) std::memcpy(&h, static_cast<const unsigned char*>(data) + 2 * i, 2);
    if (dtype == DType::f32)
      std::memcpy(&values[i], static_cast<const unsigned char*>(data) + 4 * i, 4);
    else
      values[i] = dtype == DType::f16 ? core::f16_to_f32(h) : core::bf16_to_f32(h);
  }
  return values;
}

}  // namespace chitu::eval
