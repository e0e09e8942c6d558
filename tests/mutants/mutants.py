"""Seeded bugs: (name, file, text that occurs exactly once, replacement, the test binary that must fail, its filter).

The script fails when a text no longer matches, so a mutant cannot fade away. DIRECT: tests that need a few sources only and are built without the library.
"""

DIRECT = {
    "test_mask": [],
    "test_codec": [],
    "test_views": [],
    "test_scheme": ["src/core/scheme.cc"],
}

FRONT = [
    ("causal sees one key more", "src/core/mask.h", "  CHITU_HD KeyRange keys(std::int64_t i) const {\n    std::int64_t b = i + diagonal - left, e = i + diagonal + right + 1;",
     "  CHITU_HD KeyRange keys(std::int64_t i) const {\n    std::int64_t b = i + diagonal - left, e = i + diagonal + right + 2;", "test_mask", "*"),
    ("causal is always top-left", "src/core/mask.h", "m.bottom_right ? seqlen_k_ - seqlen_q : m.diagonal", "m.bottom_right ? 0 : m.diagonal", "test_mask", "*"),
    ("a partly visible tile counts as full", "src/core/mask.h", "j1 - 1 <= i0 + diagonal + right", "j1 - 2 <= i0 + diagonal + right", "test_mask", "*"),
    ("a packed sequence runs into its neighbour", "src/core/kernel.h", "clamp(cu_k[b + 1] - k0, 0,", "clamp(cu_k[b + 1] - k0 + 1, 0,", "test_mask", "*"),
    ("f16 rounds ties away", "src/core/codec.h", "const std::uint32_t r = a + 0xfffu + ((a >> 13) & 1);", "const std::uint32_t r = a + 0x1000u;", "test_codec", "*"),
    ("absmax drops NaN", "src/core/codec.h", "bits_f32(ua > ub ? ua : ub)", "bits_f32(ua > ub && ua <= 0x7f800000u ? ua : ub)", "test_codec", "*"),
    ("a zero group divides by zero", "src/core/codec.h", "if (a < kZeroGroup) return {0.0f, 0.0f};", "if (a < 0.0f) return {0.0f, 0.0f};", "test_codec", "*"),
    ("rotation without its signs", "src/core/rotation.h", "if (rotation_sign(d)) x[d] = -x[d];", "if (rotation_sign(d)) x[d] = +x[d];", "test_codec", "Rotation.*"),
    ("outputs may overlap themselves by one", "src/core/views.h", "v.stride[i] > reach, name", "v.stride[i] >= reach, name", "test_views", "*"),
    ("K groups of a tile merged", "src/core/scheme.cc", "constexpr Grain kTileThread{128, 4};", "constexpr Grain kTileThread{128, 1};", "test_scheme", "*"),
    ("scale NaN accepted", "src/core/validate.cc", "CHITU_CHECK(std::isfinite(p.softmax_scale)", "CHITU_CHECK(!std::isinf(p.softmax_scale)", "test_validate", "*"),
    ("lse may lie in the mask", "src/core/validate.cc", "  apart(\"lse\", \"mask\", lse, byte_range(\"mask\", a.mask));\n", "", "test_validate", "*"),
    ("seqlens_k one too long accepted", "src/core/validate.cc", "s.seqlens_k[b] <= p.seqlen_k,", "s.seqlens_k[b] <= p.seqlen_k + 1,", "test_validate", "*"),
    ("a forced kernel is a wish", "src/attention.cc", "if (!options.kernel.empty() && options.kernel != row.name) return", "if (false) return", "test_plan", "*Forced*"),
    ("a misspelt row is not disabled", "src/attention.cc", "CHITU_CHECK(unknown.empty(),", "CHITU_CHECK(true,", "test_plan", "*Disable*"),
    ("run trusts the shapes", "src/attention.cc", "CHITU_CHECK(p == impl.problem,", "CHITU_CHECK(p.dtype == impl.problem.dtype,", "test_validate", "*Run*"),
    ("automatic takes chitu_fast", "src/core/policy.h", "? Method::chitu_int8 : Method::chitu;", "? Method::chitu_fast : Method::chitu;", "test_plan", "*Automatic*"),
]

