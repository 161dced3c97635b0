#!/bin/sh
# Runs the benchmarks of what the chain asks of us and prints each beside its baselines, measured in the same run:
# scripts/bench.sh [go test flags, e.g. -benchtime 20x]
#
# A baseline is a sub-benchmark beside "ours". "times" is how many times longer the baseline takes. Goals are for a machine of
# 2020 on its own; they are printed and not enforced.
set -eu
cd "$(dirname "$0")/.."
names='SignEncode|Verify|Metadata|Epoch|LocalnetBlock|Metagraph'
out=$(mktemp)
trap 'rm -f "$out"' EXIT
go test -run '^$' -bench "^Benchmark($names)\$" -timeout 30m "$@" ./subtensor >"$out" || { cat "$out" >&2; exit 1; }
awk '
function unit(ns) {
	if (ns >= 1e9) return sprintf("%.2f s", ns / 1e9)
	if (ns >= 1e6) return sprintf("%.2f ms", ns / 1e6)
	return sprintf("%.1f us", ns / 1e3)
}
BEGIN {
	goal["SignEncode"] = "under 200 us"; goal["Verify"] = "under 200 us"; goal["Metadata"] = "under 50 ms"
	goal["Epoch"] = "under 250 ms"; goal["LocalnetBlock"] = "1 block/s with 1,000 extrinsics"; goal["Metagraph"] = "10 times faster than the official SDK"
	title["SignEncode"] = "sign and encode an extrinsic"; title["Verify"] = "verify an sr25519 signature"; title["Metadata"] = "decode metadata (spec 425, V15)"
	title["Epoch"] = "epoch of 256 neurons"; title["LocalnetBlock"] = "localnet block of 1,000 extrinsics"; title["Metagraph"] = "metagraph of 256 neurons"
}
/^Benchmark/ {
	name = $1; sub(/^Benchmark/, "", name); sub(/-[0-9]+$/, "", name)
	split(name, part, "/")
	for (i = 3; i < NF; i += 1) if ($(i + 1) == "ns/op") ns = $i
	if (part[2] == "ours") { order[++n] = part[1]; ours[part[1]] = ns }
	else { base[part[1]] = base[part[1]] part[2] "=" ns " " }
}
END {
	printf "%-36s %12s   %-16s %12s %8s   %s\n", "what", "ours", "baseline", "takes", "times", "goal"
	for (i = 1; i <= n; i++) {
		b = order[i]; count = split(base[b], list, " ")
		for (j = 1; j <= count; j++) {
			split(list[j], kv, "=")
			printf "%-36s %12s   %-16s %12s %8.2f   %s\n", j == 1 ? title[b] : "", j == 1 ? unit(ours[b]) : "", kv[1], unit(kv[2]), kv[2] / ours[b], j == 1 ? goal[b] : ""
		}
		if (b == "LocalnetBlock") printf "%-36s %10.2f/s\n", "  that is blocks", 1e9 / ours[b]
	}
}' "$out"
