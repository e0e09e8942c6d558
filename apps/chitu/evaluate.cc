#include "evaluate.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <mutex>
#include <random>

#include "eval/fill.h"
#include "eval/threads.h"

namespace chitu::cli {
namespace {

std::vector<float> decode_row(const ConstTensorView& view, int64_t batch, int64_t row, int64_t head) {
  const auto* base = static_cast<const std::byte*>(view.data);
  const int64_t offset = batch * view.stride[0] + row * view.stride[1] + head * view.stride[2];  // head_dim is contiguous in every layout here
  return eval::decode(base + offset * static_cast<int64_t>(dtype_size(view.dtype)), view.shape[3], view.dtype);
}

}  // namespace

Sample choose_sample(const AttentionArgs& args, int64_t max_rows, double multiply_adds) {
  const int64_t batch = args.q.shape[0], seqlen_q = args.q.shape[1], heads = args.q.shape[2];
  const int64_t lanes = batch * heads;
  Sample sample;
  if (lanes == 0 || seqlen_q == 0) {
    sample.all = true;
    return sample;
  }
  if (max_rows == 0) {
    const double cost = static_cast<double>(std::max<int64_t>(1, args.k.shape[1])) * static_cast<double>(args.q.shape[3] + args.v.shape[3] + 16);
    constexpr int64_t kLeast = 64;  // fewer rows say little about a mean, whatever they cost
    max_rows = std::max(kLeast, static_cast<int64_t>(std::min(multiply_adds / cost, 9e15)));
  }
  const int64_t per_lane = std::clamp<int64_t>(max_rows / lanes, 1, seqlen_q);
  std::vector<int64_t> rows;
  if (per_lane == seqlen_q) {
    constexpr int64_t kChunk = 8 * Sample::kBlock;  // as much as keeps all threads busy
    sample.all = true;
    for (int64_t start = 0; start < seqlen_q; start += kChunk) sample.blocks.push_back({start, std::min(kChunk, seqlen_q - start)});
    for (int64_t i = 0; i < seqlen_q; ++i) rows.push_back(i);
  } else {
    const int64_t all_blocks = (seqlen_q + Sample::kBlock - 1) / Sample::kBlock;
    const int64_t blocks = std::min(all_blocks, (per_lane + Sample::kBlock - 1) / Sample::kBlock);
    // One block in each of `blocks` equal stretches; fixed seed, so that two runs judge the same rows.
    std::mt19937_64 random(20240611);
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t first = i * all_blocks / blocks, last = (i + 1) * all_blocks / blocks;
      const int64_t start = (first + static_cast<int64_t>(random() % static_cast<uint64_t>(last - first))) * Sample::kBlock;
      const int64_t length = std::min(Sample::kBlock, seqlen_q - start), count = std::min(length, (per_lane + blocks - 1) / blocks);
      sample.blocks.push_back({start, length});
      for (int64_t n = 0; n < count; ++n) rows.push_back(start + n * length / count);
    }
  }
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (const int64_t row : rows) sample.rows.push_back({b, h, row});
    }
  }
  return sample;
}

SampledOutput sample_output(const ConstTensorView& out, const float* lse, const Sample& sample) {
  SampledOutput result{out.shape[3], {}, {}};
  result.out.reserve(sample.rows.size() * static_cast<size_t>(out.shape[3]));
  for (const eval::RowIndex& r : sample.rows) {
    const auto row = decode_row(out, r.sequence, r.row, r.head);
    result.out.insert(result.out.end(), row.begin(), row.end());
    result.lse.push_back(lse[(r.sequence * out.shape[2] + r.head) * out.shape[1] + r.row]);
  }
  return result;
}

