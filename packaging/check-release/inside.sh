#!/usr/bin/env bash
# The checks of packaging/check-release.sh, inside of its namespaces: no network but lo, and no process survives.
#
#   inside.sh EXECUTABLE SCRATCH FOREIGN_ROOT MONGOD
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
executable=$1 scratch=$2 foreign=$3 mongod=$4
by_file=node.by-hosts.test by_dns=node.by-dns.test by_srv=cluster.by-dns.test port=27017
user=pbm password=throwaway
chroot=$(command -v chroot)
# Aims of the release: MiB, ms, MiB.
most_size=25 most_start=30 most_memory=20

die() {
    echo "check-release: $1" >&2
    exit 1
}

# A command in one of the roots, with nothing of our own environment.
within() {
    local root=$1
    shift
    env -i PATH=/ HOME=/ "$chroot" "$root" /pbmbox "$@"
}

# Runs it and keeps the output; $1 is the exit code that must come, with $2 in the output.
expect() {
    local want=$1 text=$2 got=0
    shift 2
    output=$("$@" 2>&1) || got=$?
    [ "$got" = "$want" ] || die "'${*//"$scratch"/...}' ended with $got and not $want: $output"
    [[ $output == *"$text"* ]] || die "'${*//"$scratch"/...}' does not say '$text': $output"
}

new_root() {
    mkdir -p "$1/etc"
    cp "$executable" "$1/pbmbox"
    cp "$scratch/hosts" "$1/etc/hosts"
    cp "$scratch/resolv.conf" "$1/etc/resolv.conf"
}

# A condition within a minute.
until_true() {
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || die "no $what within a minute"
        sleep 0.1
    done
}

database() { python3 "$here/database.py" "$@"; }

# MiB with one digit, of a number of KiB.
mib() { awk -v kib="$1" 'BEGIN { printf "%.1f", kib / 1024 }'; }
above() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }

network() {
    ip link set lo up
    printf '127.0.0.1 localhost %s\n' "$by_file" >"$scratch/hosts"
    echo "nameserver 127.0.0.1" >"$scratch/resolv.conf"
    mount --bind "$scratch/hosts" /etc/hosts
    mount --bind "$scratch/resolv.conf" "$(realpath /etc/resolv.conf)"
    python3 "$here/names.py" "$scratch/names.log" "$by_dns=127.0.0.1" "_mongodb._tcp.$by_srv=1:$by_dns?replicaSet=rs0" &
    until_true "name server" grep -q ready "$scratch/names.log"
}

linked_statically() {
    local said segments
    said=$(LC_ALL=C ldd "$executable" 2>&1 | xargs) || true
    [ "$said" = "not a dynamic executable" ] || die "ldd says: $said"
    segments=$(readelf -lW "$executable")
    case $segments in *INTERP* | *DYNAMIC*) die "readelf finds a loader or a dynamic section in $executable" ;; esac
    echo "linked statically: ldd says '$said'"
}

# Nothing listens on port 1: a name that resolves is refused there, one that doesn't isn't.
resolves() {
    local root=$1 patience='serverSelectionTimeoutMS=2000'
    expect 3 refused within "$root" pbm status --mongodb-uri "mongodb://$by_file:1/?$patience"
    expect 3 refused within "$root" pbm status --mongodb-uri "mongodb://$by_dns:1/?$patience"
    expect 3 "" within "$root" pbm status --mongodb-uri "mongodb://nowhere.by-dns.test:1/?$patience"
    [[ $output != *refused* ]] || die "a name that is nowhere resolves: $output"
}

empty_chroot() {
    local root=$scratch/empty
    new_root "$root"
    expect 0 "Version:" within "$root" pbm version
    expect 0 "Usage:" within "$root" pbm --help
    resolves "$root"
    grep -q "^A $by_dns" "$scratch/names.log" || die "$by_dns resolves, but the name server was not asked"
    # Refused by design, with what DNS says that it stands for.
    expect 2 "mongodb://$by_dns:1/?tls=true&replicaSet=rs0" within "$root" pbm status --mongodb-uri "mongodb+srv://$by_srv/"
    expect 2 "could not be looked up" within "$root" pbm status --mongodb-uri "mongodb+srv://$by_dns/"
    echo "empty chroot: pbm version, --help, names from /etc/hosts and DNS, SRV and TXT records"
}

foreign_glibc() {
    local root=$scratch/foreign code=0 version
    cp -a "$foreign" "$root"
    new_root "$root"
    echo "hosts: mymachines mdns4_minimal resolve files dns myhostname" >"$root/etc/nsswitch.conf"
    version=$(chroot "$root" /usr/bin/getent --version | sed -n '1s/.* //p')
    # A static program that follows nsswitch.conf must die here, or this root would prove nothing.
    printf '%s\n' '#include <netdb.h>' 'int main(int n, char **a) { struct addrinfo *r; return getaddrinfo(a[n - 1], 0, 0, &r) != 0; }' >"$scratch/naive.c"
    cc -w -static -o "$root/naive" "$scratch/naive.c" 2>/dev/null || die "cc can't link a static program for the comparison"
    # In a shell of its own, whose message about the signal nobody needs.
    bash -c '"$@"; exit $?' - chroot "$root" /naive "$by_file" >/dev/null 2>&1 || code=$?
    [ "$code" -gt 128 ] || die "in the root with glibc $version even a naive static program lives ($code): is it the glibc of this machine?"
    expect 0 "Version:" within "$root" pbm version
    resolves "$root"
    echo "beside glibc $version with its name service modules: names resolve (a naive static program ends there with signal $((code - 128)))"
}

