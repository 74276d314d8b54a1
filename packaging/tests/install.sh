#!/bin/sh
# Installs into an empty prefix, and builds and runs programs outside the tree against it, with pkg-config, with CMake and with
# the static library; then moves the prefix, and does it again. usage: install.sh WORK, in the repository's root.
set -eu

root=$PWD
work=$1
make=${MAKE:-make}
cc=${CC:-cc}
tests=$root/packaging/tests
model=$root/tests/models/tiny.onnx

say() { echo "  $*"; }
fail() { echo "  FAILED: $*"; exit 1; }
same() { [ "$1" = "$2" ] || fail "$3: '$1' instead of '$2'"; }

unset LD_LIBRARY_PATH PKG_CONFIG_PATH CMAKE_PREFIX_PATH PREFIX LIBDIR INCLUDEDIR DESTDIR
rm -rf "$work"
mkdir -p "$work/outside"
work=$(cd "$work" && pwd)
cp "$tests/program.c" "$tests/program.cpp" "$tests/CMakeLists.txt" "$work/outside/"
cd "$work/outside"
quietly() { "$@" > "$work/log" 2>&1 || { cat "$work/log"; fail "$*"; }; }
install_to() { quietly "$make" --no-print-directory -C "$root" -o release install "$@"; }

shared_is_right() { # shared_is_right LIBDIR
    same "$(readlink "$1/libblaze.so")" libblaze.so.0 "libblaze.so"
    same "$(readlink "$1/libblaze.so.0")" libblaze.so.0.1.0 "libblaze.so.0"
    same "$(objdump -p "$1/libblaze.so.0.1.0" | awk '$1 == "SONAME" { print $2 }')" libblaze.so.0 SONAME
    nm -D --defined-only "$1/libblaze.so" | awk '{ print $3 }' | sort | diff "$root/tests/abi/symbols.txt" - ||
        fail "the exported symbols"
    nm -g --defined-only "$1/libblaze.a" 2> /dev/null | awk 'NF == 3 { print $3 }' | sort |
        diff "$root/tests/abi/symbols.txt" - || fail "the static library's symbols"
    [ "$(wc -c < "$1/libblaze.so.0.1.0")" -lt 4000000 ] || fail "the library has 4 MB or more"
}

with_pkg_config() { # with_pkg_config LIBDIR
    export PKG_CONFIG_PATH="$1/pkgconfig"
    # shellcheck disable=SC2046
    quietly "$cc" -std=c11 -Wall -Werror program.c $("$pkg_config" --cflags --libs blaze) -o program
    LD_LIBRARY_PATH=$1 quietly ./program
    LD_LIBRARY_PATH=$1 quietly ./program "$model"
    if [ -n "$cxx" ]; then
        # shellcheck disable=SC2046
        quietly "$cxx" -std=c++17 -Wall -Werror program.cpp $("$pkg_config" --cflags --libs blaze) -lpthread -o program_cpp
        LD_LIBRARY_PATH=$1 quietly ./program_cpp "$model"
    fi
    # shellcheck disable=SC2046
    quietly "$cc" -std=c11 -Wall -Werror program.c $("$pkg_config" --cflags --libs blaze-static) -o program_static
    if ldd ./program_static | grep -q libblaze; then fail "the static library was not used"; fi
    quietly ./program_static
    quietly ./program_static "$model"
    same "$("$pkg_config" --modversion blaze)" 0.1.0 "pkg-config's version"
    case $("$pkg_config" --libs --static blaze) in *-ldl*) ;; *) fail "Libs.private" ;; esac
    unset PKG_CONFIG_PATH
}

with_cmake() { # with_cmake PREFIX
    rm -rf build
    quietly "$cmake" -S . -B build -DCMAKE_PREFIX_PATH="$1" -DCMAKE_C_COMPILER="$cc"
    quietly "$cmake" --build build
    for program in shared static; do # CMake gives programs in its own tree the library's path
        quietly "build/$program"
        quietly "build/$program" "$model"
    done
    if ldd build/static | grep -q libblaze; then fail "CMake did not use the static library"; fi
}

pkg_config=$(command -v pkg-config || command -v pkgconf || true)
cmake=$(command -v cmake || command -v "${CMAKE:-cmake}" || true)
cxx=$(command -v "${CXX:-c++}" || true)
[ -n "$pkg_config" ] || say "there is no pkg-config: that part is left out"
[ -n "$cxx" ] || say "there is no C++ compiler: that part is left out"
[ -n "$cmake" ] || say "there is no CMake: that part is left out"

say "an empty prefix"
install_to PREFIX="$work/prefix"
shared_is_right "$work/prefix/lib"
[ -z "$pkg_config" ] || with_pkg_config "$work/prefix/lib"
[ -z "$cmake" ] || with_cmake "$work/prefix"

say "the prefix, moved"
mkdir "$work/moved"
mv "$work/prefix" "$work/moved/elsewhere"
[ -z "$pkg_config" ] || with_pkg_config "$work/moved/elsewhere/lib"
[ -z "$cmake" ] || with_cmake "$work/moved/elsewhere"

say "ONNX Runtime beside the library"
cp "$ORT_DYLIB_PATH" "$work/moved/elsewhere/lib/libonnxruntime.so.1"
PKG_CONFIG_PATH="$work/moved/elsewhere/lib/pkgconfig"
export PKG_CONFIG_PATH
[ -z "$pkg_config" ] || (
    unset ORT_DYLIB_PATH
    LD_LIBRARY_PATH=$work/moved/elsewhere/lib quietly ./program "$model"
)
unset PKG_CONFIG_PATH

say "other directories, and a staging area"
install_to PREFIX=/usr LIBDIR=/usr/lib/some-machine INCLUDEDIR=/usr/include/blaze-0 DESTDIR="$work/stage"
shared_is_right "$work/stage/usr/lib/some-machine"
if grep -rIl "$work" "$work/stage"; then fail "the staging area is named in what was installed"; fi
[ -z "$pkg_config" ] || with_pkg_config "$work/stage/usr/lib/some-machine"

say "uninstalled again"
quietly "$make" --no-print-directory -C "$root" uninstall PREFIX=/usr LIBDIR=/usr/lib/some-machine \
    INCLUDEDIR=/usr/include/blaze-0 DESTDIR="$work/stage"
same "$(find "$work/stage" ! -type d)" "" "left behind"

echo "  installing is as it should be"
