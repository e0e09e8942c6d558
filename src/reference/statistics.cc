#include "reference/statistics.h"

#include "core/codec.h"

namespace chitu::ref {

void HeadView::load(std::int64_t i, float* out) const {
  const std::int64_t base = i * stride;
  if (dtype == DType::f32) {
    const float* x = static_cast<const float*>(data) + base;
    std::copy(x, x + dim, out);
    return;
  }
  const std::uint16_t* x = static_cast<const std::uint16_t*>(data) + base;
  for (std::int64_t d = 0; d < dim; ++d) out[d] = dtype == DType::f16 ? core::f16_to_f32(x[d]) : core::bf16_to_f32(x[d]);
}

HeadView head_view(const ConstTensorView& t, std::int64_t batch, std::int64_t head, std::int64_t first_row, std::int64_t rows) {
  const std::int64_t offset = batch * t.stride[0] + first_row * t.stride[1] + head * t.stride[2];
  const char* base = static_cast<const char*>(t.data);
  return {rows == 0 || base == nullptr ? nullptr : base + offset * static_cast<std::int64_t>(dtype_size(t.dtype)), t.dtype, t.stride[1], rows, t.shape[3]};
}

void scaled_tile_sum(const HeadView& x, std::int64_t first, std::int64_t slots, float* sum) {
  std::vector<float> slot(static_cast<std::size_t>(slots * x.dim), 0.0f);
  const float part = 1.0f / static_cast<float>(slots);
  for (std::int64_t j = 0; j < slots && first + j < x.rows; ++j) {
    float* row = slot.data() + j * x.dim;
    x.load(first + j, row);
    for (std::int64_t d = 0; d < x.dim; ++d) row[d] = row[d] * part;
  }
  tree_sum(slot.data(), slots, x.dim);
  std::copy(slot.begin(), slot.begin() + x.dim, sum);
}

std::vector<float> tile_mean(const HeadView& x, std::int64_t first, std::int64_t slots) {
  std::vector<float> mean(static_cast<std::size_t>(x.dim));
  scaled_tile_sum(x, first, slots, mean.data());
  const float undo = static_cast<float>(slots) / static_cast<float>(std::min(slots, x.rows - first));
  for (float& m : mean) m = m * undo;
  return mean;
}

std::vector<float> sequence_mean(const HeadView& x) {
  const std::int64_t tiles = (x.rows + 127) / 128;
  std::vector<float> sums(static_cast<std::size_t>(tiles * x.dim));
  for (std::int64_t t = 0; t < tiles; ++t) scaled_tile_sum(x, t * 128, 128, sums.data() + t * x.dim);
  std::vector<float> mean = strided_sum(sums, tiles, x.dim);
  const float undo = static_cast<float>(128.0 / static_cast<double>(x.rows));
  for (float& m : mean) m = m * undo;
  return mean;
}

}  // namespace chitu::ref
