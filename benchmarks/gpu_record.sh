#!/usr/bin/env bash
# Runs the CUDA tests and the tables of `chitu bench` on a machine with a GPU and records them as JSON.
#   benchmarks/gpu_record.sh BIN_FOLDER OUT_FOLDER GIT_HASH [random calls per core]
# BIN_FOLDER holds chitu and chitu_cuda_tests of the build to record. Results: OUT_FOLDER/{tests,long,sweep-d64,sweep-d128,sweep-causal}.json.
set -u
bin=$1 out=$2 hash=$3 calls=${4:-1000}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out"
gpu=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader | head -n 1)

begin=$SECONDS
"$here/../tests/cuda/run_on_gpu.sh" "$bin" "$calls" >"$out/tests.txt" 2>&1
status=$?
cat "$out/tests.txt"
printf '{"gpu": "%s", "git": "%s", "date": "%s", "command": "tests/cuda/run_on_gpu.sh %s %s", "seconds": %d, "exit_status": %d, "summary": "%s"}\n' \
  "$gpu" "$hash" "$(date +%F)" '<build>/bin' "$calls" $((SECONDS - begin)) $status "$(tail -n 1 "$out/tests.txt")" >"$out/tests.json"

bench() { # NAME OPTIONS ...
  local name=$1
  shift
  timeout 60 "$bin/chitu" bench --device cuda --json "$out/$name.json" "$@" 2>/dev/null
}
bench sweep-d128 --table sweep --method exact,chitu,chitu_int8,chitu_fast,sage2 --seqlen 4096,16384 --heads 16 --head-dim 128
bench sweep-d64 --table sweep --method exact,chitu,chitu_int8,chitu_fast,sage2 --seqlen 4096,16384 --heads 32 --head-dim 64
bench sweep-causal --table sweep --method exact,chitu --seqlen 16384 --heads 16 --head-dim 128 --causal
bench long --table long
exit $status
