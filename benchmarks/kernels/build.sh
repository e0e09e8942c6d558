#!/usr/bin/env bash
# Builds the kernel benchmarks, which CMake does not: they need nvcc here and a Hopper GPU where they run.
#   benchmarks/kernels/build.sh BUILD_FOLDER OUT_FOLDER [NAME ...]      default: all; BUILD_FOLDER has the library, made by scripts/demo or scripts/test
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
library=$(realpath "$1/src/libchitu.a")
out=$(mkdir -p "$2" && realpath "$2")
shift 2
[ $# -gt 0 ] || set -- sm90_attention_bench sm90_8bit_bench
declare -A sources=([sm90_attention_bench]="sm90_attention_bench sm90_variants" [sm90_8bit_bench]="sm90_8bit_bench sm90_variants8 sm90_schedules8_d64 sm90_schedules8_d128")
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
cd "$here/../.."
for name; do
  [ -n "${sources[$name]:-}" ] || { echo "build.sh: unknown benchmark '$name', want one of: ${!sources[*]}" >&2 && exit 2; }
  for source in ${sources[$name]}; do echo "$source"; done
done | sort -u | xargs -P "$(nproc)" -I{} nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -Isrc -Iinclude -c "benchmarks/kernels/{}.cu" -o "$objects/{}.o"
for name; do
  # shellcheck disable=SC2086
  nvcc -cudart static -o "$out/$name" $(printf "$objects/%s.o " ${sources[$name]}) "$library" -lpthread
done
