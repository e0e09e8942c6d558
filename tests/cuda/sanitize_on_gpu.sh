#!/usr/bin/env bash
# compute-sanitizer over every row and method, on a machine with a GPU: memcheck and synccheck over the shape list of the Rows tests, racecheck (slow: small
# calls) and initcheck (a workspace that nobody has filled) over one call of each row.
#   tests/cuda/sanitize_on_gpu.sh <folder with chitu_cuda_tests> [seconds per process, default 240] [share of the shapes, default 0.15]
# One line per process; exit status 0 when all of them ended without an error. One that runs out of time has not passed.
set -u
binary=$1/chitu_cuda_tests limit=${2:-240}
export CHITU_NUM_THREADS=1 CHITU_TEST_EFFORT=${3:-0.15}
command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed: nothing was checked"; exit 2; }
logs=$(mktemp -d)

check() { # TOOL NAME ARGUMENTS ...
  local tool=$1 name=$2 log status verdict
  shift 2
  log=$logs/$tool-$name
  timeout "$limit" compute-sanitizer --tool "$tool" --error-exitcode 99 "$binary" "$@" >"$log" 2>&1
  status=$?
  verdict=$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -n 1 | sed 's/=* *//')
  case $status in
    0)
      if grep -qE 'SKIPPED|no CUDA device' "$log"; then
        verdict="skipped: no GPU" status=2
      elif [ -z "$verdict" ] || { [[ "$*" == --gtest* ]] && ! grep -qE '^\[  PASSED  \] [1-9]' "$log"; }; then
        verdict="nothing was checked" status=2
      fi
      ;;
    124) verdict="out of time after $limit s" ;;
  esac
  echo "$tool $name: ${verdict:-no summary} (exit $status)"
  [ $status -eq 0 ] || grep -E '=========|Failure' "$log" | head -n 12
  return $status
}
export -f check
export binary limit logs

{
  for tool in memcheck synccheck; do
    for method in exact chitu chitu_int8 chitu_fast sage1 sage2 int_flash int_flash_half; do
      echo "$tool $method --gtest_filter=Methods/Rows.MatchTheirSpecification/$method"
    done
    echo "$tool prepass --gtest_filter=*Prepass*"
    echo "$tool schemes --gtest_filter=CudaSchemes.Departures:CudaDecode.*:*PackedSequences*:*QuantizedKv*-*QuantizedKv*/exact"
    echo "$tool pieces --gtest_filter=*PiecesInTurn*"
  done
  echo "racecheck pieces --gtest_filter=*PiecesInTurn/chitu_fast:*PiecesInTurn/exact"
  for dim in 64 96 128 256; do
    echo "racecheck d$dim timing 300 1 $dim"
    echo "racecheck d$dim-causal timing 300 1 $dim 1"
    echo "initcheck d$dim timing 700 2 $dim"
    echo "initcheck d$dim-causal timing 300 2 $dim 1"
  done
} | xargs -P "$(nproc)" -I{} bash -c 'check {}' >"$logs/verdicts"
status=$?
cat "$logs/verdicts"
echo "$(grep -c 'exit 0)' "$logs/verdicts") of $(grep -c '(exit ' "$logs/verdicts") processes without an error"
[ $status -eq 0 ]
