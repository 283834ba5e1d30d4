# To be sourced: makes sure that crates with C code can be built. Prints nothing when all is there.
if ! command -v cc >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev; } >/dev/null 2>&1 || true
    fi
    command -v cc >/dev/null 2>&1 || { echo "a C compiler is needed: as root, apt-get install gcc libc6-dev" >&2; exit 1; }
fi
command -v cargo >/dev/null 2>&1 || { echo "Rust is needed: cargo is not on the PATH" >&2; exit 1; }
