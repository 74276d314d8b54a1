#!/bin/sh
# Installs Blaze: install.sh SHARED STATIC, with PREFIX, DESTDIR, LIBDIR, INCLUDEDIR and STRIP in the environment; with REMOVE=1,
# removes what it has installed. Run in the repository's root. Says which files it writes or removes.
set -eu

shared=$1
static=$2
: "${PREFIX:=/usr/local}" "${DESTDIR:=}" "${STRIP=strip}"
: "${LIBDIR:=$PREFIX/lib}" "${INCLUDEDIR:=$PREFIX/include}"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}
minor=${version#*.} minor=${minor%%.*}

# ".." for every directory of a relative path: `up lib/pkgconfig` says ../..
up() { echo "$1" | sed -e 's,[^/][^/]*,..,g'; }

case $PREFIX$LIBDIR$INCLUDEDIR in
*[[:space:]]*) echo "install: a path with spaces cannot be said in a pkg-config file" >&2; exit 1 ;;
esac
for directory in "$PREFIX" "$LIBDIR" "$INCLUDEDIR"; do
    case $directory in /*) ;; *) echo "install: $directory must be an absolute path" >&2; exit 1 ;; esac
done

# What is under the prefix is told relatively, so that the prefix may be moved.
lib=$LIBDIR include=$INCLUDEDIR
prefix=$PREFIX cmake_include=$INCLUDEDIR
case $LIBDIR/ in
"$PREFIX"/*)
    inside=${LIBDIR#"$PREFIX"/}
    prefix="\${pcfiledir}/$(up "$inside/pkgconfig")"
    lib="\${prefix}/$inside"
    case $INCLUDEDIR/ in
    "$PREFIX"/*)
        include="\${prefix}/${INCLUDEDIR#"$PREFIX"/}"
        cmake_include="\${_blaze_here}/$(up "$inside/cmake/Blaze")/${INCLUDEDIR#"$PREFIX"/}" ;;
    esac ;;
esac

system=${SYSTEM:-$(uname -s)}
case $system in
Darwin)
    soname=libblaze.$major.dylib file=libblaze.$version.dylib link=libblaze.dylib
    system_libs="-liconv -lSystem -lc -lm" static_options= ;;
*)
    soname=libblaze.so.$major file=libblaze.so.$version link=libblaze.so
    # What `rustc --print native-static-libs` says. A shared object with Blaze inside must not be unmapped either: see build.rs.
    system_libs="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc" static_options="-Wl,-z,nodelete" ;;
esac
cmake_libs=$(echo $static_options $system_libs | sed -e 's/ /;/g')

# Removes a file, and the directories around it that only Blaze has; true if that was all there is to do.
removed() {
    [ -n "${REMOVE:-}" ] || return 1
    if [ -e "$DESTDIR$1" ] || [ -L "$DESTDIR$1" ]; then rm -f "$DESTDIR$1"; echo "- $1"; fi
    case $1 in */cmake/Blaze/* | "$INCLUDEDIR"/blaze/*) rmdir "$DESTDIR$(dirname "$1")" 2> /dev/null || true ;; esac
}

put() { # put MODE FROM TO
    if removed "$3"; then return; fi
    mkdir -p "$DESTDIR$(dirname "$3")"
    rm -f "$DESTDIR$3" # a program may have the old file mapped
    cp "$2" "$DESTDIR$3"
    chmod "$1" "$DESTDIR$3"
    echo "+ $3"
}

point() { # point TO LINK
    if removed "$2"; then return; fi
    ln -sf "$1" "$DESTDIR$2"
    echo "+ $2"
}

fill() { # fill TEMPLATE TO
    if removed "$2"; then return; fi
    mkdir -p "$DESTDIR$(dirname "$2")"
    sed -e "s|@VERSION@|$version|; s|@MAJOR@|$major|g; s|@MINOR@|$minor|" \
        -e "s|@PREFIX@|$prefix|; s|@LIBDIR@|$lib|; s|@INCLUDEDIR@|$include|; s|@CMAKE_INCLUDEDIR@|$cmake_include|" \
        -e "s|@SYSTEM_LIBS@|$system_libs|; s|@STATIC_OPTIONS@|$static_options|" -e "s|@CMAKE_STATIC_LIBS@|$cmake_libs|" \
        -e "s|@SHARED_FILE@|$file|; s|@SONAME@|$soname|" "$1" > "$DESTDIR$2"
    chmod 644 "$DESTDIR$2"
    echo "+ $2"
}

put 755 "$shared" "$LIBDIR/$file"
if [ -n "$STRIP" ] && [ -z "${REMOVE:-}" ]; then "$STRIP" -x "$DESTDIR$LIBDIR/$file"; fi
point "$file" "$LIBDIR/$soname"
point "$soname" "$LIBDIR/$link"
put 644 "$static" "$LIBDIR/libblaze.a"
put 644 include/blaze.h "$INCLUDEDIR/blaze.h"
for header in bindings/cpp/blaze.hpp bindings/cpp/blaze/*.hpp; do
    put 644 "$header" "$INCLUDEDIR/${header#bindings/cpp/}"
done
fill packaging/blaze.pc.in "$LIBDIR/pkgconfig/blaze.pc"
fill packaging/blaze-static.pc.in "$LIBDIR/pkgconfig/blaze-static.pc"
fill packaging/BlazeConfig.cmake.in "$LIBDIR/cmake/Blaze/BlazeConfig.cmake"
fill packaging/BlazeConfigVersion.cmake.in "$LIBDIR/cmake/Blaze/BlazeConfigVersion.cmake"
