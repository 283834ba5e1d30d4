#!/usr/bin/env bash
# Everything that must be green before a commit lands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dev/lints.sh
exec dev/test.sh
