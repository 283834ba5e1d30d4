#!/usr/bin/env bash
# Installs the rpm into an empty root, looks at every file, upgrades it, and removes it. Prints one line.
#
#   packaging/check-rpm.sh      $PBMBOX_EXECUTABLE is what is packaged (target/package/pbmbox otherwise)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() {
    echo "check-rpm: $1" >&2
    exit 1
}

executable=${PBMBOX_EXECUTABLE:-${CARGO_TARGET_DIR:-$root/target}/package/pbmbox}
[ -x "$executable" ] || die "$executable is not there; packaging/build.sh --binary-only makes it"
[ "$(id -u)" = 0 ] || die "rpm --root needs root; run it as root"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
umask 022
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
export PBMBOX_QUICK=1
for given in "$version" "$version+1"; do PBMBOX_VERSION=$given "$root/packaging/rpm.sh" "$executable" "$scratch"; done
old=$(echo "$scratch/pbmbox-$version-1".*.rpm) new=$(echo "$scratch/pbmbox-$version+1-1".*.rpm)

# Nothing but what rpm makes itself; not even a shell for the scriptlets.
empty=$scratch/empty
mkdir "$empty"
install_options=()
# Debian's rpm asks for it, as its own packages are others.
! rpm --help | grep -e --force-debian >/dev/null || install_options+=(--force-debian)
in_root() { rpm --root "$empty" --dbpath /var/lib/rpm "$@"; }
same() { [ "$1" = "$2" ] || die "$3: $(diff <(echo "$2") <(echo "$1") | tail -n +2 | head -n 20 || true)"; }
# Every file and link with its type, mode, and what a link points to.
found() { (cd "$empty" && find . ! -type d ! -path './var/lib/rpm/*' -printf '%y %m /%P %l\n' | sed 's/ *$//' | LC_ALL=C sort -k 3); }
clean() {
    local changed
    changed=$(in_root -V pbmbox 2>&1) || die "rpm -V after $1: $changed"
    [ -z "$changed" ] || die "rpm -V after $1: $changed"
}

in_root "${install_options[@]}" -i "$old" >"$scratch/log" 2>&1 || die "the installation failed: $(cat "$scratch/log")"
! grep -i -e error -e warning "$scratch/log" || die "the installation was not clean: $(cat "$scratch/log")"
grep -q 'systemctl enable --now pbm-agent' "$scratch/log" || die "the installation does not say what to do next: $(cat "$scratch/log")"

shells='bash-completion/completions/NAME
fish/vendor_completions.d/NAME.fish
zsh/site-functions/_NAME'
expected=$({
    echo 'f 755 /usr/bin/pbmbox'
    for name in pbm pbm-agent pbm-agent-entrypoint pbm-speed-test pbmctl; do echo "l 777 /usr/bin/$name pbmbox"; done
    for name in $("$executable" completions "$scratch/shells" >/dev/null && cd "$scratch/shells" && printf '%s\n' *.bash); do
        echo "${shells//NAME/${name%.bash}}" | sed 's,^,f 644 /usr/share/,'
    done
    "$executable" man "$scratch/man" >/dev/null && (cd "$scratch/man" && printf 'f 644 /usr/share/man/man1/%s.gz\n' *)
    echo 'f 644 /usr/lib/systemd/system/pbm-agent.service'
    echo 'f 644 /usr/lib/sysusers.d/pbmbox.conf'
    echo 'f 644 /etc/logrotate.d/pbmbox'
    echo 'f 600 /etc/sysconfig/pbm-agent'
    (cd "$root/packaging/examples" && for name in pbm-storage.conf pbm-conf-reference.yml; do [ ! -e $name ] || echo "f 640 /etc/$name"; done)
    doc=/usr/share/doc/pbmbox
    echo "f 644 $doc/README.md"
    printf "f 644 $doc/examples/%s\n" pbm-agent.yml pbm-agent.service.d/{credentials,user-of-mongod}.conf
    for file in "$root/LICENSE" "$(dirname "$executable")"/{THIRD-PARTY-LICENSES,pbmbox-*.cdx.json}; do [ ! -e "$file" ] || echo "f 644 $doc/${file##*/}"; done
} | LC_ALL=C sort -k 3)
same "$(found)" "$expected" "the files are not those that are expected"
clean "the installation"
[ "$(in_root -q --conflicts pbmbox)" = percona-backup-mongodb ] || die "it does not conflict with the original's package"
cmp -s "$executable" "$empty/usr/bin/pbmbox" || die "the executable was changed on the way"
"$empty/usr/bin/pbm" version --short >/dev/null || die "the installed executable does not run"

echo "PBM_MONGODB_URI='mongodb://localhost'" >>"$empty/etc/sysconfig/pbm-agent"
settings=$(cat "$empty/etc/sysconfig/pbm-agent")
in_root "${install_options[@]}" -U "$new" >"$scratch/log" 2>&1 || die "the upgrade failed: $(cat "$scratch/log")"
[ "$(in_root -q --queryformat '%{VERSION}\n' pbmbox)" = "$version+1" ] || die "the upgrade did not replace the package"
same "$(cat "$empty/etc/sysconfig/pbm-agent")" "$settings" "the upgrade changed /etc/sysconfig/pbm-agent"
same "$(found)" "$expected" "the upgrade left other files than expected"
same "$(in_root -V pbmbox 2>&1 || true)" 'S.5....T.  c /etc/sysconfig/pbm-agent' "rpm -V after the upgrade"

in_root -e pbmbox >"$scratch/log" 2>&1 || die "the removal failed: $(cat "$scratch/log")"
same "$(found)" 'f 600 /etc/sysconfig/pbm-agent.rpmsave' "the removal left other files than the settings"
same "$(cat "$empty/etc/sysconfig/pbm-agent.rpmsave")" "$settings" "the settings that the removal kept"
echo "rpm: installed into an empty root, $(echo "$expected" | wc -l) files and links as expected, verified, upgraded, removed"