SampledOutput run_blocks(const AttentionArgs& host, const AttentionOptions& options, const Sample& sample) {
  const int64_t batch = host.q.shape[0], seqlen_q = host.q.shape[1], seqlen_k = host.k.shape[1], heads = host.q.shape[2], heads_kv = host.k.shape[2];
  const int64_t group = heads / std::max<int64_t>(1, heads_kv);
  const auto dim_v = static_cast<size_t>(host.v.shape[3]);
  SampledOutput result{host.v.shape[3], std::vector<float>(sample.rows.size() * dim_v), std::vector<float>(sample.rows.size())};
  // Part of a view: `count` entries of one dimension from `first`; a dimension that broadcasts stays as it is.
  const auto narrow = [](ConstTensorView& view, size_t dimension, int64_t first, int64_t count) {
    if (view.data == nullptr || (dimension != 3 && view.shape[dimension] == 1 && view.stride[dimension] == 0)) return;
    view.data = static_cast<const std::byte*>(view.data) + first * view.stride[dimension] * static_cast<int64_t>(dtype_size(view.dtype));
    view.shape[dimension] = count;
  };
  const auto jobs = static_cast<int64_t>(sample.blocks.size()) * batch * heads_kv;
  std::mutex mutex;
  std::exception_ptr failure;
  eval::parallel_for(jobs, num_threads(), [&](int64_t job) {
    const Sample::Block block = sample.blocks[static_cast<size_t>(job / (batch * heads_kv))];
    const int64_t b = job / heads_kv % batch, kv_head = job % heads_kv;
    try {
      AttentionArgs part = host;
      for (size_t i = 0; i < 4; ++i) {
        if (part.mask.shape[i] == 1) part.mask.stride[i] = 0;
      }
      for (ConstTensorView* view : {&part.q, &part.k, &part.v, &part.mask}) narrow(*view, 0, b, 1);
      narrow(part.q, 1, block.start, block.length);
      narrow(part.q, 2, kv_head * group, group);
      narrow(part.k, 2, kv_head, 1);
      narrow(part.v, 2, kv_head, 1);
      narrow(part.mask, 1, kv_head * group, group);
      narrow(part.mask, 2, block.start, block.length);
      AttentionOptions moved = options;
      if (options.mask.left || options.mask.right) moved.mask.diagonal = options.mask.diagonal.value_or(seqlen_k - seqlen_q) + block.start;
      DeviceCall call(part, {}, false, true);
      attention(call.args(), moved);
      const ConstTensorView out = call.host_out();
      const float* lse = call.fetch_lse();
      for (size_t i = 0; i < sample.rows.size(); ++i) {
        const eval::RowIndex& r = sample.rows[i];
        if (r.sequence != b || r.head / group != kv_head || r.row < block.start || r.row >= block.start + block.length) continue;
        const auto row = decode_row(out, 0, r.row - block.start, r.head % group);
        std::copy(row.begin(), row.end(), result.out.begin() + static_cast<std::ptrdiff_t>(i * dim_v));
        result.lse[i] = lse[(r.head % group) * block.length + r.row - block.start];
      }
    } catch (...) {  // an exception must not leave a worker thread
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  return result;
}

Accuracy judge(const SampledOutput& got, const eval::ExactRows& reference, const Sample& sample, int64_t batch, int64_t num_heads) {
  const auto dim = static_cast<size_t>(got.head_dim_v);
  eval::Comparison overall;
  std::vector<eval::Comparison> heads(static_cast<size_t>(batch * num_heads));
  for (size_t i = 0; i < sample.rows.size(); ++i) {
    const std::span<const float> out(got.out.data() + i * dim, dim);
    const std::span<const double> exact(reference.out.data() + i * dim, dim);
    eval::Comparison& head = heads[static_cast<size_t>(sample.rows[i].sequence * num_heads + sample.rows[i].head)];
    overall.add(out, exact);
    head.add(out, exact);
    overall.add_lse(got.lse[i], reference.lse[i]);
    head.add_lse(got.lse[i], reference.lse[i]);
  }
  Accuracy accuracy;
  accuracy.overall = overall.metrics();
  for (const eval::Comparison& head : heads) accuracy.heads.push_back(head.metrics());
  const int64_t worst = accuracy.overall.worst_row_index;
  accuracy.worst = worst >= 0 ? sample.rows[static_cast<size_t>(worst)] : eval::RowIndex{-1, -1, -1};
  return accuracy;
}

namespace {

/// The channel weights c[d] of docs/methods.md part 1, in double: a statistic, where the last bit does not matter.
std::vector<double> channel_weights(const ConstTensorView& v, int64_t batch, int64_t head) {
  const int64_t dim = v.shape[3];
  std::vector<double> sum(static_cast<size_t>(dim), 0.0);
  int64_t samples = 0;
  for (int64_t j = 0; j < v.shape[1]; j += 8, ++samples) {
    const auto row = decode_row(v, batch, j, head);
    for (size_t d = 0; d < row.size(); ++d) sum[d] += static_cast<double>(row[d]) * row[d];
  }
  for (double& s : sum) s = std::sqrt(s / static_cast<double>(std::max<int64_t>(1, samples)));
  // NaN cannot be sorted. The method gives such a head NaN weights, and then flags no tile of it.
  if (!std::all_of(sum.begin(), sum.end(), [](double s) { return std::isfinite(s); })) return std::vector<double>(sum.size(), NAN);
  std::vector<double> sorted = sum;
  std::sort(sorted.begin(), sorted.end());
  if (sorted.back() < 0x1p-100) return std::vector<double>(sum.size(), 1.0);
  const double median = sorted[static_cast<size_t>((dim - 1) / 2)];
  const double least = median > 0 ? median / 8 : sorted.back() / 128;
  for (double& s : sum) s = std::max(s, least);
  return sum;
}

}  // namespace

double flagged_tile_share(const ConstTensorView& v) {
  constexpr int64_t kTile = 128;
  int64_t tiles = 0, flagged = 0;
  if (v.shape[3] == 0) return 0;
  for (int64_t b = 0; b < v.shape[0]; ++b) {
    for (int64_t h = 0; h < v.shape[2]; ++h) {
      if (v.shape[1] == 0) continue;
      const auto weight = channel_weights(v, b, h);
      for (int64_t first = 0; first < v.shape[1]; first += kTile) {
        double largest = 0, smallest = INFINITY;
        for (int64_t j = first; j < std::min(first + kTile, v.shape[1]); ++j) {
          const auto row = decode_row(v, b, j, h);
          double a = 0;
          for (size_t d = 0; d < row.size(); ++d) {
            const double x = std::fabs(static_cast<double>(row[d])) / weight[d];
            a = std::isfinite(x) ? std::max(a, x) : INFINITY;  // std::max alone would lose a NaN
          }
          largest = std::max(largest, a);
          smallest = std::min(smallest, a);
        }
        ++tiles;
        if (largest >= 0x1p-100 && std::isfinite(largest) && largest > 4 * smallest) ++flagged;
      }
    }
  }
  return tiles == 0 ? 0 : static_cast<double>(flagged) / static_cast<double>(tiles);
}

}  // namespace chitu::cli
