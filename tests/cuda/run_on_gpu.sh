#!/usr/bin/env bash
# Runs the CUDA tests of a build on a machine with a GPU, all cores at work: the specification runs on the CPU and is the slow side.
#   tests/cuda/run_on_gpu.sh <folder with chitu_cuda_tests> [random calls per core] [gtest filter]
# Prints the failures and a count; exit status 0 when nothing failed.
set -u
binary=$1/chitu_cuda_tests
export CHITU_NUM_THREADS=1 CHITU_CUDA_SWEEP=${2:-1000}
shards=$(nproc)
logs=$(mktemp -d)
for ((i = 0; i < shards; ++i)); do
  GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i "$binary" --gtest_filter="${3:-*}:-*Sweep*" >"$logs/tests$i" 2>&1 &
done
wait
for ((i = 0; i < shards; ++i)); do  # the sweep: every core its own seed
  CHITU_CUDA_SWEEP_SEED=$((i + 1)) "$binary" --gtest_filter="*Sweep*" >"$logs/sweep$i" 2>&1 &
done
wait
grep -hA7 -E 'Failure' "$logs"/* | grep -vE '^--|Expected equality|check\(' | cut -c1-230 | head -100
grep -hE '^\[  FAILED.*(ms)' "$logs"/* | sed 's/, where.*//' | sort | uniq -c
ok=$(cat "$logs"/* | grep -cE '^\[       OK')
bad=$(cat "$logs"/* | grep -cE '^\[  FAILED.* ms\)')
skipped=$(cat "$logs"/* | grep -cE '^\[  SKIPPED.* ms\)')
finished=$(grep -lE '^\[==========\].*ran' "$logs"/* | wc -l)
echo "$ok passed, $bad failed, $skipped skipped; $finished of $((2 * shards)) processes finished; $((shards * CHITU_CUDA_SWEEP)) random calls"
[ "$bad" -eq 0 ] && [ "$finished" -eq $((2 * shards)) ]
