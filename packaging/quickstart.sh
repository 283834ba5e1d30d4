#!/usr/bin/env bash
# It moved; this calls it.
exec "$(dirname "${BASH_SOURCE[0]}")/../dev/quickstart.sh" "$@"
