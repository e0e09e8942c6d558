#!/usr/bin/env bash
# Builds the kernel benchmarks, which CMake does not: they need nvcc here and a Hopper GPU where they run.
#   benchmarks/kernels/build.sh BUILD_FOLDER OUT_FOLDER [NAME ...]      default: all; BUILD_FOLDER has the library, made by scripts/demo or scripts/test
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
library=$(realpath "$1/src/libchitu.a")
out=$(mkdir -p "$2" && realpath "$2")
shift 2
[ $# -gt 0 ] || set -- sm90_attention_bench sm90_8bit_bench prepass_bench packed_bench
cd "$here/../.."
declare -A sources=(
  [sm90_attention_bench]="$(echo benchmarks/kernels/sm90_{attention_bench,variants}.cu)"
  [sm90_8bit_bench]="$(echo benchmarks/kernels/sm90_{8bit_bench,variants8,schedules8}.cu)"
  [packed_bench]="benchmarks/kernels/packed_bench.cu"
  [prepass_bench]="$(echo benchmarks/kernels/prepass_bench.cu src/cuda/quantize*.cu src/cuda/{prepass,runtime}.cc)"
)
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT

compile() { # NAME SOURCE
  local flags=(-gencode "arch=compute_90a,code=sm_90a")
  # the pre-pass: no contraction, as in the library, and a launch.h that takes the time of every kernel
  if [ "$1" = prepass_bench ]; then flags+=(-fmad=false -Ibenchmarks/kernels/timed); fi
  nvcc -std=c++20 -O3 "${flags[@]}" -Isrc -Iinclude -c "$2" -o "$objects/$1-$(basename "$2").o"
}
export -f compile
export objects
for name; do [ -n "${sources[$name]:-}" ] || { echo "build.sh: unknown benchmark '$name', want one of: ${!sources[*]}" >&2 && exit 2; }; done
for name; do
  for source in ${sources[$name]}; do echo "$name $source"; done
done | xargs -P "$(nproc)" -I{} bash -c 'compile {}'
for name; do nvcc -cudart static -o "$out/$name" "$objects/$name"-*.o "$library" -lpthread; done
