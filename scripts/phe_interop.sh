#!/usr/bin/env bash
# python-paillier decrypts our ciphertexts and we decrypt its. The package is installed into
# target/phe-venv on the first run. Where it cannot be, this says so and checks nothing, unless
# QUORATE_REQUIRE_PHE is set: then it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=target/phe-venv
VERSION=1.5.0
OUT=target/phe-interop

if ! "$VENV/bin/python" -c "import phe; assert phe.__version__ == '$VERSION'" 2>/dev/null; then
	if ! { "${PYTHON:-python3}" -m venv "$VENV" &&
		"$VENV/bin/pip" install --quiet --disable-pip-version-check "phe==$VERSION"; }; then
		echo "python-paillier could not be installed: the exchange of ciphertexts with it was NOT checked" >&2
		[ -z "${QUORATE_REQUIRE_PHE:-}" ]
		exit
	fi
fi

# The whole workspace, so that features resolve as in the tests and nothing is compiled twice.
"${CARGO:-cargo}" build --locked --workspace --features quorate-crypto/testkit --example phe_interop
mkdir -p "$OUT"
target/debug/examples/phe_interop write "$OUT/ours.json"
"$VENV/bin/python" scripts/phe_interop.py "$OUT/ours.json" "$OUT/theirs.json"
target/debug/examples/phe_interop open "$OUT/theirs.json"
