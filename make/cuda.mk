# The CUDA plugin: its build, which needs no CUDA, its tests with a fake driver, and the GPU code of those.

TESTS += test-cuda

CUDA_PLUGIN = target/release/libblaze_cuda.so
FAKECUDA    = target/fakecuda

.PHONY: cuda-plugin
cuda-plugin: ## build the CUDA backend, libblaze_cuda.so; no CUDA is needed
	$(CARGO) build --release --locked --manifest-path plugins/cuda/Cargo.toml --target-dir target/cuda-plugin
	@mkdir -p target/release
	cp target/cuda-plugin/release/libblaze_cuda.so $(CUDA_PLUGIN)

.PHONY: test-cuda
# One after the other, also under -j.
test-cuda: ## test the CUDA backend with a fake driver, in every way, and check the committed GPU code
	@$(MAKE) --no-print-directory -j1 test-cuda-unit ptx-check test-cuda-plain test-cuda-sanitized test-cuda-valgrind

.PHONY: install-cuda
install-cuda: cuda-plugin ## install the CUDA backend beside libblaze, as `make install` does
	install -D -m 755 $(CUDA_PLUGIN) $(DESTDIR)$(LIBDIR)/libblaze_cuda.so

# The lint of the Makefile is for Blaze's own crate.
lint: lint-cuda
.PHONY: lint-cuda
lint-cuda:
	$(CARGO) fmt --check --manifest-path plugins/cuda/Cargo.toml
	$(CARGO) clippy --locked --all-targets --manifest-path plugins/cuda/Cargo.toml --target-dir target/cuda-plugin -- -D warnings

.PHONY: test-cuda-unit
test-cuda-unit:
	$(CARGO) test --locked --manifest-path plugins/cuda/Cargo.toml --target-dir target/cuda-plugin

$(FAKECUDA)/libfakecuda.so: $(wildcard tests/fakecuda/*.c tests/fakecuda/*.h)
	@mkdir -p $(FAKECUDA)
	$(CC) $(STRICT) $(CFLAGS) -D_GNU_SOURCE -shared -fPIC -Wl,-Bsymbolic tests/fakecuda/state.c tests/fakecuda/driver.c tests/fakecuda/kernels.c -o $@ -lpthread

# A driver of before 12.4.
$(FAKECUDA)/libfakecuda_old.so: $(wildcard tests/fakecuda/*.c tests/fakecuda/*.h)
	@mkdir -p $(FAKECUDA)
	$(CC) $(STRICT) $(CFLAGS) -D_GNU_SOURCE -DFAKECUDA_OLD -shared -fPIC -Wl,-Bsymbolic tests/fakecuda/state.c tests/fakecuda/driver.c tests/fakecuda/kernels.c -o $@ -lpthread

$(FAKECUDA)/libfakenvml.so: tests/fakecuda/fakenvml.c
	@mkdir -p $(FAKECUDA)
	$(CC) $(STRICT) $(CFLAGS) -shared -fPIC $< -o $@

CUDA_HELPERS = $(FAKECUDA)/libfakecuda.so $(FAKECUDA)/libfakecuda_old.so $(FAKECUDA)/libfakenvml.so
CUDA_LINK    = $(LINK) -L$(FAKECUDA) -lfakecuda -Wl,-rpath,$(CURDIR)/$(FAKECUDA) -lpthread -ldl

$(FAKECUDA)/test_cuda: tests/c/cuda.c tests/c/cuda.h tests/c/check.h tests/c/json.h tests/c/routes.h include/blaze.h $(CUDA_HELPERS) | release
	$(CC) $(STRICT) $(CFLAGS) -Iinclude -Itests/fakecuda $< -o $@ $(CUDA_LINK)

$(FAKECUDA)/asan_cuda: tests/c/cuda.c tests/c/cuda.h tests/c/check.h tests/c/json.h tests/c/routes.h include/blaze.h $(CUDA_HELPERS) | release
	$(CC) $(STRICT) -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all \
	    -Iinclude -Itests/fakecuda $< -o $@ $(CUDA_LINK)

.PHONY: test-cuda-plain
test-cuda-plain: cuda-plugin release onnxruntime $(FAKECUDA)/test_cuda
	@test "$$(nm -D --defined-only $(CUDA_PLUGIN) | awk '{print $$3}' | sort | tr '\n' ' ')" = "blaze_plugin_abi blaze_plugin_open " \
	    || { echo "the plugin exports something else than it should"; exit 1; }
	@! ldd $(CUDA_PLUGIN) | grep -i -e cuda -e nvidia || { echo "the plugin cannot be loaded without CUDA"; exit 1; }
	@echo "== cuda"; $(FAKECUDA)/test_cuda

.PHONY: test-cuda-sanitized
test-cuda-sanitized: cuda-plugin release onnxruntime $(CUDA_HELPERS)
	@set -e; echo 'int main(void) { return 0; }' > $(FAKECUDA)/probe.c; \
	if $(CC) -fsanitize=address,undefined $(FAKECUDA)/probe.c -o $(FAKECUDA)/probe 2>/dev/null && $(FAKECUDA)/probe; then \
	    $(MAKE) --no-print-directory $(FAKECUDA)/asan_cuda; echo "== cuda (sanitizers)"; $(FAKECUDA)/asan_cuda; \
	else echo "the compiler has no sanitizers: the CUDA backend is not tested under them"; fi

.PHONY: test-cuda-valgrind
test-cuda-valgrind: cuda-plugin release onnxruntime $(FAKECUDA)/test_cuda
	@if ! command -v valgrind >/dev/null; then echo "valgrind is not installed: the CUDA backend is not tested under it"; \
	else echo "== cuda (valgrind)"; BLAZE_SHORT=1 valgrind -q --fair-sched=try --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
	    --errors-for-leak-kinds=definite --suppressions=tests/c/valgrind.supp $(FAKECUDA)/test_cuda; fi

# ---- GPU code -----------------------------------------------------------------------------------------------------------

target/cuda-%/.done: tools/requirements-%.txt
	@rm -rf target/cuda-$*
	PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --require-hashes --target target/cuda-$* -r $<
	@touch $@

.PHONY: ptx
ptx: target/cuda-nvrtc/.done ## compile tests/cuda/kernels.cu anew, with NVRTC 13.0 (fetched, 90 MB)
	$(PYTHON) tools/make_ptx.py make target/cuda-nvrtc tests/cuda/kernels.cu tests/cuda/kernels.ptx

.PHONY: ptx-check
# The assembler comes for these machines.
ptx-check: ## the committed PTX is of its source, and accepted by ptxas 13.0 (fetched, 37 MB)
	@if [ "$$(uname -s)-$$(uname -m)" = Linux-x86_64 ] || [ "$$(uname -s)-$$(uname -m)" = Linux-aarch64 ]; then \
	    $(MAKE) --no-print-directory target/cuda-ptxas/.done && \
	    $(PYTHON) tools/make_ptx.py check target/cuda-ptxas tests/cuda/kernels.cu tests/cuda/kernels.ptx; \
	else echo "there is no ptxas for this system: the committed PTX is not checked"; fi
