#!/bin/bash
# setup_navi31.sh PREFIX trixie|bpo: puts a pretended Radeon RX 7900 XTX (navi31) into PREFIX.
#
# Debian's mesa-drm-shim makes Mesa's OpenGL driver for AMD (radeonsi) believe that such a card is present: it reports
# its renderer, compiles GLSL to gfx1100 machine code and accepts dispatches, which do nothing. So this proves the probe,
# the compile and the machine code, never the numbers.
#   trixie   Mesa of trixie-backports with trixie's libc and LLVM; compiler ACO by default   (82 MB)
#   bpo      Mesa of bookworm-backports; ACO because asked for: a second, older compiler     (21 MB)
# Packages are unpacked, not installed: neither the system's packages nor its apt sources change (a private apt
# configuration with the host's mirror, DEBIAN_MIRROR overrides). Then: PREFIX/run-navi31 PROGRAM ARGS.
set -euo pipefail
prefix=$(realpath -m "$1") which=$2
case $which in
  trixie) suites="trixie trixie-backports" debug=cs,asm,stats ;;
  bpo) suites=bookworm-backports debug=cs,asm,stats,useaco ;;
  *) echo "setup_navi31.sh: expected trixie or bpo, found $which" >&2; exit 2 ;;
esac
[[ -x $prefix/run-navi31 ]] && exit 0

mirror=${DEBIAN_MIRROR:-$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
  sed -nE 's/^(URIs:|deb )[[:space:]]*([^ ]*debian\/?)( .*)?$/\2/p' | sed -n 1p || true)}
[[ $mirror ]] || { echo "setup_navi31.sh: no Debian mirror in the apt sources; set DEBIAN_MIRROR" >&2; exit 1; }
apt=$prefix/apt
mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc/sources.list.d,etc/preferences.d,etc/trusted.gpg.d,etc/apt.conf.d}
mkdir -p "$prefix/root"
cat > "$apt/etc/sources.list.d/debian.sources" <<EOF
Types: deb
URIs: $mirror
Suites: $suites
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
: > "$apt/status"
cat > "$apt/apt.conf" <<EOF
Dir::Etc "$apt/etc"; Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "$apt/etc/sources.list.d";
Dir::State "$apt"; Dir::State::status "$apt/status"; Dir::State::lists "$apt/lists"; Dir::Cache "$apt/cache";
APT::Install-Recommends "false"; APT::Sandbox::User "root"; Acquire::Languages "none";
EOF
export APT_CONFIG=$apt/apt.conf
apt-get -qq update
if [[ $which == bpo ]]; then
  (cd "$apt/cache/archives" && apt-get -qq download mesa-drm-shim mesa-libgallium libegl-mesa0 libgbm1 \
    libgl1-mesa-dri libglx-mesa0 libdrm2 libdrm-amdgpu1)
else
  apt-get -qq -y -t trixie-backports install --download-only mesa-drm-shim libgl1-mesa-dri libegl-mesa0 libegl1 \
    libopengl0 libgbm1 libstdc++6 libgomp1 > /dev/null
fi
for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$prefix/root"; done

lib=$prefix/root/usr/lib/x86_64-linux-gnu
echo '{"file_format_version":"1.0.0","ICD":{"library_path":"libEGL_mesa.so.0"}}' > "$prefix/egl-mesa.json"
if [[ $which == bpo ]]; then
  start="LD_LIBRARY_PATH=$lib LD_PRELOAD=$lib/libamdgpu_noop_drm_shim.so exec \"\$@\""
else  # a newer libc than the host's needs its own loader
  start="exec $lib/ld-linux-x86-64.so.2 --library-path $lib --preload $lib/libamdgpu_noop_drm_shim.so \"\$@\""
fi
cat > "$prefix/run-navi31" <<EOF
#!/bin/sh
export AMDGPU_GPU_ID=\${AMDGPU_GPU_ID:-navi31} AMD_DEBUG=\${AMD_DEBUG-$debug} MESA_SHADER_CACHE_DISABLE=true
export __EGL_VENDOR_LIBRARY_FILENAMES=$prefix/egl-mesa.json LIBGL_DRIVERS_PATH=$lib/dri GBM_BACKENDS_PATH=$lib/gbm
$start
EOF
chmod +x "$prefix/run-navi31"
