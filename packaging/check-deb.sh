#!/usr/bin/env bash
# Installs, uses, upgrades and removes the Debian package in fresh systems without Rust, with their own systemd and a real
# mongod: deb/acceptance.sh says what. Prints one line for each system.
#
#   packaging/check-deb.sh [SUITE...]     suites of the mirror that apt uses here; bookworm without arguments
#
# Needs root. $PBMBOX_EXECUTABLE is what is packaged (target/package/pbmbox otherwise), $PBMBOX_MONGOD the server. The fresh
# systems are kept in .cache/debootstrap-SUITE.tar; remove one to have it made anew.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache
scratch=

die() {
    echo "check-deb: $1" >&2
    exit 1
}

# Everything that runs in the container ends with systemd-nspawn, and with it its mounts.
container=
cleanup() {
    [ -z "$container" ] || { kill -KILL "$container" && wait "$container"; } 2>/dev/null || true
    [ -z "$scratch" ] || rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

[ "$(id -u)" = 0 ] || die "a container with a systemd of its own needs root; run it as root"
missing=()
command -v debootstrap >/dev/null 2>&1 || missing+=(debootstrap)
command -v systemd-nspawn >/dev/null 2>&1 || missing+=(systemd-container)
if [ ${#missing[@]} -gt 0 ]; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
        die "cannot install ${missing[*]}; do it by hand"
fi

executable=${PBMBOX_EXECUTABLE:-${CARGO_TARGET_DIR:-$root/target}/package/pbmbox}
[ -x "$executable" ] || die "$executable is not there; packaging/build.sh --binary-only makes it"
"$root/dev/testbed.sh" default
mongod=${PBMBOX_MONGOD:-$(command -v mongod || echo "$cache/testbed/mongod-6.0.5")}

# The mirror that apt uses for the release that runs here; it has the other releases too.
mirror() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(CREATED_BY)' 2>/dev/null |
        awk '$2 !~ /-/ && $3 == "Packages" {print $1; exit}'
}

# .cache/debootstrap-SUITE.tar: systemd, what mongod links to, and a client to look at its data with.
fresh_system() {
    local suite=$1 made=$cache/debootstrap-$1.tar packages=systemd,systemd-sysv,logrotate,python3-pymongo from
    [ ! -s "$made" ] || return 0
    case $suite in
    bookworm) packages+=,libssl3,libcurl4 ;;
    bullseye | buster) die "$suite is too old for the default mongod; take bookworm or a later one" ;;
    *) packages+=,libssl3t64,libcurl4t64 ;;
    esac
    from=$(mirror)
    [ -n "$from" ] || die "apt has no release of Debian configured, so there is no mirror to take $suite from"
    [ -e "/usr/share/debootstrap/scripts/$suite" ] || die "debootstrap does not know the suite '$suite'; check the name"
    debootstrap --variant=minbase --include="$packages" "$suite" "$scratch/made" "$from" >"$scratch/debootstrap.log" 2>&1 ||
        die "debootstrap could not make $suite: $(tail -n 2 "$scratch/debootstrap.log"); does the mirror have it?"
    rm -rf "$scratch"/made/var/cache/apt/archives/*.deb "$scratch"/made/var/lib/apt/lists/* "$scratch"/made/usr/share/doc/*
    tar -cf "$scratch/made.tar" -C "$scratch/made" .
    mv "$scratch/made.tar" "$made"
    rm -rf --one-file-system "$scratch/made"
}

# As far as our package meets it, the original's: the same configuration files and unit, and what debhelper's scripts do.
original() {
    local tree=$scratch/original
    mkdir -p "$tree"/DEBIAN "$tree"/etc/default "$tree"/usr/lib/systemd/system "$tree"/usr/bin
    printf 'Package: percona-backup-mongodb\nVersion: 2.15.0-1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: stand-in\n' >"$tree/DEBIAN/control"
    echo '# the template' | tee "$tree/etc/default/pbm-agent" "$tree/etc/pbm-storage.conf" "$tree/etc/pbm-conf-reference.yml" >"$tree/usr/bin/pbm"
    printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' >"$tree/usr/lib/systemd/system/pbm-agent.service"
    printf '/etc/%s\n' default/pbm-agent pbm-storage.conf pbm-conf-reference.yml >"$tree/DEBIAN/conffiles"
    cat >"$tree/DEBIAN/postinst" <<'SH'
#!/bin/sh
set -e
deb-systemd-helper unmask pbm-agent.service
deb-systemd-helper enable pbm-agent.service
systemctl daemon-reload
deb-systemd-invoke start pbm-agent.service
SH
    printf '#!/bin/sh\nset -e\n[ "$1" != remove ] || deb-systemd-invoke stop pbm-agent.service\n' >"$tree/DEBIAN/prerm"
    cat >"$tree/DEBIAN/postrm" <<'SH'
#!/bin/sh
set -e
case $1 in
remove) deb-systemd-helper mask pbm-agent.service ;;
purge) deb-systemd-helper purge pbm-agent.service && deb-systemd-helper unmask pbm-agent.service ;;
esac
SH
    chmod 755 "$tree"/DEBIAN/p*
    dpkg-deb --root-owner-group --build "$tree" "$scratch/original.deb" >/dev/null
}

check() {
    local suite=$1 system=$scratch/$1 began=$SECONDS code=0
    fresh_system "$suite"
    mkdir "$system"
    tar -xf "$cache/debootstrap-$suite.tar" -C "$system"
    mkdir "$system/acceptance"
    cp "$scratch"/*.deb "$root/packaging/deb/acceptance.sh" "$system/acceptance/"
    install -m 755 "$mongod" "$system/usr/bin/mongod"
    # The container's exit code is that of the acceptance.
    cat >"$system/etc/systemd/system/acceptance.service" <<'UNIT'
[Unit]
SuccessAction=exit
SuccessActionExitStatus=0
FailureAction=exit
FailureActionExitStatus=1
[Service]
Type=oneshot
TimeoutStartSec=600
ExecStart=/acceptance/acceptance.sh
StandardOutput=append:/acceptance/log
StandardError=append:/acceptance/log
UNIT
    mkdir -p "$system/etc/systemd/system/multi-user.target.wants" "$system/var/log/journal"
    ln -s ../acceptance.service "$system/etc/systemd/system/multi-user.target.wants/"
    # A network of its own: all ports are free, and nothing can be fetched. mongod locks the memory of its passwords.
    systemd-nspawn --quiet --register=no --keep-unit --private-network --capability=CAP_IPC_LOCK --console=pipe \
        --boot --directory="$system" \
        </dev/null >"$scratch/boot.log" 2>&1 &
    container=$!
    wait "$container" || code=$?
    container=
    if [ $code != 0 ] || [ "$(tail -n 1 "$system/acceptance/log" 2>/dev/null | cut -d ' ' -f 3-)" != done ]; then
        cat "$system/acceptance/log" >&2 2>/dev/null || tail -n 20 "$scratch/boot.log" >&2
        die "$suite: the last of the steps above failed"
    fi
    echo "$suite: installed, backed up, restored, upgraded, removed, purged, migrated in $((SECONDS - began)) s"
    rm -rf --one-file-system "$system"
}

# Not in /tmp, which may be in memory, or without the devices that debootstrap makes.
mkdir -p "$cache"
scratch=$(mktemp -d "$cache/.check-deb.XXXXXX")
umask 022
chmod 755 "$scratch"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
# Both hold the same executable: only the packages' scripts tell them apart.
export PBMBOX_QUICK=1
for kind in old new; do
    case $kind in old) given=$version ;; new) given=$version+1 ;; esac
    PBMBOX_VERSION=$given "$root/packaging/deb.sh" "$executable" "$scratch/$kind"
    mv "$scratch/$kind"/*.deb "$scratch/$kind.deb"
done
original
for suite in "${@:-bookworm}"; do check "$suite"; done
