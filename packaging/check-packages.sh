#!/usr/bin/env bash
# Makes a release and checks all of it: the executable by itself, the deb in a fresh system, the rpm in an empty root.
#
#   packaging/check-packages.sh [SUITE...]     Debian suites for the deb; bookworm without arguments
#
# It needs root, and the right to make namespaces and mounts. CI calls it after the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" = 0 ] || { echo "check-packages: run it as root, which makes systems to install into" >&2; exit 1; }
packaging/build.sh
packaging/check-release.sh "${CARGO_TARGET_DIR:-target}/package/pbmbox"
packaging/check-rpm.sh
packaging/check-deb.sh "$@"
