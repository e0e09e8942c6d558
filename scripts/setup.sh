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

find_nvcc() {
  if command -v nvcc >/dev/null; then command -v nvcc; elif [ -x /usr/local/cuda/bin/nvcc ]; then say /usr/local/cuda/bin/nvcc; fi
}

# configure_build DIRECTORY [CMAKE ARGUMENT ...]
configure_build() {
  local dir=$1
  shift
  cmake -S "$root" -B "$dir" -G Ninja "$@" >"$dir.configure.log" 2>&1 || { cat "$dir.configure.log" >&2; die "configuration failed"; }
  rm -f "$dir.configure.log"
}

# build_targets DIRECTORY TARGET ...: quiet unless something fails or takes long.
build_targets() {
  local dir=$1
  shift
  cmake --build "$dir" -j "$jobs" --target "$@" >"$dir/build.log" 2>&1 || { tail -n 60 "$dir/build.log" >&2; die "build failed, see $dir/build.log"; }
}
