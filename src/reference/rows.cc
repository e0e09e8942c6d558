#include "reference/rows.h"

#include <cmath>
#include <mutex>
#include <thread>

#include "core/kernel.h"
#include "reference/scheme.h"

namespace chitu::ref {
namespace {

/// Rows [begin, end) of the selection share one sequence and kv head.
struct Group {
  std::size_t begin, end;
};

struct Job {
  const core::Scheme& scheme;
  const AttentionArgs& args;
  core::MaskParams mask;
  float softmax_scale;
  std::span<const SelectedRow> rows;
  SelectedResult& result;
};

core::SequenceRange range_of(const AttentionArgs& a, std::int64_t sequence) {
  const Sequences& s = a.sequences;
  const bool packed = s.cu_seqlens_q != nullptr;
  return core::sequence_range(packed, s.cu_seqlens_q, s.cu_seqlens_k, s.seqlens_k, packed ? s.max_seqlen_q : a.q.shape[1],
                              packed ? s.max_seqlen_k : a.k.shape[1], a.q.shape[1], a.k.shape[1], sequence);
}

/// Rows of one query head, all in [begin, end).
void run_head(const Job& job, const core::SequenceRange& range, const HeadView& k, const HeadView& v, const Keys& keys, const Values& values, std::size_t begin,
              std::size_t end) {
  const AttentionArgs& a = job.args;
  const std::int64_t head = job.rows[begin].head;
  MaskView mask;
  if (a.mask.data != nullptr) {
    auto stride = [&](int i) { return a.mask.shape[static_cast<std::size_t>(i)] == 1 ? 0 : a.mask.stride[static_cast<std::size_t>(i)]; };
    const std::int64_t offset = range.tensor_batch * stride(0) + head * stride(1);
    mask = {static_cast<const char*>(a.mask.data) + offset * static_cast<std::int64_t>(dtype_size(a.mask.dtype)), a.mask.dtype, stride(2), stride(3)};
  }
  const HeadProblem problem{job.scheme, job.softmax_scale, core::Band(job.mask, range.q_len, range.k_len), mask};
  const HeadView q = head_view(a.q, range.tensor_batch, head, range.q_begin, range.q_len);
  std::vector<std::int64_t> rows;
  for (std::size_t i = begin; i < end; ++i) rows.push_back(job.rows[i].row);
  float *out = job.result.out.data() + begin * static_cast<std::size_t>(v.dim), *lse = job.result.lse.data() + begin;
  if (job.scheme.method == Method::exact)
    attend_exact(problem, q, k, v, rows, out, lse);
  else
    attend(problem, q, keys, values, rows, out, lse);
}

void run_group(const Job& job, const Group& g, std::mutex& mutex) {
  const AttentionArgs& a = job.args;
  const std::int64_t group = a.q.shape[2] / a.k.shape[2], kv_head = job.rows[g.begin].head / group;
  const core::SequenceRange range = range_of(a, job.rows[g.begin].sequence);
  const HeadView k = head_view(a.k, range.tensor_batch, kv_head, range.k_begin, range.k_len);
  const HeadView v = head_view(a.v, range.tensor_batch, kv_head, range.k_begin, range.k_len);
  const bool exact = job.scheme.method == Method::exact;
  const Keys keys = exact ? Keys{} : quantize_keys(job.scheme, k);
  const Values values = exact ? Values{} : quantize_values(job.scheme, v);
  for (std::size_t i = g.begin; i < g.end;) {
    std::size_t end = i;
    while (end < g.end && job.rows[end].head == job.rows[i].head) ++end;
    run_head(job, range, k, v, keys, values, i, end);
    i = end;
  }
  const std::lock_guard lock(mutex);
  job.result.tiles += static_cast<std::int64_t>(values.flagged.size());
  for (std::uint8_t f : values.flagged) job.result.flagged_tiles += f;
}

}  // namespace

SelectedResult attention_rows(const core::Scheme& scheme, const AttentionArgs& args, const Mask& mask, std::optional<float> softmax_scale,
                              std::span<const SelectedRow> rows, int threads) {
  SelectedResult result;
  result.out.resize(rows.size() * static_cast<std::size_t>(args.v.shape[3]));
  result.lse.resize(rows.size());
  core::MaskParams band;
  if (mask.left) band.left = *mask.left;
  if (mask.right) band.right = *mask.right;
  if (mask.diagonal) {
    band.diagonal = *mask.diagonal;
    band.bottom_right = false;
  }
  const float scale = softmax_scale.value_or(static_cast<float>(1.0 / std::sqrt(static_cast<double>(args.q.shape[3]))));
  const Job job{scheme, args, band, scale, rows, result};
  std::vector<Group> groups;
  const std::int64_t group = args.k.shape[2] == 0 ? 1 : args.q.shape[2] / args.k.shape[2];
  for (std::size_t i = 0; i < rows.size();) {
    std::size_t end = i;
    while (end < rows.size() && rows[end].sequence == rows[i].sequence && rows[end].head / group == rows[i].head / group) ++end;
    groups.push_back({i, end});
    i = end;
  }
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const std::size_t used = std::min(static_cast<std::size_t>(threads), groups.size());
  std::mutex mutex;
  auto work = [&](std::size_t t) {
    for (std::size_t g = t; g < groups.size(); g += used) run_group(job, groups[g], mutex);
  };
  std::vector<std::thread> pool;
  for (std::size_t t = 1; t < used; ++t) pool.emplace_back(work, t);
  if (used > 0) work(0);
  for (auto& t : pool) t.join();
  return result;
}

}  // namespace chitu::ref
