#!/usr/bin/env bash
# Fetches what a build for aarch64 needs on an x86_64 Debian 12, installed nowhere: Debian's own Rust for both
# architectures, the cross compiler with a static glibc, and an emulator to look at the result. Prints the folder.
#
#   packaging/cross.sh        .cache/tools/aarch64 in the repository (git-ignored); 900 MB
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
final=$root/.cache/tools/aarch64
scratch=

die() {
    echo "cross: $1" >&2
    exit 1
}

cleanup() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap cleanup EXIT

if [ -e "$final" ]; then
    echo "$final"
    exit
fi
command -v apt-get >/dev/null 2>&1 || die "the toolchain comes from Debian's packages, and there is no apt-get"
mirrors() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(CREATED_BY)' 2>/dev/null |
        awk '$3 == "Packages" && $2 ~ /^bookworm(-security)?$/ {print $1, $2}' | sort -u
}
[ "$(mirrors | wc -l)" -ge 2 ] || die "apt knows no mirror of bookworm and bookworm-security, where the toolchain is"
mkdir -p "${final%/*}"
scratch=$(mktemp -d "${final%/*}/.making.XXXXXX")
apt=$scratch/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/parts" "$scratch/tree"
mirrors | while read -r mirror suite; do
    echo "deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$apt/sources.list"
: >"$apt/status"
private=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts" -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt" -o "Dir::Cache::archives=$apt/archives" -o "Dir::State::status=$apt/status" -o APT::Sandbox::User=root
    -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o APT::Architectures::=arm64)
apt-get "${private[@]}" update >"$scratch/apt.log" 2>&1 || die "apt-get could not read the lists ($(tail -n 1 "$scratch/apt.log")); repeat it"
# The library of the other architecture has to be of the compiler's own version.
rust=$(apt-cache "${private[@]}" policy rustc-web:amd64 | sed -n 's/.*Candidate: //p')
std=libstd-rust-web-$(cut -d. -f1,2 <<<"$rust")
llvm=$(apt-cache "${private[@]}" depends --no-recommends "$std:amd64" | sed -n 's/.*Depends: \(libllvm[0-9]*\).*/\1/p')
(cd "$apt" && apt-get "${private[@]}" download "rustc-web:amd64=$rust" "$std:amd64=$rust" "libstd-rust-web-dev:amd64=$rust" \
    "libstd-rust-web-dev:arm64=$rust" "$llvm:amd64" gcc-12-aarch64-linux-gnu cpp-12-aarch64-linux-gnu binutils-aarch64-linux-gnu \
    libgcc-12-dev-arm64-cross libgcc-s1-arm64-cross libc6-dev-arm64-cross libc6-arm64-cross linux-libc-dev-arm64-cross qemu-user-static) \
    >"$scratch/apt.log" 2>&1 || die "apt-get could not download the toolchain ($(tail -n 1 "$scratch/apt.log")); repeat it"
for deb in "$apt"/*.deb; do dpkg-deb -x "$deb" "$scratch/tree"; done
find "$scratch/tree/usr/bin" -name 'qemu-*' ! -name qemu-aarch64-static -delete
rm -rf "$scratch/tree/usr/share/doc"
# Each finds its libraries by this name alone.
for tool in rustc aarch64-linux-gnu-gcc-12 aarch64-linux-gnu-ar; do
    printf '%s\n' '#!/bin/sh' 'here=$(dirname "$0")' \
        "LD_LIBRARY_PATH=\$here/usr/lib/x86_64-linux-gnu exec \"\$here/usr/bin/$tool\" \"\$@\"" >"$scratch/tree/$tool"
    chmod 755 "$scratch/tree/$tool"
done
mv -T "$scratch/tree" "$final" 2>/dev/null || [ -e "$final" ] || die "cannot move the toolchain to $final"
echo "$final"
