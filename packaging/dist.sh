#!/bin/sh
# Makes a tarball that runs wherever it is unpacked: dist.sh SHARED STATIC ONNXRUNTIME OUT.tar.gz, in the repository's root. The same
# inputs give the same bytes.
set -eu

shared=$1 static=$2 onnxruntime=$3 out=$4
name=$(basename "$out" .tar.gz)
work=$(mktemp -d "$(dirname "$out")/.dist-XXXXXX")
trap 'rm -rf "$work"' EXIT
top=$work/$name
# The time in the archive: of the last commit, unless it is told.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2> /dev/null || echo 1767225600)}"

mkdir -p "$top"
PREFIX=/usr LIBDIR=/usr/lib DESTDIR="$work/stage" packaging/install.sh "$shared" "$static" > /dev/null
mv "$work/stage/usr/lib" "$work/stage/usr/include" "$top/"

# The library looks for ONNX Runtime beside itself.
version=$(sed -n 's/^onnxruntime \(.*\)/\1/p' "$onnxruntime/fetched.txt")
cp "$onnxruntime/lib/libonnxruntime.so.$version" "$top/lib/"
ln -s "libonnxruntime.so.$version" "$top/lib/libonnxruntime.so.1"
ln -s libonnxruntime.so.1 "$top/lib/libonnxruntime.so"
mkdir -p "$top/licenses/onnxruntime"
cp "$onnxruntime/LICENSE" "$onnxruntime/ThirdPartyNotices.txt" "$top/licenses/onnxruntime/"
cp LICENSE-APACHE LICENSE-MIT "$top/licenses/"

mkdir -p "$top/examples/models"
cp examples-c/*.c packaging/dist/Makefile "$top/examples/"
for source in examples-c/*.cpp; do if [ -e "$source" ]; then cp "$source" "$top/examples/"; fi; done
cp -R models/digits "$top/examples/models/"
glibc=$(objdump -T "$shared" "$onnxruntime/lib/libonnxruntime.so.$version" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
sed "s/@GLIBC@/${glibc#GLIBC_}/; s/@VERSION@/${name#blaze-}/; s/@ONNXRUNTIME@/$version/" packaging/dist/README.md > "$top/README.md"

find "$top" -type d -exec chmod 755 {} +
find "$top" -type f ! -name '*.so.*' -exec chmod 644 {} +
(cd "$work" && find "$name" -print | LC_ALL=C sort | tar --create --no-recursion --files-from=- --format=ustar --owner=0 --group=0 \
    --numeric-owner --mtime="@$SOURCE_DATE_EPOCH") | gzip -9n > "$work/archive"
mv "$work/archive" "$out"
ls -l "$out"
