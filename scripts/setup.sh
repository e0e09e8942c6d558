# Sourced by scripts/demo and scripts/test: installs what is missing on Debian 12, configures the build. Says nothing when all is there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${CHITU_BUILD_DIR:-$root/build}
jobs=${CHITU_JOBS:-$(nproc)}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "these Debian packages are missing and neither root nor sudo is at hand: $missing"
  fi
}

install_packages() {
  missing=
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
  done
  [ -z "$missing" ] && return 0
  command -v apt-get >/dev/null || die "no apt-get here; install the equivalents of:$missing"
  say "Installing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get -qq update
  # shellcheck disable=SC2086
  as_root apt-get -qq install -y --no-install-recommends $missing >/dev/null
}

# A cmake or ninja from elsewhere (pip, a vendor) serves as well as Debian's.
toolchain=(libcli11-dev libfmt-dev nlohmann-json3-dev libgtest-dev)
command -v g++ >/dev/null || toolchain+=(g++)
command -v cmake >/dev/null || toolchain+=(cmake)
command -v ninja >/dev/null || toolchain+=(ninja-build)
command -v python3 >/dev/null || toolchain+=(python3)

private_cuda=$root/.deps/cuda
find_nvcc() {
  local candidate
  for candidate in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc "$private_cuda/nvidia/cu13/bin/nvcc"; do
    if [ -x "$candidate" ]; then say "$candidate"; return; fi
  done
}

has_gpu() { [ -e /dev/nvidiactl ] || { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }; }

# A GPU without a compiler: take NVIDIA's from PyPI into a private folder of this checkout. CHITU_CUDA=OFF stays on the CPU.
ensure_nvcc() {
  if [ "${CHITU_CUDA:-AUTO}" = OFF ]; then return 0; fi
  if [ -z "$(find_nvcc)" ] && has_gpu; then fetch_nvcc; fi
  # The wheels have lib/libcudart.so.13 where nvcc looks into lib64/ and CMake for libcudart.so.
  local toolkit=$private_cuda/nvidia/cu13
  if [ -d "$toolkit/lib" ]; then
    ln -sfn lib "$toolkit/lib64"
    ln -sf libcudart.so.13 "$toolkit/lib/libcudart.so"
  fi
}

fetch_nvcc() {
  say "A GPU but no nvcc: fetching NVIDIA's compiler into .deps/cuda (CHITU_CUDA=OFF would stay on the CPU)"
  install_packages python3-pip
  local version=13.0 packages=() part=$private_cuda.part
  for name in nvcc crt runtime cccl; do packages+=("nvidia-cuda-$name==$version.*"); done
  rm -rf "$part" "$private_cuda"
  if python3 -m pip install -q --disable-pip-version-check --target "$part" "${packages[@]}" "nvidia-nvvm==$version.*" 2>"$root/.deps/pip.log"; then
    mv "$part" "$private_cuda"  # only as a whole: an interrupted download must not pass for a compiler
  else
    say "That failed (.deps/pip.log has the reason): staying on the CPU. Put nvcc 13 on PATH and run this again to use the GPU."
    rm -rf "$part"
  fi
}

# configure_build DIRECTORY [CMAKE ARGUMENT ...]
configure_build() {
  local dir=$1 nvcc
  shift
  nvcc=$(find_nvcc)
  set -- "-DCHITU_CUDA=${CHITU_CUDA:-AUTO}" ${nvcc:+"-DCMAKE_CUDA_COMPILER=$nvcc"} "$@"
  cmake -S "$root" -B "$dir" -G Ninja "$@" >"$dir.configure.log" 2>&1 || { cat "$dir.configure.log" >&2; die "configuration failed"; }
  rm -f "$dir.configure.log"
}

# build_targets DIRECTORY TARGET ...: quiet unless something fails or takes long.
build_targets() {
  local dir=$1
  shift
  cmake --build "$dir" -j "$jobs" --target "$@" >"$dir/build.log" 2>&1 || { tail -n 60 "$dir/build.log" >&2; die "build failed, see $dir/build.log"; }
}
