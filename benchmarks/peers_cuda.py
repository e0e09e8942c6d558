#!/usr/bin/env python3
"""Times PyTorch's scaled_dot_product_attention (flash and cuDNN backends, fp16) at the shapes of the CUDA tables. Needs PyTorch with CUDA.

  python3 benchmarks/peers_cuda.py --json OUT.json      TFLOPS = 4 B H S^2 D / time, half for causal; median of 20 by CUDA events
"""
import argparse
import json
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = [(1, 16, 16384, 128, False), (4, 16, 4096, 128, False), (1, 16, 16384, 128, True), (1, 32, 16384, 64, False), (4, 32, 4096, 64, False),
          (1, 8, 16384, 256, False), (1, 24, 4608, 128, False), (1, 40, 32760, 128, False), (2, 30, 17776, 64, False)]  # the last three: FLUX, Wan, CogVideoX
BACKENDS = {"torch flash": SDPBackend.FLASH_ATTENTION, "torch cuDNN": SDPBackend.CUDNN_ATTENTION}


def time_ms(backend, batch, heads, seqlen, head_dim, causal):
    q, k, v = (torch.randn(batch, heads, seqlen, head_dim, device="cuda", dtype=torch.float16) for _ in range(3))
    times = []
    with sdpa_kernel(backend):
        for i in range(23):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            end.record()
            end.synchronize()
            if i >= 3:
                times.append(begin.elapsed_time(end))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    args = parser.parse_args()
    results = []
    for name, backend in BACKENDS.items():
        for batch, heads, seqlen, head_dim, causal in SHAPES:
            try:
                ms = time_ms(backend, batch, heads, seqlen, head_dim, causal)
            except RuntimeError as error:
                print(f"{name}: {error}")
                continue
            tflops = 4.0 * batch * heads * seqlen**2 * head_dim * (0.5 if causal else 1) / ms / 1e9
            results.append({"name": name, "batch": batch, "num_heads": heads, "seqlen": seqlen, "head_dim": head_dim, "causal": causal, "latency_ms": ms, "tflops": tflops})
            print(f"{name:12} B{batch} H{heads} S{seqlen} D{head_dim} causal={int(causal)} {ms:8.3f} ms {tflops:6.1f} TFLOPS")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "results": results}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