REFERENCE = [
    ("lse without the subtracted mean", "src/reference/attend.cc", "+ std::fabs(p_.softmax_scale) * shift)", "+ 0 * shift)", "test_kernels", "Cases/*/63"),
    ("row sum is not rescaled", "src/reference/attend.cc", "  r.normaliser *= shrink;\n", "", "test_kernels", "Cases/*/0"),
    ("negative scale keeps the sign of q", "src/reference/attend.cc", "quantize_queries(p.scheme, q, p.softmax_scale < 0,", "quantize_queries(p.scheme, q, false,", "test_kernels", "Cases/*/20"),
]

CPU = [
    ("query heads of a group start at the KV head", "src/cpu/call.cc", "const std::int64_t head_q = item.head * p.group();", "const std::int64_t head_q = item.head;", "test_properties", "*Grouped*"),
    ("merge reads an empty side", "src/cpu/merge.cc", "const float a = empty_a ? 0.0f : wa * oa[d]", "const float a = wa * oa[d]", "test_merge", "*Empty*"),
    ("merge forgets the level", "src/cpu/merge.cc", "m0 + std::log(z)", "std::log(z)", "test_merge", "*Formula*"),
    ("cache ignores the lengths", "src/cpu/quantized.cc", "lengths[b] = work.sequence(b).range.k_len;", "lengths[b] = q.seqlen_k;", "test_quantize_kv", "*Lengths*"),
    ("a blob's lengths are believed", "src/cpu/quantized.cc", "CHITU_CHECK(lengths[b] >= 0 && lengths[b] <= h.seqlen,", "CHITU_CHECK(true,", "test_quantize_kv", "*ABlob*"),
    ("mean of a ragged tile over all its slots", "src/cpu/device/quantize-inl.h", "Simd::set(128.0f / static_cast<float>(count))", "Simd::set(128.0f / static_cast<float>(kTile))",
     "test_kernels", "Cases/*/0"),
    ("K scale of the neighbouring group", "src/cpu/device/lut_softmax-inl.h", "Simd::mul(Simd::load(t.q_factor + v * kL), Simd::set(t.head->k_scale[g]));\n    off[g]",
     "Simd::mul(Simd::load(t.q_factor + v * kL), Simd::set(t.head->k_scale[g ^ 1]));\n    off[g]", "test_kernels", "Cases/*/0"),
    ("lost weights are not put back", "src/cpu/device/lut_softmax-inl.h", "F fix = Simd::select(fixed, Simd::mul(Simd::to_f(diff), Simd::set(1.0f / 128)), Simd::zero());",
     "F fix = Simd::select(fixed, Simd::zero(), Simd::zero());", "test_kernels", "Cases/*/65:Cases/*/73"),
    ("the row's maximum is kept, its sum is not", "src/cpu/device/float_softmax-inl.h", "Simd::mul(Simd::load(state.sum + v * kL), keep)", "Simd::load(state.sum + v * kL)", "test_kernels", "Cases/*/0"),
    ("the tail of a window is one key short", "src/cpu/device/block-inl.h", "smaller<std::int64_t>(a.seqlen_k, i + a.diagonal + a.right + 1)", "smaller<std::int64_t>(a.seqlen_k, i + a.diagonal + a.right)",
     "test_kernels", "Cases/*/1"),
    ("amax of V forgets the last vector", "src/cpu/device/quantize-inl.h", "for (int d = 0; d < width; d += kL) m = Simd::max_i(m,", "for (int d = 0; d + kL < width; d += kL) m = Simd::max_i(m,",
     "test_kernels", "Cases/*/0"),
]

CPU += [
    ("weights of K's channels are not given to Q", "src/cpu/prepare.cc", "q[d] = sign * weight;", "q[d] = sign;", "test_kernels", "Cases/*/76"),
    ("a small channel of K is blown up", "src/core/key_weights.h", "|| exponent <= median) return 0;", ") return 0;", "test_key_weights", "*"),
    ("the correction of flagged tiles has no bound", "src/cpu/device/lut_softmax-inl.h", "fix = Simd::max(Simd::sub(Simd::zero(), limit), Simd::min(limit, fix));", "",
     "test_key_weights", "*Correction*"),
]