certificates() {
    (
        cd "$scratch"
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=check authority" -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj "/CN=$by_file" -keyout server.key -out server.csr
        printf 'subjectAltName=DNS:%s,DNS:%s,DNS:localhost\nbasicConstraints=CA:FALSE\n' "$by_file" "$by_dns" >server.ext
        openssl x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile server.ext -out server.crt
        cat server.crt server.key >server.pem
        (umask 077 && openssl rand -base64 60 >key)
    ) >"$scratch/openssl.log" 2>&1 || die "openssl made no certificates: $(tail -n 3 "$scratch/openssl.log")"
}

# A member that is known by its name in /etc/hosts, wants a user, and speaks nothing but TLS.
server() {
    mkdir "$scratch/data"
    "$mongod" --replSet rs0 --bind_ip 127.0.0.1 --port $port --dbpath "$scratch/data" --logpath "$scratch/mongod.log" \
        --wiredTigerCacheSizeGB 0.25 --keyFile "$scratch/key" --tlsMode requireTLS --tlsAllowConnectionsWithoutCertificates \
        --tlsCertificateKeyFile "$scratch/server.pem" --tlsCAFile "$scratch/ca.pem" >/dev/null 2>&1 &
    local tls="tls=true&tlsCAFile=$scratch/ca.pem"
    database "mongodb://localhost:$port/?directConnection=true&$tls" initiate "$by_file:$port" "$user" "$password"
    admin="mongodb://$user:$password@$by_file:$port/?replicaSet=rs0&$tls"
    database "$admin" grant "$user"
    database "$admin" fill
}

# The agent's memory once it has come to rest, after its spare threads have ended: for twelve seconds the same within
# 256 KiB.
resident() {
    local now last=0 calm=0 end=$((SECONDS + 60))
    while [ "$calm" -lt 24 ] && [ "$SECONDS" -lt "$end" ]; do
        now=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$agent/status")
        [ -n "$now" ] || die "the agent is gone: $(tail -n 3 "$scratch/agent.log")"
        if [ $((now > last ? now - last : last - now)) -le 256 ]; then calm=$((calm + 1)); else calm=0; fi
        last=$now
        sleep 0.5
    done
    echo "$last"
}

backup_and_restore() {
    local root=$scratch/site uri before name files
    new_root "$root"
    mkdir "$root/backups"
    cp "$scratch/ca.pem" "$root/"
    printf 'storage:\n  type: filesystem\n  filesystem:\n    path: /backups\n' >"$root/pbm.yaml"
    uri="mongodb://$user:$password@$by_file:$port/?authSource=admin&replicaSet=rs0&tls=true&tlsCAFile=/ca.pem"
    env -i PATH=/ HOME=/ "$chroot" "$root" /pbmbox pbm-agent --mongodb-uri "$uri" 2>"$scratch/agent.log" &
    agent=$!
    database "$admin" agents || die "the agent does not report: $(tail -n 3 "$scratch/agent.log")"
    memory_before=$(resident)
    before=$(database "$admin" print)
    expect 0 "" within "$root" pbm config --file /pbm.yaml --wait --mongodb-uri "$uri"
    expect 0 "" within "$root" pbm backup --wait --mongodb-uri "$uri"
    memory_after=$(resident)
    memory_own=$(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$agent/status")
    expect 0 '"name"' within "$root" pbm list -o json --mongodb-uri "$uri"
    name=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["snapshots"][0]["name"])' <<<"$output")
    files=$(find "$root/backups/$name" -type f | wc -l)
    [ -s "$root/backups/$name.pbm.json" ] && [ "$files" -gt 2 ] || die "the files of the backup $name are not on the storage"
    database "$admin" drop
    [ "$(database "$admin" print)" != "$before" ] || die "dropping the database changed nothing"
    expect 0 "" within "$root" pbm restore "$name" --wait --yes --mongodb-uri "$uri"
    [ "$(database "$admin" print)" = "$before" ] || die "the restored data differs from what was there"
    # The same server by its other name: TLS verifies the name that was asked for.
    expect 0 "$by_file" within "$root" pbm status --mongodb-uri "${uri/@$by_file/@$by_dns}"
    ! find "$root" -path '*/dev' -o -path '*/proc' | grep -q . || die "the chroot is not empty any more"
    echo "alone in a chroot, against an authenticated replica set over TLS: backup ($files files), list, restore; the same data"
}

figures() {
    local size start failed=
    size=$(mib "$(($(stat -c %s "$executable") / 1024))")
    start=$(python3 - "$executable" <<'PY'
import statistics, subprocess, sys, time
def once():
    begin = time.perf_counter()
    subprocess.run([sys.argv[1], "pbm", "version"], stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begin) * 1000
print(f"{statistics.median(once() for _ in range(20)):.1f}")
PY
    )
    echo "size:                      $size MiB (at most $most_size)"
    echo "start-up (pbm version):    $start ms (at most $most_start)"
    echo "idle agent, fresh:         $(mib "$memory_before") MiB resident (at most $most_memory)"
    # Not compared, as it is near the aim: most are pages of the executable, and how many of them are mapped is the
    # kernel's choice.
    echo "idle agent, after a backup: $(mib "$memory_after") MiB resident, $(mib "$memory_own") MiB of them its own data"
    above "$size" "$most_size" && failed="the executable is too large"
    above "$start" "$most_start" && failed="it starts too slowly"
    above "$(mib "$memory_before")" "$most_memory" && failed="the idle agent takes too much memory"
    [ -z "$failed" ] || die "$failed"
}

network
linked_statically
empty_chroot
foreign_glibc
certificates
server
backup_and_restore
figures
