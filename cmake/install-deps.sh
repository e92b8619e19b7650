#!/bin/sh
# Installs the packages that building and testing convrt needs. Silent and fast when all is there.
#
# usage: cmake/install-deps.sh [GROUP...]      groups: build test bench lanes; default: build test bench
set -eu

packages_of() {
  case $1 in
    # CONVRT_GL needs glad at build time; the examples need libpng, convrt::mpi needs an MPI.
    build) echo g++ cmake ninja-build libhwy-dev python3-glad libpng-dev libcli11-dev nlohmann-json3-dev
      echo libopenmpi-dev ;;
    # Mesa's llvmpipe: an OpenGL device on any machine.
    test) echo libgtest-dev pkg-config ccache libegl1 libgl1-mesa-dri openmpi-bin ;;
    # oneDNN's CMake files ask for OpenCL, which its package only recommends.
    bench) echo libbenchmark-dev libdnnl-dev ocl-icd-opencl-dev python3-matplotlib ;;
    lanes) echo clang libomp-dev clang-tidy clang-format g++-aarch64-linux-gnu qemu-user googletest doxygen binutils ;;
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) echo "install-deps.sh: unknown group \"$1\"; expected build, test, bench or lanes" >&2; exit 2 ;;
  esac
}

[ $# -gt 0 ] || set -- build test bench
wanted=
for group in "$@"; do
  packages=$(packages_of "$group") || exit 2
  wanted="$wanted $packages"
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "This machine has no apt. convrt builds where CMake finds the equivalents of these Debian packages:" >&2
  echo " $wanted" >&2
  exit 0
fi

missing=
for package in $wanted; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Please install as root:  apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
  as_root=sudo
fi
echo "Installing:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086  # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
