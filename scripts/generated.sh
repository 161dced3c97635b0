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
