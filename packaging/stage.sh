# To be sourced: what deb.sh and rpm.sh have in common, so that both packages hold the same files.
#
#   PBMBOX_VERSION    the version of the package; that of Cargo.toml without it
#   SOURCE_DATE_EPOCH the time of every file; that of the last commit without it
#   PBMBOX_PAGES_FROM an executable of the same source that runs here, when the packaged one is for another architecture
#   PBMBOX_QUICK      hardly compress, for packages that nobody keeps
packaging=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=(pbm pbm-agent pbm-agent-entrypoint pbm-speed-test pbmctl)

die() {
    echo "${0##*/}: $1" >&2
    exit 1
}

# Checks the arguments of both scripts; sets executable, output, version and SOURCE_DATE_EPOCH.
arguments() {
    [ $# = 2 ] || die "give the executable and the folder for the package: ${0##*/} EXECUTABLE OUTPUT_DIR"
    [ -f "$1" ] && [ -x "$1" ] || die "$1 is no executable; packaging/build.sh makes one"
    mkdir -p "$2"
    executable=$(realpath "$1") output=$(realpath "$2")
    version=${PBMBOX_VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$packaging/../Cargo.toml" | head -n 1)}
    case $version in [0-9]*) ;; *) die "the version '$version' does not begin with a digit; correct PBMBOX_VERSION" ;; esac
    # To both package managers a tilde sorts before the end: 1.0.0~rc.1 is older than 1.0.0.
    version=${version/-/\~}
    : "${SOURCE_DATE_EPOCH:=$(git -c safe.directory='*' -C "$packaging" log -1 --format=%ct 2>/dev/null || stat -c %Y "$packaging/../Cargo.lock")}"
    export SOURCE_DATE_EPOCH
}

# The value of ELF's e_machine field: 62 is x86_64, 183 is aarch64.
machine() {
    [ "$(head -c 4 "$executable" | od -An -c | tr -d ' ')" = '177ELF' ] || die "$executable is no ELF executable"
    od -An -tu2 -j18 -N2 "$executable" | tr -d ' '
}

# stage DIR ENVIRONMENT_FILE UNIT_DIR ZSH_DIR: every file of the package below DIR, with its mode and time.
stage() {
    local tree=$1 environment=$2 units=$3 zsh=$4 from=${PBMBOX_PAGES_FROM:-$executable} beside name file
    beside=$(dirname "$executable")
    put() { install -D -m "$1" "$2" "$tree$3"; }

    put 755 "$executable" /usr/bin/pbmbox
    for name in "${programs[@]}"; do ln -s pbmbox "$tree/usr/bin/$name"; done

    put 644 "$packaging/systemd/pbm-agent.service" "$units/pbm-agent.service"
    put 644 "$packaging/systemd/sysusers.conf" /usr/lib/sysusers.d/pbmbox.conf
    put 644 "$packaging/systemd/logrotate.conf" /etc/logrotate.d/pbmbox
    put 600 "$packaging/systemd/environment" "$environment"

    # The names of the original's samples; nothing reads them by itself. Both are places for credentials.
    for name in pbm-storage.conf pbm-conf-reference.yml; do
        [ ! -e "$packaging/examples/$name" ] || put 640 "$packaging/examples/$name" "/etc/$name"
    done
    # These would be active below /etc.
    for name in pbm-agent.yml pbm-agent.service.d/credentials.conf pbm-agent.service.d/user-of-mongod.conf; do
        put 644 "$packaging/examples/$name" "/usr/share/doc/pbmbox/examples/$name"
    done
    put 644 "$packaging/../README.md" /usr/share/doc/pbmbox/README.md
    for file in "$packaging/../LICENSE" "$beside/THIRD-PARTY-LICENSES" "$beside"/pbmbox-*.cdx.json; do
        [ ! -e "$file" ] || put 644 "$file" "/usr/share/doc/pbmbox/${file##*/}"
    done

    # In the scratch folder of the caller, which removes it.
    local pages=$scratch/pages
    if ! { "$from" man "$pages/man" && "$from" completions "$pages/shells"; } >"$scratch/pages.log" 2>&1; then
        die "$from did not write the manual pages and completions: $(tail -n 1 "$scratch/pages.log"). An executable for another \
architecture needs PBMBOX_PAGES_FROM, the name of one that runs here"
    fi
    for file in "$pages"/man/*.1; do
        gzip -9n "$file"
        put 644 "$file.gz" "/usr/share/man/man1/${file##*/}.gz"
    done
    for file in "$pages"/shells/*; do
        name=${file##*/}
        case $name in
        *.bash) put 644 "$file" "/usr/share/bash-completion/completions/${name%.bash}" ;;
        *.fish) put 644 "$file" "/usr/share/fish/vendor_completions.d/$name" ;;
        _*) put 644 "$file" "$zsh/$name" ;;
        *) die "$from completions wrote $name, which is for no known shell" ;;
        esac
    done
}

# The same time for everything below $1.
settle() { find "$1" -depth -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; }
