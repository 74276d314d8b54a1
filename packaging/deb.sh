#!/bin/sh
# Makes libblaze0 and libblaze-dev: deb.sh SHARED STATIC OUT_DIRECTORY, in the repository's root, without root's rights. The same inputs
# give the same bytes. DEB_ARCH and DEB_MAINTAINER may be told.
set -eu

shared=$1 static=$2 out=$3
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}
arch=${DEB_ARCH:-$(dpkg --print-architecture)}
maintainer=${DEB_MAINTAINER:-The Blaze developers <blaze@blaze.invalid>}
case $arch in
amd64) triplet=x86_64-linux-gnu ;;
arm64) triplet=aarch64-linux-gnu ;;
*) echo "deb: $arch is not known here" >&2; exit 1 ;;
esac
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2> /dev/null || echo 1767225600)}"
export SOURCE_DATE_EPOCH

mkdir -p "$out"
work=$(mktemp -d "$out/.deb-XXXXXX")
trap 'rm -rf "$work"' EXIT

# What the newest symbol of a library that is used asks for: newest GLIBC libblaze.so says 2.34.
newest() { objdump -T "$2" | grep -o "${1}_[0-9.]*" | sed "s/${1}_//" | sort -Vu | tail -n 1; }

lib=$work/libblaze$major dev=$work/libblaze-dev
PREFIX=/usr LIBDIR=/usr/lib/$triplet DESTDIR="$dev" packaging/install.sh "$shared" "$static" > /dev/null
mkdir -p "$lib/usr/lib/$triplet"
mv "$dev/usr/lib/$triplet/libblaze.so.$version" "$dev/usr/lib/$triplet/libblaze.so.$major" "$lib/usr/lib/$triplet/"
chmod 644 "$lib/usr/lib/$triplet/libblaze.so.$version" # as Debian's policy has it

pack() { # pack DIRECTORY: with what every package has, from a control file on standard input
    name=$(basename "$1")
    doc=$1/usr/share/doc/$name
    mkdir -p "$doc" "$1/DEBIAN"
    cp packaging/debian/copyright "$doc/copyright"
    gzip -9n < CHANGELOG.md > "$doc/changelog.gz"
    {
        cat
        echo "Installed-Size: $(find "$1/usr" -type f -exec cat {} + | wc -c | awk '{ print int(($1 + 1023) / 1024) }')"
    } | sed '/^$/d' > "$work/control"
    # The description is the last field, whose text has several lines.
    { sed '/^Description:/,/^Installed-Size:/d' "$work/control"; grep '^Installed-Size:' "$work/control"
      sed -n '/^Description:/,$p' "$work/control" | sed '/^Installed-Size:/d'; } > "$1/DEBIAN/control"
    (cd "$1" && find usr -type f -print | LC_ALL=C sort | xargs md5sum) > "$1/DEBIAN/md5sums"
    find "$1" -type d -exec chmod 755 {} +
    find "$1" -type f -exec chmod 644 {} +
    find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group -Zxz --build "$1" "$out/${name}_${version}_$arch.deb"
}

mkdir -p "$lib/DEBIAN"
echo "libblaze $major libblaze$major (>= $version)" > "$lib/DEBIAN/shlibs"
echo "activate-noawait ldconfig" > "$lib/DEBIAN/triggers"
pack "$lib" << EOF
Package: libblaze$major
Version: $version
Architecture: $arch
Multi-Arch: same
Section: libs
Priority: optional
Maintainer: $maintainer
Depends: libc6 (>= $(newest GLIBC "$shared")), libgcc-s1 (>= $(newest GCC "$shared"))
Description: AI inference engine that a program links into itself
 A C ABI over ONNX Runtime with queues, batching, deadlines, routing and
 metrics. ONNX Runtime itself is not in this package: it is looked for where
 the configuration or ORT_DYLIB_PATH says, beside the library, and where the
 system's loader finds it.
EOF
pack "$dev" << EOF
Package: libblaze-dev
Version: $version
Architecture: $arch
Multi-Arch: same
Section: libdevel
Priority: optional
Maintainer: $maintainer
Depends: libblaze$major (= $version)
Description: AI inference engine that a program links into itself (development)
 The header, the static library, and what pkg-config and CMake need to find
 them.
EOF
