#!/usr/bin/env bash
# The quickest way to see it work: a private MongoDB, an agent, a backup, a loss, a restore. Installs what is missing.
#
#   dev/quickstart.sh           runs, explains itself, and removes everything
#   dev/quickstart.sh --keep    keeps the sandbox running to play with, until Ctrl-C
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. dev/toolchain.sh
dev/testbed.sh default
cargo build --quiet --release --bin pbmbox
exec cargo run --quiet --release --example quickstart -- "$@"
