#!/usr/bin/env bash
# Makes a release in target/package: one statically linked executable, its tarball, bill of materials, licences of what
# is linked in, deb and rpm, and their checksums. The same source gives the same bytes, wherever it is built.
#
#   packaging/build.sh                  everything
#   packaging/build.sh --binary-only    only target/package/pbmbox
#   packaging/build.sh --target aarch64 for the other architecture, in target/package-aarch64, with the toolchain that
#                                       packaging/cross.sh fetches
#
# From a git checkout the commit names the build and gives the time of all files. Elsewhere PBMBOX_GIT_COMMIT,
# PBMBOX_GIT_BRANCH and SOURCE_DATE_EPOCH may say it; they also win over the checkout.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
. dev/toolchain.sh

die() {
    echo "build: $1" >&2
    exit 1
}

binary_only=
arch=x86_64
while [ $# -gt 0 ]; do
    case $1 in
    --binary-only) binary_only=1 ;;
    --target)
        arch=${2:-}
        shift
        ;;
    *) die "unknown argument '$1'; there are --binary-only and --target" ;;
    esac
    shift
done

triple=$arch-unknown-linux-gnu
target=${CARGO_TARGET_DIR:-$root/target}
out=$target/package

# What is needed after the build is looked for before it, as it takes long. The program, and Debian's package of it.
needs=(readelf:binutils)
[ -n "$binary_only" ] || needs+=(python3:python3 dpkg-deb:dpkg rpmbuild:rpm)
look() {
    missing=()
    for need in "${needs[@]}"; do command -v "${need%:*}" >/dev/null 2>&1 || missing+=("${need#*:}"); done
}
look
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 || true
    look
fi
[ ${#missing[@]} = 0 ] || die "install ${missing[*]} (Debian's names; rpm is rpm-build on Fedora and the like); --binary-only needs only binutils"
[ -n "$binary_only" ] || python3 -c 'import tomllib' 2>/dev/null || die "the bill of materials needs python3 3.11 or later; build with --binary-only to do without"

case $arch in
x86_64) ;;
aarch64)
    # Manual pages are written by the program itself, so those of the other architecture need one that runs here.
    if [ -z "$binary_only" ] && [ "$(uname -m)" != aarch64 ] && [ -z "${PBMBOX_PAGES_FROM:-}" ]; then
        export PBMBOX_PAGES_FROM=$out/pbmbox
        if [ ! -x "$PBMBOX_PAGES_FROM" ] && [ "$(uname -m)" = x86_64 ]; then packaging/build.sh --binary-only; fi
        [ -x "$PBMBOX_PAGES_FROM" ] || die "deb and rpm for $arch need the executable for this machine: run $0 --binary-only first"
    fi
    tools=$("$root/packaging/cross.sh")
    out=$target/package-aarch64
    # Of its own, as another compiler also makes other build scripts and macros.
    target=$target/aarch64
    export RUSTC=$tools/rustc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$tools/aarch64-linux-gnu-gcc-12
    export CC_aarch64_unknown_linux_gnu=$tools/aarch64-linux-gnu-gcc-12 AR_aarch64_unknown_linux_gnu=$tools/aarch64-linux-gnu-ar
    ;;
*) die "'$arch' is not one of x86_64, aarch64" ;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
mkdir -p "$out"

