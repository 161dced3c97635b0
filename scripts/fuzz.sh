#!/bin/sh
# Runs every fuzz target for a while: scripts/fuzz.sh [TIME], default 5s each
set -eu
cd "$(dirname "$0")/.."
span=${1:-5s}

go test -list '^Fuzz' ./... | awk '/^Fuzz/ { t[n++] = $1 } /^ok/ { for (i = 0; i < n; i++) print $2, t[i]; n = 0 }' >bin/fuzz-targets
while read -r package target; do
	printf '=== fuzz %s %s %s\n' "$package" "$target" "$span"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$span" -fuzzminimizetime 2s "$package"
done <bin/fuzz-targets
printf 'fuzz.sh: %s targets, no failure\n' "$(wc -l <bin/fuzz-targets)"
