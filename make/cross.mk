# Other systems: aarch64 Linux is built, and tested under qemu; Windows and macOS are checked by the compiler.

AARCH64       = aarch64-unknown-linux-gnu
AARCH64_CC    = aarch64-linux-gnu-gcc
AARCH64_DIR   = target/aarch64
AARCH64_ORT   = $(CURDIR)/target/onnxruntime-aarch64
CHECK_TARGETS = x86_64-pc-windows-msvc aarch64-apple-darwin
# Where Debian's compiler of another version and the libraries for it are; see packages rustc-web, cargo-web, rust-web-src and
# libstd-rust-web-dev:arm64.
DEBIAN_RUST   = RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=$(CURDIR)/target/debian /usr/bin/cargo
HAS_RUSTUP    = command -v rustup > /dev/null && rustup target list --installed | grep -qx

.PHONY: check-targets
check-targets: ## the compiler checks the library for Windows and macOS
	@missing=; for target in $(CHECK_TARGETS); do \
	    if $(HAS_RUSTUP) $$target; then \
	        echo "== $$target"; $(CARGO) check --locked --lib --target $$target || exit 1; \
	    else missing="$$missing --target $$target"; fi; done; \
	if test -z "$$missing"; then :; \
	elif test -e /usr/lib/rustlib/src/rust/library/std && test -x /usr/bin/cargo; then \
	    echo "== $$missing, with Debian's compiler"; \
	    RUSTC_BOOTSTRAP=1 $(DEBIAN_RUST) check --locked --lib -Zbuild-std=std,panic_unwind $$missing; \
	else echo "not checked:$$missing. rustup target add has them, or Debian's rustc-web, cargo-web and rust-web-src"; fi

.PHONY: cross-aarch64
cross-aarch64: ## build the library for aarch64 Linux
	@command -v $(AARCH64_CC) > /dev/null \
	    || { echo "there is no $(AARCH64_CC): Debian has it in gcc-aarch64-linux-gnu and libc6-dev-arm64-cross"; exit 1; }
	@mkdir -p $(AARCH64_DIR)
	@export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$(AARCH64_CC); \
	build="rustc --release --locked --lib --crate-type cdylib,staticlib --target $(AARCH64)"; \
	if $(HAS_RUSTUP) $(AARCH64); then $(CARGO) $$build && from=target; \
	elif test -e /usr/lib/rustlib/$(AARCH64)/lib && test -x /usr/bin/cargo; then $(DEBIAN_RUST) $$build && from=target/debian; \
	else echo "Rust's library for $(AARCH64) is missing: rustup target add has it, or Debian's libstd-rust-web-dev:arm64"; exit 1; fi \
	    && cp -f $$from/$(AARCH64)/release/libblaze.so $$from/$(AARCH64)/release/libblaze.a $(AARCH64_DIR)/ \
	    && ln -sf libblaze.so $(AARCH64_DIR)/libblaze.so.0

# The C tests, but those that the emulator cannot run: faults starts programs, process forks beside threads, exhaustion limits
# memory, which qemu ignores, and cycles measures it, of which qemu loses 280 KiB with every thread that ends.
AARCH64_TESTS = $(filter-out faults process exhaustion cycles,$(C_TESTS))
# A server's core, with the large atomics. Its number is below, too.
AARCH64_CPU   = neoverse-n1
AARCH64_ROOT  = $(AARCH64_DIR)/root
# All libraries are from the compiler's package: where Debian's libc6:arm64 is installed beside it, the emulated loader would
# take the C library from there, and a loader and a C library of two versions hang in pthread_create.
AARCH64_RUN   = timeout -k 5 600 qemu-aarch64 -cpu $(AARCH64_CPU) -L $(AARCH64_ROOT) -E LD_LIBRARY_PATH="$$libraries"

.PHONY: has-qemu-aarch64
has-qemu-aarch64: # before anything is built
	@command -v qemu-aarch64 > /dev/null || { echo "there is no qemu-aarch64: Debian has it in qemu-user"; exit 1; }

.PHONY: test-aarch64
test-aarch64: has-qemu-aarch64 cross-aarch64 ## run C tests and an example for aarch64 under qemu
	@$(PYTHON) tools/fetch_onnxruntime.py --machine aarch64 $(AARCH64_ORT)
	@set -e; dir=$(CURDIR)/$(AARCH64_DIR); link="-L$$dir -lblaze -Wl,-rpath,$$dir"; \
	for file in $(AARCH64_TESTS:%=tests/c/%.c) examples-c/infer.c; do \
	    test $$file = tests/c/dlopen.c && use= || use=$$link; \
	    $(AARCH64_CC) $(STRICT) $(CFLAGS) -Iinclude $$file -o $(AARCH64_DIR)/$$(basename $$file .c) $$use -lpthread -ldl; done
	@# qemu looks for every file in its root first. The loader has to be there; and this machine's /proc/cpuinfo, which older
	@# versions of qemu pass on as it is, would let ONNX Runtime crash when it is loaded: it looks for the numbers of ARM's cores.
	@set -e; libraries=$$(dirname $$(realpath $$($(AARCH64_CC) -print-file-name=libc.so.6))); \
	mkdir -p $(AARCH64_ROOT)/proc $(OUT); ln -sfn $$libraries $(AARCH64_ROOT)/lib; \
	sed -n 's/^processor.*/&\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n/p' \
	    /proc/cpuinfo > $(AARCH64_ROOT)/proc/cpuinfo; \
	export ORT_DYLIB_PATH=$(AARCH64_ORT)/lib/libonnxruntime.so BLAZE_SHORT=1; \
	for test in $(AARCH64_TESTS); do echo "== $$test (aarch64)"; \
	    $(AARCH64_RUN) $(AARCH64_DIR)/$$test $$(test $$test = dlopen && echo $(AARCH64_DIR)/libblaze.so); done; \
	echo "== infer (aarch64)"; $(AARCH64_RUN) $(AARCH64_DIR)/infer > $(AARCH64_DIR)/infer.log; tail -n 2 $(AARCH64_DIR)/infer.log
