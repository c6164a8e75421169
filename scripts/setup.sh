#!/usr/bin/env bash
# Makes a fresh Debian with Rust ready to build. Arguments: rustup components that are also needed.
# Missing system packages are installed by root and named in one line to everybody else.
set -euo pipefail

fail() {
    echo "quorate setup: $*" >&2
    exit 1
}

# A C compiler builds the bundled SQLite and, with m4, GMP; the demo's second opinion is a Python script.
missing=()
command -v cc >/dev/null || missing+=(build-essential)
command -v pkg-config >/dev/null || missing+=(pkg-config)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
command -v m4 >/dev/null || missing+=(m4)

if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "please install: ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || fail "please run: sudo apt-get install -y ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

command -v cargo >/dev/null || fail "Rust is missing: see https://rustup.rs, then open a new shell"

for component in "$@"; do
    case "$component" in
        rustfmt) probe=(cargo fmt --version) ;;
        clippy) probe=(cargo clippy --version) ;;
        *) fail "unknown component $component" ;;
    esac
    "${probe[@]}" >/dev/null 2>&1 && continue
    command -v rustup >/dev/null || fail "please install the Rust component $component"
    rustup component add "$component"
done

# Without this the layer check, which reads the whole dependency graph, would need the network.
cargo fetch --locked --quiet
