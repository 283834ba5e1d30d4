#!/usr/bin/env bash
# Sets up what the tests need, quietly and only once, and runs all of them.
#
#   dev/test.sh [FILTER]    only tests whose names contain FILTER
set -euo pipefail
# Tests look at the modes of what was made.
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. dev/toolchain.sh
dev/testbed.sh
# Tests wait for servers and clocks more than they compute, so there are more of them at a time than cores.
exec cargo test --quiet --lib --test suite -- --test-threads "${PBMBOX_TEST_THREADS:-5}" "$@"