# Run by the emulator (docs/emulation.md).
CUDA = [
    ("rotation exchanges with the wrong lane", "src/cuda/quantize_rows.cuh", "__shfl_xor_sync(~0u, x[i], stride / 8)",
     "__shfl_xor_sync(~0u, x[i], 3 - stride / 8)", "cuda_emulated_tests", "*Prepass.Equals*/chitu"),
    ("rows are read before they have arrived", "src/cuda/quantize_rows.cuh", "    sm80::ptx::cp_async_wait<0>();\n    __syncwarp();", "    sm80::ptx::cp_async_wait<1>();",
     "cuda_emulated_tests", "*Prepass.Sequences*/chitu"),
    ("largest values are cleared while another warp reads them", "src/cuda/quantize_rows.cuh", "raw, shared, shared.group_max[turn], factors + turn * T::kBucket);\n      } else", "raw, shared, shared.group_max[0], factors + turn * T::kBucket);\n      } else", "cuda_emulated_tests",
     "*Prepass.Sequences*/sage*"),
    ("factors of the next tile replace those in use", "src/cuda/quantize_rows.cuh", "fetch(n, after)", "fetch(n, turn)", "cuda_emulated_tests", "*Prepass.Sequences*/chitu"),
    ("a block does not look up its next tiles", "src/cuda/quantize_rows.cuh", "if (++n % kListed == 0) list(index + gridDim.x);", "++n;", "cuda_emulated_tests",
     "*Prepass.MoreTiles*/chitu"),
    ("the median of the weights' exponents is one too high", "src/cuda/quantize_stats.cu", "(below <= (n - 1) / 2)", "(below <= (n + 1) / 2)", "cuda_emulated_tests",
     "*Prepass.Equals*/chitu"),
    ("tiny samples of V are squared as they are", "src/cuda/quantize_stats.cu", "if (!exact && core::is_finite(largest))", "if (false)", "cuda_emulated_tests",
     "*Prepass.Hostile*/chitu_int8"),
    ("weights of K's channels are 1", "src/cuda/quantize_stats.cu", "core::key_weight_log2(exponent[d], median)", "0", "cuda_emulated_tests",
     "*Prepass.Equals*/chitu"),
    ("the bound of a correction leaves the tokens' scales out", "src/cuda/quantize_v.cu", "__fmul_rn(tokens.slot[group * 16 + k], static_cast<float>(abs(code)))",
     "static_cast<float>(abs(code))", "cuda_emulated_tests", "*Prepass.Sequences*/chitu_int8:*Prepass.Equals*/chitu_int8"),
    ("absmax of the tokens is read before it is written", "src/cuda/quantize_v.cu",
     "shared.parts[part][row[k]] = __uint_as_float(a);\n  }\n  __syncthreads();", "shared.parts[part][row[k]] = __uint_as_float(a);\n  }", "cuda_emulated_tests", "*Prepass.Sequences*/chitu_int8"),
    ("tile n is multiplied before its copy has landed for all", "src/cuda/sm80/attention.cuh",
     "        __syncthreads();  // tile n is there for all, and with two stages all have read tile n - 1\n", "", "cuda_emulated_tests", "CudaSchemes.*"),
    ("a piece is multiplied before its copy has landed", "src/cuda/sm80/decode.cuh", "ptx::cp_async_wait<T::kSlots - 1>();", "ptx::cp_async_wait<T::kSlots>();",
     "cuda_emulated_tests", "CudaDecode.ARow*"),
    ("warps are merged as if their maxima were equal", "src/cuda/sm80/decode.cuh",
     "ptx::exp2_approx(of_warp(s, kState + r * T::kRowSums) - finite_or_zero_max(merged.m[r]))", "1.0f", "cuda_emulated_tests", "CudaDecode.ARow*"),
    ("scores are read before wgmma has made them", "src/cuda/sm90/attention.cuh", "    ptx::wgmma_wait<1>();", "    ptx::wgmma_wait<2>();", "cuda_emulated_tests",
     "*Rows.StayWithin*/exact"),
    ("cleared values do not reach wgmma", "src/cuda/sm90/attention.cuh", "    ptx::fence_proxy_async();\n", "", "cuda_emulated_tests", "*Rows.IgnorePadding/exact"),
    ("values of the next packed sequence are not cleared", "src/cuda/sm90/work.cuh", "!p.packed && w.at.k_len >= p.seqlen_k", "w.at.k_len >= p.seqlen_k",
     "cuda_emulated_tests", "*Rows.PackedSequences*/exact"),
    ("a packed sequence counts itself among those before it", "src/cuda/sm90/order.cu", "other >= b)", "other > b)", "cuda_emulated_tests",
     "*Rows.PackedSequences*/exact"),
    ("q for the bias is replaced while it is read", "src/cuda/sm90/producer.cuh",
     "      ptx::bar_sync(kBarBias, kBiasWarps * 32);  // all are done with the previous q\n", "", "cuda_emulated_tests", "*Rows.Match*/chitu"),
    ("scales of keys are read in the other stage", "src/cuda/sm90/consumer.cuh", "scale.from(kStage * T::kTileN)", "scale.from(0)", "cuda_emulated_tests",
     "*Rows.Match*/int_flash_half"),
    ("the second 64 keys take the scale of the first", "src/cuda/device/softmax.cuh", "kBlocks == 1 || column < 64 ?", "true ?", "cuda_emulated_tests",
     "CudaSchemes.Departures"),
    ("another scheme beside a cache", "src/attention.cc", "CHITU_CHECK(field.empty(),", "CHITU_CHECK(true,", "cuda_emulated_tests", "CudaErrors.NoOtherScheme*"),
    ("lse lacks the mean of K", "src/cuda/sm90/epilogue.cuh", "lse += mean_dot(p, at, w.head, i);", "lse += 0.f;", "cuda_emulated_tests", "CudaSchemes.Departures"),
    ("sums are kept when the running maximum of int_flash moves", "src/cuda/sm90/attention8.cuh", "state.l[r] = fmaf(state.l[r], tile.w[r], T::kInt8Pv",
     "state.l[r] = fmaf(state.l[r], 1.f, T::kInt8Pv", "cuda_emulated_tests", "*Rows.Match*/int_flash"),
    ("tickets of uneven work do not start at 0", "src/cuda/sm90_rows.cc", "cudaMemsetAsync(x.work_counter, 0,", "cudaMemsetAsync(x.work_counter, 1,", "cuda_emulated_tests",
     "*PiecesInTurn/exact"),
    ("all keys of a tile take the scale of the first of four", "src/cuda/sm90/consumer.cuh", "b[T::kTileM + lane % 4 - row_in_tile()]", "b[T::kTileM - row_in_tile()]",
     "cuda_emulated_tests", "*Rows.Match*/chitu"),
    ("a product is folded before wgmma has made it", "src/cuda/sm90/attention8.cuh", "    ptx::wgmma_wait<kBehind>();", "    ptx::wgmma_wait<kBehind + 1>();",
     "cuda_emulated_tests", "*Rows.Match*/sage2"),
    ("a part of a product is folded before wgmma has made it", "src/cuda/sm90/attention8.cuh", "      ptx::wgmma_wait<0>();\n      ptx::pin(product);",
     "      ptx::wgmma_wait<1>();\n      ptx::pin(product);", "cuda_emulated_tests", "*Rows.Match*/sage2"),
    ("bytes of a cache change places on their way to tiles", "src/cuda/quantize_v.cu", "0x5140 : 0x7362", "0x5140 : 0x6273", "cuda_emulated_tests",
     "*QuantizedKvIsTheSameByEveryRow/chitu_fast"),
]

MUTANTS = FRONT + REFERENCE + CPU + CUDA
