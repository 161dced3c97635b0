#!/bin/sh
# Fuzzes every target for a while, as many at a time as there are processors: scripts/fuzz.sh [TIME], in whole seconds, default 5s each
#
# The packages' test programs are built in one go; a worker a target, so that the time is spent on all alike. Our own packages are
# instrumented, and nothing else: coverage leads the fuzzer through our code, and SQLite need not be compiled a second time.
set -eu
cd "$(dirname "$0")/.."
span=${1:-5s}
case ${span%s} in '' | *[!0-9]*) echo "fuzz.sh: the time $span is not one of whole seconds, like 5s" >&2 && exit 2 ;; esac
out=$PWD/bin/fuzz
cache=$(go env GOCACHE)/fuzz
rm -rf "$out"
mkdir -p "$out"

export CGO_ENABLED=0
go list -f '{{.ImportPath}} {{.Dir}}' ./... >"$out/all"
while read -r package dir; do
	! grep -qs '^func Fuzz' "$dir"/*_test.go || printf '%s %s\n' "$package" "$dir"
done <"$out/all" >"$out/packages"
# shellcheck disable=SC2046 # a list of packages on purpose; go names each program after the last word of its package
go test -c -trimpath -ldflags='-s -w' -gcflags=basilica/...=-d=libfuzzer -o "$out/" $(cut -d' ' -f1 "$out/packages") >&2
while read -r package dir; do
	program=$out/${package##*/}.test
	(cd "$dir" && "$program" -test.list '^Fuzz') >"$out/list"
	while read -r target; do printf '%s %s %s %s\n' "$package" "$dir" "$program" "$target"; done <"$out/list"
done <"$out/packages" >"$out/targets"

cat >"$out/one.sh" <<'ONE'
#!/bin/sh
# package, directory, program, target, time, cache
cd "$2"
fuzz() { "$3" -test.run '^$' -test.fuzz "^$4\$" -test.fuzztime "$span" -test.fuzzminimizetime 50x -test.parallel 1 -test.fuzzcachedir "$6/$1" 2>&1; }
# On a busy machine Go's fuzzer sometimes reports the end of its own time as a failure, without an input: then again, twice at most.
of_time_alone() { case $1 in *'Failing input'* | *panic:*) return 1 ;; *'context deadline exceeded'*) return 0 ;; *) return 1 ;; esac; }
fuzzed() {
	again=2
	while failed=0; said=$(fuzz "$@") || failed=1; [ "$failed" = 1 ] && [ "$again" -gt 0 ] && of_time_alone "$said"; do again=$((again - 1)); done
}
# The time begins before the seeds have been run; a target that got no further has not been fuzzed, and gets six times as long, once.
past_seeds() { case $1 in *'now fuzzing'*) return 0 ;; *) return 1 ;; esac; }
span=$5
fuzzed "$@"
if [ "$failed" = 0 ] && ! past_seeds "$said"; then
	span=$((6 * ${5%s}))s
	fuzzed "$@"
	[ "$failed" = 1 ] || past_seeds "$said" || { failed=1 && said="it did not get past its seeds in $span"; }
fi
if [ "$failed" = 1 ]; then
	printf -- '--- FAIL: %s %s\n%s\n' "$1" "$4" "$said"
	exit 1
fi
printf 'ok  \t%s\t%s\t%s\n' "$1" "$4" "$(printf %s "$said" | grep -o 'execs: [0-9]*' | tail -n 1)"
ONE
chmod +x "$out/one.sh"
sed "s|\$| $span $cache|" "$out/targets" | xargs -P "$(nproc)" -L 1 "$out/one.sh"
printf 'fuzz.sh: %s targets, %s each, no failure\n' "$(wc -l <"$out/targets")" "$span"
