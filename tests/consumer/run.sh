#!/usr/bin/env bash
# Builds the examples against an installed Chitu and runs them: run.sh cmake|pkg-config PREFIX WORK_FOLDER COMPILER. 77: the tool is not installed.
set -euo pipefail
how=$1 prefix=$2 work=$3 compiler=$4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rm -rf "$work"
mkdir -p "$work"

case $how in
  cmake)
    cmake -S "$here" -B "$work" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release >/dev/null
    cmake --build "$work" >/dev/null
    ;;
  pkg-config)
    command -v pkg-config >/dev/null || { echo "pkg-config is not installed"; exit 77; }
    PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name chitu.pc)")
    export PKG_CONFIG_PATH
    for example in 01_cpp 05_quantized_kv; do
      # shellcheck disable=SC2046
      "$compiler" -std=c++17 -O2 "$here/../../examples/$example.cc" -o "$work/$example" $(pkg-config --cflags --libs --static chitu)
    done
    ;;
esac
export LD_LIBRARY_PATH=$prefix/lib:${LD_LIBRARY_PATH:-}
"$work/01_cpp"
"$work/05_quantized_kv"
