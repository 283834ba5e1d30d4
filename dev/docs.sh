#!/usr/bin/env bash
# Builds the guide into target/book, and fails if mdBook warns about anything. For releases: the tests check the guide's
# commands and links without mdBook.
#
#   dev/docs.sh            builds it
#   dev/docs.sh --open     and shows it in a browser
#
# Uses mdbook from the PATH, else from .cache/tools, where cargo builds it once (some minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=0.5.4
open=
case ${1:-} in
'') ;;
--open) open=--open ;;
*)
    echo "docs: '$1' is not --open" >&2
    exit 1
    ;;
esac

mdbook=$(command -v mdbook || echo "$PWD/.cache/tools/bin/mdbook")
if [ ! -x "$mdbook" ]; then
    . dev/toolchain.sh
    echo "docs: building mdbook $version, once" >&2
    cargo install --quiet --locked --no-default-features --features search --version "$version" --root .cache/tools mdbook ||
        { echo "docs: mdbook was not built; install it by hand and repeat" >&2; exit 1; }
fi

messages=$("$mdbook" build docs $open 2>&1) || { echo "$messages" >&2; echo "docs: the guide was not built" >&2; exit 1; }
case $messages in
*WARN* | *ERROR*)
    echo "$messages" >&2
    echo "docs: mdbook warns, see above" >&2
    exit 1
    ;;
esac
