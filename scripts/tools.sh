#!/bin/sh
# Installs the tools of scripts/tools.env into bin/tools, each at its pinned version: scripts/tools.sh [NAME…]
# Without names it installs all. A tool that is there at that version (by its own build information) is left alone.
set -eu
cd "$(dirname "$0")/.."
mkdir -p bin/tools

grep -v '^#' scripts/tools.env | while read -r name package version; do
	case " ${*:-$name} " in *" $name "*) ;; *) continue ;; esac
	go version -m "bin/tools/$name" 2>/dev/null | grep -q "^[[:space:]]mod[[:space:]].*[[:space:]]$version[[:space:]]" && continue
	printf 'tools.sh: installing %s %s\n' "$name" "$version" >&2
	# With the flags of `make build`, so that the standard library is compiled once for both.
	CGO_ENABLED=0 GOBIN="$PWD/bin/tools" go install -trimpath "$package@$version"
done
