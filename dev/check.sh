#!/usr/bin/env bash
# Everything that must be green before a commit lands: form, lints, documentation, licences, tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. dev/toolchain.sh
cargo fmt --check
cargo clippy --quiet --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --quiet --no-deps --lib --document-private-items
# Needs a copy of the advisory database, which not every machine can fetch.
if command -v cargo-deny >/dev/null 2>&1; then cargo deny --config dev/deny.toml check bans licenses sources; fi
exec dev/test.sh
