#!/usr/bin/env bash
# Form, lints, documentation and licences. What this machine lacks is named, not passed over in silence.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. dev/toolchain.sh
cargo fmt --check
cargo clippy --quiet --all-targets -- -D warnings
# What dev/quickstart.sh builds.
cargo check --quiet --no-default-features --bin pbmbox
RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --quiet --no-deps --lib --document-private-items
# It needs a copy of the advisory database, which not every machine can fetch.
if command -v cargo-deny >/dev/null 2>&1; then
    cargo deny --config dev/deny.toml check bans licenses sources
else
    echo "the licences were not checked: there is no cargo-deny"
fi
if command -v mdbook >/dev/null 2>&1 || [ -x .cache/tools/bin/mdbook ]; then
    dev/docs.sh
else
    echo "the guide was not built: there is no mdbook (dev/docs.sh installs it); its links and commands are tested anyway"
fi
