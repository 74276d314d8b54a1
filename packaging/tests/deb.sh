#!/bin/sh
# The Debian packages: their fields, and a program built against what is in them. usage: deb.sh DIRECTORY WORK, in the repository's root.
set -eu

packages=$1 work=$2
root=$PWD
fail() { echo "  FAILED: $*"; exit 1; }
unset LD_LIBRARY_PATH PKG_CONFIG_PATH

rm -rf "$work"
mkdir -p "$work/root"
work=$(cd "$work" && pwd)
for package in libblaze0 libblaze-dev; do
    file=$(ls "$packages/${package}"_*.deb)
    dpkg-deb -x "$file" "$work/root"
    dpkg-deb --info "$file" > "$work/info"
    [ "$(dpkg-deb -f "$file" Package)" = "$package" ] || fail "Package of $file"
    [ -z "$(dpkg-deb -f "$file" Recommends)" ] || fail "$package recommends something"
    dpkg-deb -c "$file" | awk '$2 != "root/root" { exit 1 }' || fail "$package has files of others than root"
done
shared=$(ls "$work"/root/usr/lib/*/libblaze.so.0.1.0)
lib=$(dirname "$shared")
needed=$(objdump -T "$shared" | grep -o 'GLIBC_[0-9.]*' | sed s/GLIBC_// | sort -Vu | tail -n 1)
case $(dpkg-deb -f "$packages"/libblaze0_*.deb Depends) in
*"libc6 (>= $needed)"*) ;;
*) fail "libblaze0 does not depend on glibc $needed" ;;
esac
case $(dpkg-deb -f "$packages"/libblaze-dev_*.deb Depends) in "libblaze0 (= "*) ;; *) fail "libblaze-dev's Depends" ;; esac

cp packaging/tests/program.c "$work/"
cd "$work"
if ! command -v pkg-config > /dev/null; then echo "  there is no pkg-config: nothing is built against the packages"; exit 0; fi
export PKG_CONFIG_PATH="$lib/pkgconfig"
# shellcheck disable=SC2046
"${CC:-cc}" program.c $(pkg-config --cflags --libs blaze) -o program
LD_LIBRARY_PATH=$lib ./program "$root/tests/models/tiny.onnx" | sed 's/^/  /'
