#!/usr/bin/env python3
"""Times `chitu bench` beside PyTorch's CPU scaled_dot_product_attention, interleaved in one run.

Needs PyTorch and NumPy in the interpreter that runs it (pip install torch numpy); the library itself needs neither.
  python3 benchmarks/peers_cpu.py --chitu build/bin/chitu --json benchmarks/results/<date>-cpu-peers.json
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time

import torch


def chitu_ms(binary, method, seqlen, head_dim, heads, threads, causal, dtype):
    """Median end-to-end latency of one method, quantization included."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "row.json")
        command = [binary, "bench", "--table", "sweep", "--method", method, "--seqlen", str(seqlen), "--heads", str(heads), "--head-dim", str(head_dim),
                   "--dtype", dtype, "--device", "cpu", "--repeats", "5", "--json", path] + (["--causal"] if causal else [])
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "CHITU_NUM_THREADS": str(threads)})
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
    row = data["results"][0]
    return row["latency_ms"], row["kernel"], data["machine"]


def torch_ms(dtype, seqlen, head_dim, heads, threads, causal):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, heads, seqlen, head_dim, generator=generator).to(dtype) for _ in range(3))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


def measure(args, head_dim, seqlen, threads, causal):
    flops = 4.0 * args.heads * seqlen * seqlen * head_dim * (0.5 if causal else 1.0)
    cells = {}
    machine = None
    for _ in range(args.rounds):
        for method in args.method.split(","):
            ms, kernel, machine = chitu_ms(args.chitu, method, seqlen, head_dim, args.heads, threads, causal, "fp32")
            cells.setdefault(f"{method} ({kernel})", []).append(ms)
        for name, dtype in (("torch fp32", torch.float32), ("torch bf16", torch.bfloat16)):
            cells.setdefault(name, []).append(torch_ms(dtype, seqlen, head_dim, args.heads, threads, causal))
    rows = []
    for name, times in cells.items():
        ms = statistics.median(times)
        rows.append({"name": name, "seqlen": seqlen, "head_dim": head_dim, "num_heads": args.heads, "causal": causal, "threads": threads, "latency_ms": ms,
                     "gflops_per_thread": flops / ms / 1e6 / threads, "runs_ms": times})
        print(f"{name:36} S={seqlen} D={head_dim} T={threads} causal={int(causal)}  {ms:9.2f} ms  {rows[-1]['gflops_per_thread']:7.1f} GFLOP/s per thread")
    return rows, machine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chitu", default="build/bin/chitu")
    parser.add_argument("--method", default="chitu_int8,chitu,exact")
    parser.add_argument("--seqlen", default="4096")
    parser.add_argument("--head-dim", default="64,128")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; the median of the rounds is reported")
    parser.add_argument("--causal", action="store_true", help="also the causal case")
    parser.add_argument("--json")
    args = parser.parse_args()
    results, machine = [], None
    for head_dim in map(int, args.head_dim.split(",")):
        for seqlen in map(int, args.seqlen.split(",")):
            for threads in map(int, args.threads.split(",")):
                for causal in ([False, True] if args.causal else [False]):
                    rows, machine = measure(args, head_dim, seqlen, threads, causal)
                    results += rows
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"results": results, "machine": machine, "torch": torch.__version__, "python": platform.python_version(),
                       "date": time.strftime("%Y-%m-%d")}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
