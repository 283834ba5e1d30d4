#!/usr/bin/env bash
# The quickest way to see it work: a private MongoDB, an agent, a backup, an accident, a restore. Installs what is missing.
#
#   dev/quickstart.sh           runs, explains itself, and removes everything
#   dev/quickstart.sh --keep    keeps the sandbox running to play with, until Ctrl-C
#
# The first time it takes 2 min 39 s on two quiet cores (260 seconds of processor time), and 7 s afterwards.
# Later it builds nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for argument in "$@"; do
    [ "$argument" = --keep ] || { echo "'$argument' is not known: there is only --keep" >&2; exit 2; }
done

took() {
    local seconds=$((SECONDS - $1))
    if [ "$seconds" -lt 60 ]; then echo "$seconds s"; else echo "$((seconds / 60)) min $((seconds % 60)) s"; fi
}

echo "[1/3] A C compiler, if there is none, and a mongod (42 MB, once). It is fetched while step 2 builds."
. dev/toolchain.sh
dev/testbed.sh default &
fetch=$!
trap 'kill "$fetch" 2>/dev/null || true' EXIT

echo "[2/3] The program, with the filesystem as its only storage, built to be ready soon. The first time takes minutes."
begun=$SECONDS
cargo build --profile quick --no-default-features --bin pbmbox
echo "      built: $(took "$begun")"
begun=$SECONDS
wait "$fetch" || { echo "The mongod was not fetched; the reason stands above, among the lines of the build." >&2; exit 1; }
trap - EXIT
echo "      waited for mongod: $(took "$begun")"

echo "[3/3] The sandbox"
echo
server=${PBMBOX_MONGOD:-$(command -v mongod || echo .cache/testbed/mongod-6.0.5)}
program=${CARGO_TARGET_DIR:-target}/quick/pbmbox
case " $* " in *" --keep "*) exec "$program" sandbox --mongod "$server" "$@" ;; esac
"$program" sandbox --mongod "$server" "$@"
echo "All of it took $(took 0)."
