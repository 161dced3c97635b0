#!/bin/sh
# Fails where a committed generated file is not what its source gives: scripts/generated.sh
set -eu
cd "$(dirname "$0")/.."

sum() { find . -name '*.pb.go' -not -path './bin/*' -exec sha256sum {} + | sort -k2; }

before=$(sum)
bin/tools/buf lint
bin/tools/buf generate
after=$(sum)
if [ "$before" != "$after" ]; then
	printf '%s\n' "generated.sh: generated code differed from its .proto source and has been made anew" \
		"Fix: commit the new *.pb.go files (make generate)" >&2
	exit 1
fi

# The GPU kernels, where their compiler is; elsewhere, that source and output are those of one commit.
(cd nvidia/kernels && sha256sum --quiet --check SHA256SUMS) || {
	printf '%s\n' "generated.sh: nvidia/kernels is not what its SHA256SUMS says" "Fix: scripts/kernels.sh, and commit what it made" >&2
	exit 1
}
if clang-19 --version >/dev/null 2>&1; then
	scripts/kernels.sh check
fi