# Which build this is.
in_git() { [ -e .git ] && command -v git >/dev/null 2>&1 && git -c safe.directory='*' "$@" 2>/dev/null; }
commit=${PBMBOX_GIT_COMMIT-$(in_git rev-parse HEAD || true)}
if [ -z "${PBMBOX_GIT_COMMIT+given}" ] && [ -n "$(in_git status --porcelain --untracked-files=no || true)" ]; then commit+=-modified; fi
branch=${PBMBOX_GIT_BRANCH-$(in_git symbolic-ref --short HEAD || true)}
epoch=${SOURCE_DATE_EPOCH:-$(in_git log -1 --format=%ct || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH=$epoch PBMBOX_GIT_COMMIT=$commit PBMBOX_GIT_BRANCH=$branch
PBMBOX_BUILD_TIME=$(date -u -d "@$epoch" +%Y-%m-%d_%H:%M_UTC)
export PBMBOX_BUILD_TIME

# The flags are this script's alone: others, from the environment or a configuration, would take the place of these,
# and the result would be linked dynamically.
for name in $(compgen -e); do
    case $name in
    RUSTFLAGS | CARGO_BUILD_RUSTFLAGS | CARGO_TARGET_*_RUSTFLAGS | CARGO_PROFILE_* | *CFLAGS* | *CPPFLAGS*) unset "$name" ;;
    esac
done
cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$("${RUSTC:-rustc}" --print sysroot)
commit_of_rust=$("${RUSTC:-rustc}" -vV | sed -n 's/^commit-hash: //p')
flags=(
    -C target-feature=+crt-static
    # Otherwise ldd calls it "statically linked", which is as true but not what scripts look for.
    -C relocation-model=static
    # A static glibc has no dlsym to find the call with, and a chroot no /dev/urandom to fall back to.
    --cfg 'getrandom_backend="linux_getrandom"'
    "--remap-path-prefix=$cargo_home=/cargo"
    "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$commit_of_rust"
    "--remap-path-prefix=$root=/pbmbox"
    "--remap-path-prefix=$target=/pbmbox/target"
)
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' "${flags[@]}")
export CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}
# With quotes, as a path may contain a space.
export CC_SHELL_ESCAPED_FLAGS=1
export "CFLAGS_${triple//-/_}=$(printf '%q ' "-ffile-prefix-map=$cargo_home=/cargo" "-ffile-prefix-map=$target=/pbmbox/target")"
cargo build --quiet --target "$triple" --profile dist --bin pbmbox --locked --target-dir "$target" ||
    die "cargo did not build the executable"

# What was promised is looked at in the result.
executable=$out/pbmbox
install -m 755 "$target/$triple/dist/pbmbox" "$executable.new"
segments=$(readelf -lW "$executable.new")
case $segments in *INTERP* | *DYNAMIC*) die "$executable.new is linked dynamically; was the profile or a flag of this script changed?" ;; esac
[ "$arch" != "$(uname -m)" ] || [ "$(LC_ALL=C ldd "$executable.new" 2>&1 | xargs)" = "not a dynamic executable" ] ||
    die "ldd does not call $executable.new static: $(ldd "$executable.new" 2>&1)"
case $(readelf -SW "$executable.new") in *.symtab* | *.debug_*) die "$executable.new is not stripped" ;; esac
[ "$arch" != aarch64 ] || "$tools/usr/bin/qemu-aarch64-static" "$executable.new" pbm version >/dev/null || die "$executable.new does not run in the emulator"
for place in "$root" "$target" "$cargo_home" "$sysroot"; do
    ! grep -qaF "$place/" "$executable.new" || die "$executable.new contains the path $place of this machine: another directory would give another file"
done
mv "$executable.new" "$executable"
[ -z "$binary_only" ] || exit 0

# What is inside, and under which terms.
python3 packaging/inventory.py "$triple" "$out/pbmbox-$version.cdx.json" "$out/THIRD-PARTY-LICENSES" ||
    die "the bill of materials was not made"

name=pbmbox-$version-linux-$arch
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/$name"
cp "$executable" README.md CHANGELOG.md SECURITY.md LICENSE "$out/pbmbox-$version.cdx.json" "$out/THIRD-PARTY-LICENSES" "$scratch/$name/"
cp -r docs packaging/examples packaging/systemd "$scratch/$name/"
tar -C "$scratch" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$epoch" -cf - "$name" |
    gzip -n -9 >"$scratch/tarball"
rm -f "$out"/*.tar.gz "$out"/*.deb "$out"/*.rpm "$out/SHA256SUMS"
mv "$scratch/tarball" "$out/$name.tar.gz"
for kind in deb rpm; do
    "packaging/$kind.sh" "$executable" "$out" || die "packaging/$kind.sh did not make its package"
done
(cd "$out" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum) >"$scratch/sums"
mv "$scratch/sums" "$out/SHA256SUMS"
