// (out, lse) <- merge of two partial results over disjoint keys. An empty side is the identity and its values are not read; NaN passes through.

#include <cmath>

#include "core/kernel.h"
#include "cpu/merge.h"
#include "cpu/parallel.h"

namespace chitu::cpu {

void merge(const core::MergeCall& call) {
  const TensorView& out = call.out;
  const std::int64_t batch = out.shape[0], seqlen = out.shape[1], heads = out.shape[2], dim = out.shape[3];
  parallel_run(batch * heads, parallel_slots(), [&](std::int64_t i, int) {
    const std::int64_t b = i / heads, h = i % heads;
    for (std::int64_t t = 0; t < seqlen; ++t) {
      float& la = call.lse.data[b * call.lse.stride[0] + h * call.lse.stride[1] + t * call.lse.stride[2]];
      const float lb = call.lse_b.data[b * call.lse_b.stride[0] + h * call.lse_b.stride[1] + t * call.lse_b.stride[2]];
      float* oa = static_cast<float*>(out.data) + b * out.stride[0] + t * out.stride[1] + h * out.stride[2];
      const float* ob = static_cast<const float*>(call.out_b.data) + b * call.out_b.stride[0] + t * call.out_b.stride[1] + h * call.out_b.stride[2];
      const bool empty_a = la == -INFINITY, empty_b = lb == -INFINITY;
      const float m = std::isnan(la) || std::isnan(lb) ? NAN : std::fmax(la, lb), m0 = empty_a && empty_b ? 0.0f : m;
      const float wa = empty_a ? 0.0f : std::exp(la - m0), wb = empty_b ? 0.0f : std::exp(lb - m0), z = wa + wb;
      for (std::int64_t d = 0; d < dim; ++d) {
        const float a = empty_a ? 0.0f : wa * oa[d], c = empty_b ? 0.0f : wb * ob[d];
        oa[d] = empty_a && empty_b ? 0.0f : (a + c) / z;
      }
      la = empty_a && empty_b ? -INFINITY : m0 + std::log(z);
    }
  });
}

}  // namespace chitu::cpu
