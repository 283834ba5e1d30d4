#!/usr/bin/env bash
# Checks a release's executable where it will have to live: alone in an empty chroot, beside a foreign glibc, against an
# authenticated MongoDB over TLS that is known by a host name. Prints its size, its start-up time and its memory. As root;
# everything runs in namespaces of its own, which take all of it along when they end.
#
#   packaging/check-release.sh                   builds the executable first
#   packaging/check-release.sh EXECUTABLE        checks this one
#   packaging/check-release.sh --reproducible    builds twice, in two directories, and compares (takes two clean builds)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache/testbed
# Another one than this machine's, with whose glibc the executable is linked.
case $(. /etc/os-release && echo "${VERSION_CODENAME:-}") in trixie) suite=bookworm ;; *) suite=trixie ;; esac
suite=${PBMBOX_OTHER_SUITE:-$suite}
scratch=

die() {
    echo "check-release: $1" >&2
    exit 1
}

cleanup() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap cleanup EXIT

# Two copies of the commit, in paths of different lengths.
reproducible() {
    local place sums=() started=$SECONDS
    [ -z "$(git -C "$root" status --porcelain)" ] || die "there are changes that are in no commit; both builds are made from the commit"
    for place in "$scratch/one" "$scratch/a longer/way/to/the other"; do
        git clone --quiet --no-hardlinks "$root" "$place"
        # In the environment of a CI job that wants something else.
        (cd "$place" && env -u CARGO_TARGET_DIR RUSTFLAGS="-D warnings" packaging/build.sh) || die "the build in $place failed"
        sums+=("$(sed 's/^/  /' "$place/target/package/SHA256SUMS")")
    done
    [ "${sums[0]}" = "${sums[1]}" ] || die "two builds of one commit differ:"$'\n'"${sums[0]}"$'\n'"${sums[1]}"
    echo "two builds in two directories, $((SECONDS - started)) s, the same files:"
    echo "${sums[0]}"
}

# A root with the glibc and the name service modules of another Debian suite, as a desktop has them.
fetch_foreign_root() {
    local to=$cache/foreign-$suite work=$scratch/fetch mirror debs
    [ -e "$to" ] && return
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(CREATED_BY)' 2>/dev/null |
        awk '$3 == "Packages" && $2 !~ /security|updates/ && $1 ~ /debian/ {print $1; exit}')
    [ -n "$mirror" ] || die "no Debian mirror is configured for apt, so there is no foreign glibc to check against"
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/parts" "$work/tree"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    : >"$work/status"
    local private=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/parts"
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o "Dir::Cache::archives=$work/archives"
        -o "Dir::State::status=$work/status" -o APT::Sandbox::User=root)
    (cd "$work" && apt-get "${private[@]}" update &&
        apt-get "${private[@]}" download libc6 libc-bin libcap2 libnss-mdns libnss-resolve libnss-myhostname libnss-mymachines) \
        >"$work/apt.log" 2>&1 || die "apt-get could not download the packages of $suite ($(tail -n 1 "$work/apt.log")); repeat it"
    # Merged /usr, as the packages of the suite expect it.
    mkdir -p "$work/tree/usr/lib" "$work/tree/usr/lib64"
    ln -s usr/lib "$work/tree/lib"
    ln -s usr/lib64 "$work/tree/lib64"
    debs=("$work"/*.deb)
    for deb in "${debs[@]}"; do dpkg-deb --fsys-tarfile "$deb" | tar -C "$work/tree" --keep-directory-symlink -xf -; done
    mkdir -p "$cache"
    mv -T "$work/tree" "$to" 2>/dev/null || [ -e "$to" ] || die "cannot move the root of $suite to $to"
}

fetch_pymongo() {
    [ -e "$cache/pymongo" ] && return
    mkdir -p "$cache"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$scratch/pymongo" pymongo==4.15.5 \
        >"$scratch/pip.log" 2>&1 || die "pip could not install pymongo ($(tail -n 1 "$scratch/pip.log")); repeat it"
    mv -T "$scratch/pymongo" "$cache/pymongo" 2>/dev/null || [ -e "$cache/pymongo" ] || die "cannot move pymongo to $cache"
}

mode=check executable=
case ${1:-} in
--reproducible) mode=reproducible ;;
-*) die "unknown argument '$1'; there are --reproducible and the path of an executable" ;;
*) executable=${1:-} ;;
esac
# Not in /tmp, which may be in memory: two builds are some gigabytes.
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/check-release.XXXXXX")
if [ "$mode" = reproducible ]; then
    reproducible
    exit
fi

[ "$(id -u)" = 0 ] || die "it makes chroots and namespaces: run it as root"
for tool in apt-get dpkg-deb ip openssl python3 unshare cc readelf; do
    command -v "$tool" >/dev/null 2>&1 || die "the program $tool is needed; on Debian: apt-get install apt dpkg iproute2 openssl python3 util-linux gcc"
done
if [ -z "$executable" ]; then
    "$root/packaging/build.sh" --binary-only
    executable=${CARGO_TARGET_DIR:-$root/target}/package/pbmbox
fi
[ -x "$executable" ] || die "$executable is not an executable file; give the path of the release's pbmbox"
"$root/dev/testbed.sh" default
mongod=${PBMBOX_MONGOD:-$(command -v mongod || echo "$cache/mongod-6.0.5")}
fetch_foreign_root
fetch_pymongo

unshare --mount --net --pid --fork --kill-child --mount-proc \
    env PYTHONPATH="$cache/pymongo" bash "$root/packaging/check-release/inside.sh" "$(realpath "$executable")" "$scratch" "$cache/foreign-$suite" "$mongod"
