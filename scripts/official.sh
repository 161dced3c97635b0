#!/bin/sh
# Installs the official clients that the tests of internal/official drive: scripts/official.sh
#
# polkadot.js of scripts/polkadotjs, and of scripts/official the two Python SDKs with their btcli, a venv each in
# bin/official. Every version and hash is pinned, wheels alone are taken. What is there at these pins is left alone.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/bin/official
mkdir -p "$out"

say() { printf '%s\n' "official.sh: installing $*" >&2; }

# venv NAME FILL: FILL is called with the venv's folder and its pins.
venv() {
	pins=scripts/official/$1.txt
	! cmp -s "$pins" "$out/$1/pins" || return 0
	say "$1"
	rm -rf "${out:?}/$1"
	"$2" "$out/$1" "$pins"
	cp "$pins" "$out/$1/pins"
}

with_pip() {
	python3 -m venv "$1"
	"$1/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r "$2"
}

with_uv() {
	python3 -m venv --without-pip "$1"
	"$out/uv/bin/uv" pip sync --quiet --system-certs --only-binary :all: --require-hashes --python "$1" "$2"
}

venv uv with_pip
venv sdk11 with_uv
venv sdk10 with_uv

lock=scripts/polkadotjs/package-lock.json
if ! cmp -s "$lock" "$out/package-lock.json" || [ ! -d scripts/polkadotjs/node_modules ]; then
	say polkadotjs
	(cd scripts/polkadotjs && npm ci --silent --ignore-scripts --no-audit --no-fund)
	cp "$lock" "$out/package-lock.json"
fi
