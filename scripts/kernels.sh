#!/bin/sh
# The GPU kernels as PTX: scripts/kernels.sh [check]
#
#        compiles nvidia/kernels/kernels.cu and writes the PTX and its sums beside it
# check  fails where the committed files are not what their source gives
#
# One compiler, so that the files are the same on every machine: Debian's clang-19. It needs no CUDA toolkit, and no GPU.
set -eu
cd "$(dirname "$0")/.."
source=nvidia/kernels

if ! clang-19 --version 2>/dev/null | grep -q '^Debian clang version 19\.'; then
	printf '%s\n' "kernels.sh: no clang-19 of Debian's" \
		"Fix: on Debian: sudo apt-get install -y --no-install-recommends clang-19" >&2
	exit 1
fi

out=$source
if [ "${1:-}" = check ]; then
	out=bin/kernels
	mkdir -p $out
	cp $source/kernels.cu $out/
fi

# compile ARCHITECTURE PTX-VERSION [DEFINE …]
compile() {
	arch=$1 ptx=$2
	shift 2
	clang-19 -x cuda --cuda-device-only --cuda-gpu-arch="$arch" -nocudainc -nocudalib -O3 "$@" -S \
		-Wall -Wextra -Werror -Xclang -target-feature -Xclang "+$ptx" $source/kernels.cu -o "$out/k_$arch.ptx"
}
compile sm_70 ptx64
compile sm_80 ptx70 -DSM80
compile sm_90a ptx80 -DSM80 -DSM90A
(cd $out && sha256sum kernels.cu k_sm_70.ptx k_sm_80.ptx k_sm_90a.ptx >SHA256SUMS)

for f in k_sm_70.ptx k_sm_80.ptx k_sm_90a.ptx SHA256SUMS; do
	cmp "$out/$f" "$source/$f" >&2 || {
		printf '%s\n' "kernels.sh: $source/$f is not what clang-19 makes of kernels.cu" "Fix: scripts/kernels.sh, and commit what it made" >&2
		exit 1
	}
done
