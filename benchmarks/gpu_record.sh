#!/usr/bin/env bash
# Runs the CUDA tests and benchmarks on a machine with a GPU and records them as JSON.
#   benchmarks/gpu_record.sh BIN_FOLDER OUT_FOLDER GIT_HASH [STAGE ...]
#   tests     tests/cuda/run_on_gpu.sh; CALLS: random calls per core (default 6500)
#   sanitize  tests/cuda/sanitize_on_gpu.sh
#   kernels   checks and times of the kernel benchmarks that BIN_FOLDER has (benchmarks/kernels/build.sh); ALL=1: also variants the library does not use
#   tables    `chitu bench`: 4K and 16K, head_dim 64, 128, 256, causal, every kernel that serves
#   shapes    `chitu bench`: shapes of video and image models, decoding from an 8-bit cache
#   peers     PyTorch's backends (needs PyTorch with CUDA as python3)
#   long      `chitu bench --table long`: 10K and 100K tokens; 1M, each call once (3 to 9 s)
# Default: all but sanitize and long. BIN_FOLDER holds chitu and chitu_cuda_tests of the build to record. Exit status: of the tests and checks.
set -u
[ $# -ge 3 ] || { sed -n '3p' "$0" | cut -c5- >&2 && exit 2; }
bin=$(cd "$1" && pwd) || exit 2
out=$2 hash=$3
shift 3
[ $# -gt 0 ] || set -- tests kernels tables shapes peers
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$out"
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
export GIT_HASH=$hash DRIVER=$driver
DATE=$(date +%F) && export DATE
worst=0

record() { # NAME COMMAND ...: its output as it comes, a JSON record of how it ended
  local name=$1 begin=$SECONDS status
  shift
  "$@" >"$out/$name.txt" 2>&1
  status=$?
  cat "$out/$name.txt"
  printf '{"gpu": "%s", "driver": "%s", "git": "%s", "date": "%s", "command": "%s", "seconds": %d, "exit_status": %d, "summary": "%s"}\n' "$gpu" "$driver" "$hash" "$DATE" \
    "$(sed -e "s|$root/||g" -e "s|$bin|<build>/bin|g" -e "s|$out/||g" <<<"$*")" $((SECONDS - begin)) $status "$(tail -n 1 "$out/$name.txt" | tr -d '"\\')" >"$out/$name.json"
  [ $status -le $worst ] || worst=$status
}

bench() { # NAME OPTIONS ...: a table, and its JSON with the hash of the build
  local name=$1
  shift
  echo "== $name: chitu bench $*"
  rm -f "$out/$name.json"
  timeout "${LIMIT:-120}" "$bin/chitu" bench --device cuda --quiet --json "$out/$name.json" "$@" | sed -n '/^method\|^N \|^[0-9a-zA-Z_]\+ .*_/p'
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || { echo "$name: exit status $status" && worst=1; }
  [ -s "$out/$name.json" ] || return
  sed -i "0,/{/s//{\n \"git\": \"$hash\",/" "$out/$name.json"
}

kernels() {
  local name
  for name in sm90_attention_bench sm90_8bit_bench; do
    [ -x "$bin/$name" ] || continue
    rm -f "$out/$name-times.json"
    JSON=$out/$name-times.json record "$name" "$bin/$name" check repeat time
  done
  [ ! -x "$bin/prepass_bench" ] || record prepass "$bin/prepass_bench"
}

tables() {
  local dim
  for dim in 64 128 256; do
    bench "d$dim-4k" --table sweep --kernel all --seqlen 4096 --batch 4 --heads $((2048 / dim)) --head-dim $dim
    bench "d$dim-16k" --table sweep --kernel all --seqlen 16384 --heads $((2048 / dim)) --head-dim $dim
    bench "d$dim-16k-causal" --table sweep --kernel all --seqlen 16384 --heads $((2048 / dim)) --head-dim $dim --causal
  done
}

shapes() { # FLUX, Wan, CogVideoX, and decoding
  bench flux --table sweep --kernel all --seqlen 4608 --heads 24 --head-dim 128
  bench wan --table sweep --kernel all --seqlen 32760 --heads 40 --head-dim 128
  bench cogvideox --table sweep --kernel all --seqlen 17776 --batch 2 --heads 30 --head-dim 64
  bench decode --table sweep --kernel all --quantized-kv --seqlen-q 1 --seqlen 32768 --heads 32 --head-dim 128
  bench decode-gqa --table sweep --kernel all --quantized-kv --seqlen-q 1 --seqlen 32768 --batch 4 --heads 32/8 --head-dim 128
}

for stage; do
  case $stage in
    tests) record tests "$root/tests/cuda/run_on_gpu.sh" "$bin" "${CALLS:-6500}" ;;
    sanitize) record sanitize "$root/tests/cuda/sanitize_on_gpu.sh" "$bin" ;;
    peers) rm -f "$out/peers-times.json" && record peers python3 "$root/benchmarks/peers_cuda.py" --json "$out/peers-times.json" ;;
    long)
      LIMIT=500 bench long --table long --seqlen 10K,100K
      LIMIT=500 bench long-1m --table long --seqlen 1M --repeats 1
      ;;
    kernels | tables | shapes) $stage ;;
    *) echo "gpu_record.sh: unknown stage '$stage', want tests, sanitize, kernels, tables, shapes, peers or long" >&2 && exit 2 ;;
  esac
done
exit $worst
