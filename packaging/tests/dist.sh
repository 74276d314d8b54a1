#!/bin/sh
# The tarball: the same bytes again, and examples that run where it is unpacked, and where it is moved to, without any environment variable.
# usage: dist.sh TARBALL WORK, in the repository's root.
set -eu

tarball=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
work=$2
fail() { echo "  FAILED: $*"; exit 1; }
unset LD_LIBRARY_PATH ORT_DYLIB_PATH PKG_CONFIG_PATH CMAKE_PREFIX_PATH

rm -rf "$work"
mkdir -p "$work/one" "$work/two with a space"
cp "$tarball" "$work/first.tar.gz"
${MAKE:-make} --no-print-directory -o release dist > "$work/log" 2>&1 || { cat "$work/log"; fail "make dist"; }
cmp "$tarball" "$work/first.tar.gz" || fail "the tarball is not the same when it is made again"

for place in one "two with a space"; do
    tar -xzf "$tarball" -C "$work/$place"
    (
        cd "$work/$place"/blaze-*
        for file in README.md include/blaze.h lib/libblaze.a lib/libblaze.so.0 lib/pkgconfig/blaze.pc \
            lib/cmake/Blaze/BlazeConfig.cmake licenses/LICENSE-MIT licenses/onnxruntime/LICENSE; do
            [ -e "$file" ] || fail "$file is missing"
        done
        cd examples
        make -s infer && ./infer
    ) > "$work/log" 2>&1 || { cat "$work/log"; fail "an example in $place"; }
done
mv "$work/one" "$work/three"
(cd "$work/three"/blaze-*/examples && ./infer) > "$work/log" 2>&1 || { cat "$work/log"; fail "an example that was moved"; }
tail -n 1 "$work/log" | sed 's/^/  /'
