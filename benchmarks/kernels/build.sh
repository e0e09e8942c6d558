#!/usr/bin/env bash
# Builds the kernel benchmarks, which CMake does not: they need nvcc and sm_90, and run on a machine with a Hopper GPU.
#   benchmarks/kernels/build.sh OUT_FOLDER [NAME ...]      names: sm90_attention_bench sm90_8bit_bench prepass_bench (default: all)
set -eu
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ $# -gt 0 ] || set -- sm90_attention_bench sm90_8bit_bench prepass_bench
flags=(-std=c++20 -O3 --threads 2 -gencode arch=compute_90a,code=sm_90a -cudart static -Isrc -Iinclude)
