#!/bin/sh
# Makes a fresh Debian machine with Go, git and make ready: scripts/setup.sh demo | test
#
# demo  Docker's engine, and a static busybox, of which the demo makes its image
# test  these, a TPM emulator, a C compiler for -race, clang-19 for the GPU kernels (scripts/kernels.sh), node with npm and Python with venv for
#       the official clients (scripts/official.sh)
#
# As root with apt it installs what is missing, otherwise it says what to install and how. Then it makes sure that an
# engine answers (scripts/dockerd.sh).
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "setup.sh: $*" >&2; }

missing=
need() { missing="$missing $1"; }

has() { command -v "$1" >/dev/null 2>&1; }

static_busybox() {
	has busybox && ldd "$(command -v busybox)" 2>&1 | grep -qE 'not a dynamic executable|statically linked'
}

has docker || need docker.io
has dockerd || [ -n "${DOCKER_HOST:-}" ] || need docker.io
static_busybox || need busybox-static
if [ "${1:-demo}" = test ]; then
	has gcc || need gcc
	[ -e /usr/include/stdio.h ] || need libc6-dev
	has clang-19 || need clang-19
	has swtpm || need swtpm
	has node || need nodejs
	has npm || need npm
	python3 -c 'import ensurepip, venv' 2>/dev/null || { need python3; need python3-venv; }
fi

if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ] || ! has apt-get; then
		say "missing:$missing"
		say "Fix: install them; on Debian: sudo apt-get install -y --no-install-recommends$missing iptables"
		exit 1
	fi
	say "installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >&2
	# shellcheck disable=SC2086 # a list of words on purpose
	apt-get install -y -qq --no-install-recommends $missing iptables >&2
fi

[ "${1:-demo}" != test ] || scripts/official.sh
exec scripts/dockerd.sh start
