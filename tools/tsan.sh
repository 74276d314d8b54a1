#!/bin/sh
# Runs Rust tests under ThreadSanitizer: tools/tsan.sh TEST..., in the repository's root.
#
# The standard library must be instrumented, too: otherwise what it does to order threads (locks, parking, channels, once)
# is not seen, and most of what is reported is none. So its source is needed (-Zbuild-std), of the very version of the compiler:
# - a nightly toolchain with rust-src, from rustup;
# - or Debian's rustc-web, cargo-web and rust-web-src, which come without ThreadSanitizer's runtime library: that of a toolchain of
#   rustup's, of about the same age, takes its place.
set -eu

root=$PWD
host=$(rustc -vV | sed -n 's/host: //p')
tree=$root/target/tsan/tree
flags=-Zsanitizer=thread

if cargo +nightly --version > /dev/null 2>&1 && test -e "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/std"; then
    cargo="cargo +nightly"
elif test -e /usr/lib/rustlib/src/rust/library/std && test -x /usr/bin/cargo; then
    runtime=$(find "$(rustc --print sysroot)/lib/rustlib/$host/lib" -name 'librustc-*_rt.tsan.a' | head -n 1)
    test -n "$runtime" || { echo "tsan: there is no librustc-*_rt.tsan.a"; exit 1; }
    sysroot=$root/target/tsan/sysroot
    mkdir -p "$sysroot/lib/rustlib/$host/lib"
    ln -sf "$runtime" "$sysroot/lib/rustlib/$host/lib/librustc-stable_rt.tsan.a"
    ln -sfn /usr/lib/rustlib/src "$sysroot/lib/rustlib/src"
    flags="$flags --sysroot=$sysroot"
    RUSTC=/usr/bin/rustc cargo=/usr/bin/cargo
    export RUSTC
else
    echo "tsan: needs the standard library's source: rustup +nightly component add rust-src, or Debian's rustc-web, cargo-web, rust-web-src"
    exit 1
fi

# Without `governor`, which only unit tests use: a dependency of its (hashbrown) has a feature "alloc" that takes the standard
# library's parts for others' when those are built, too. Without what else other tests need, which takes long to build. And without the C library, of which the runtime is not made to be part.
mkdir -p "$tree"
for part in src tests benches include build.rs cbindgen.toml models; do ln -sfn "$root/$part" "$tree/$part"; done
sed '/^governor/d; /^loom/d; /^cbindgen/d; s/^crate-type.*/crate-type = ["rlib"]/' Cargo.toml > "$tree/Cargo.toml"
cp Cargo.lock "$tree/"

tests=
for test in "$@"; do tests="$tests --test $test"; done
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags"
export TSAN_OPTIONS="suppressions=$root/tools/tsan.supp ignore_noninstrumented_modules=1 exitcode=66"
cd "$tree"
# shellcheck disable=SC2086
exec $cargo test --offline -Zbuild-std --target "$host" --target-dir "$root/target/tsan" --no-fail-fast $tests
