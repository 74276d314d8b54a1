#!/bin/sh
# Makes a static library that shows blaze_* only: static_library.sh FROM TO SYMBOLS, where SYMBOLS lists what stays global. Rust's own
# symbols in it would collide with those of another Rust library in the same program.
set -eu

from=$1 to=$2 symbols=$3
: "${LD:=ld}" "${OBJCOPY:=objcopy}" "${AR:=ar}"

if ! command -v "$OBJCOPY" > /dev/null || ! "$LD" --version 2> /dev/null | grep -q GNU; then
    echo "static library: no GNU ld and objcopy: Rust's symbols stay visible in $to"
    cp "$from" "$to"
    exit 0
fi

work=$(mktemp -d "$(dirname "$to")/.static-XXXXXX")
trap 'rm -rf "$work"' EXIT
# Only what the exports need. Sections stay apart, so that a program's --gc-sections still works.
sed 's/^/-u /' "$symbols" > "$work/wanted"
"$LD" -r -o "$work/blaze.o" "@$work/wanted" "$from"
# The bitcode of Rust's standard library is of no use, and confuses linkers' plugins for another LLVM.
"$OBJCOPY" --strip-debug --remove-section=.llvmbc --remove-section=.llvmcmd --keep-global-symbols="$symbols" "$work/blaze.o"
rm -f "$to"
"$AR" rcsD "$to" "$work/blaze.o"
