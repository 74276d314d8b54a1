# Blaze. The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
# Everything that is fetched or built goes to target/.

CARGO   ?= cargo
CC      ?= cc
PYTHON  ?= python3
CFLAGS  ?= -O2 -g
STRICT   = -std=c11 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
ORT_DIR  = $(CURDIR)/target/onnxruntime
ORT_LIB  = $(ORT_DIR)/lib/$(if $(filter Darwin,$(shell uname -s)),libonnxruntime.dylib,libonnxruntime.so)
OUT      = target/c
LINK     = -Ltarget/release -lblaze -Wl,-rpath,$(CURDIR)/target/release

export ORT_DYLIB_PATH ?= $(ORT_LIB)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort | expand -t 24

.PHONY: demo
demo: examples ## classify handwritten digits through the C ABI
	$(OUT)/digits

.PHONY: onnxruntime
onnxruntime: ## fetch ONNX Runtime (pinned, checked) into target/
	@$(PYTHON) tools/fetch_onnxruntime.py $(ORT_DIR)

.PHONY: release
release: ## build the optimized library
	$(CARGO) rustc --release --locked --lib --crate-type cdylib,staticlib # without an rlib, which would keep it from link-time optimization
	@cd target/release && ! test -e libblaze.so || ln -sf libblaze.so libblaze.so.0 # what the loader looks for

# All but the plugin, which is a shared object that a test opens.
EXAMPLES = $(patsubst examples-c/%.c,$(OUT)/%,$(filter-out examples-c/plugin.c,$(wildcard examples-c/*.c))) $(OUT)/readme

.PHONY: examples
examples: $(EXAMPLES) ## build the C examples, and the program in the README

$(OUT)/%: examples-c/%.c include/blaze.h | release onnxruntime
	@mkdir -p $(OUT)
	$(CC) $(STRICT) $(CFLAGS) -Iinclude $< -o $@ $(LINK)

$(OUT)/readme: README.md include/blaze.h | release onnxruntime
	@mkdir -p $(OUT)
	sed -n '/^```c$$/,/^```$$/p' README.md | sed '/^```/d' > $@.c
	$(CC) $(STRICT) $(CFLAGS) -Iinclude $@.c -o $@ $(LINK)

.PHONY: header
header: ## write include/blaze.h anew
	BLAZE_UPDATE=1 $(CARGO) test --locked --test header

# ---- tests ----------------------------------------------------------------------------------------------------------

comma := ,
# What the files in make/ add.
TESTS =
-include $(sort $(wildcard make/*.mk))

.PHONY: test
test: test-rust test-c test-examples $(TESTS) ## run all tests

.PHONY: test-rust
test-rust: onnxruntime python-tools
	$(CARGO) test --locked

.PHONY: python-tools
python-tools: target/python-tools/.done
target/python-tools/.done: tools/requirements-test.txt
	@rm -rf target/python-tools
	PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --require-hashes --target target/python-tools -r $<
	@touch $@

.PHONY: test-examples
test-examples: examples ## run the C examples
	@set -e; for program in $(EXAMPLES); do \
	    echo "== $$program"; $$program > $(OUT)/example.log 2>&1 || { cat $(OUT)/example.log; exit 1; }; \
	    tail -n 3 $(OUT)/example.log | cut -c 1-160; done

# The C tests: plain, with the sanitizers if the compiler has them, and under valgrind if it is installed.
C_TESTS   = abi bad_input bad_tensors bad_config requests giving_up queues lifecycle models faults pump stress cycles dlopen \
            memory loading allocator repository padding routes limits route_stress health logs profile advice tuning \
            process exhaustion hostile backends plugins devices stepwise providers
C_HELPERS = $(OUT)/libfake_old_onnxruntime.so $(OUT)/header_c99.o $(OUT)/header_c11.o \
            $(PLUGINS:%=$(OUT)/plugins/libblaze_%.so) target/release/libblaze_scale.so

# The example's plugin, and broken ones.
BROKEN_PLUGINS = ancient refusing mute unnamed closed lacking
PLUGINS        = scale $(BROKEN_PLUGINS)

.PHONY: test-c
# One after the other, also under -j: they write to the same files.
test-c: ## run the C tests in every way
	@$(MAKE) --no-print-directory -j1 test-c-plain test-c-sanitized test-c-valgrind

.PHONY: c-helpers
c-helpers: $(C_HELPERS) | release onnxruntime
	@mkdir -p $(OUT)
	@if command -v $(CXX) >/dev/null; then \
	    $(CXX) -std=c++17 -Wall -Wextra -Wpedantic -Werror -Iinclude -c tests/c/header.cpp -o $(OUT)/header_cpp.o; \
	else echo "no C++ compiler: the header is not checked as C++"; fi

$(OUT)/libfake_old_onnxruntime.so: tests/c/fake_old_onnxruntime.c
	@mkdir -p $(OUT)
	$(CC) $(STRICT) -shared -fPIC $< -o $@

$(OUT)/plugins/libblaze_scale.so: examples-c/plugin.c include/blaze.h
	@mkdir -p $(OUT)/plugins
	$(CC) $(STRICT) -fvisibility=hidden -shared -fPIC -Iinclude $< -o $@

target/release/libblaze_scale.so: $(OUT)/plugins/libblaze_scale.so | release
	cp $< $@

$(BROKEN_PLUGINS:%=$(OUT)/plugins/libblaze_%.so): $(OUT)/plugins/libblaze_%.so: tests/c/plugins/broken.c include/blaze.h
	@mkdir -p $(OUT)/plugins
	@echo 'int nowhere(void) { return 0; }' > $(OUT)/plugins/nowhere.c
	$(CC) -shared -fPIC $(OUT)/plugins/nowhere.c -Wl,-soname,libnowhere.so -o $(OUT)/plugins/nowhere.so
	$(CC) $(STRICT) -shared -fPIC -Iinclude -DWHAT=$(shell echo $* | tr a-z A-Z) $< -o $@ \
	    $(if $(filter lacking,$*),-Wl$(comma)--no-as-needed $(OUT)/plugins/nowhere.so)

$(OUT)/header_c99.o: tests/c/header_c99.c include/blaze.h
	@mkdir -p $(OUT)
	$(CC) -std=c99 -Wall -Wextra -Wpedantic -Werror -Iinclude -c $< -o $@

$(OUT)/header_c11.o: tests/c/header_c11.c include/blaze.h
	@mkdir -p $(OUT)
	$(CC) -std=c11 -Wall -Wextra -Wpedantic -Werror -Iinclude -c $< -o $@

# This one opens the library by itself.
$(OUT)/test_dlopen $(OUT)/asan_dlopen: LINK =

$(OUT)/test_%: tests/c/%.c tests/c/check.h tests/c/json.h tests/c/routes.h include/blaze.h | c-helpers
	$(CC) $(STRICT) $(CFLAGS) -Iinclude $< -o $@ $(LINK) -lpthread -ldl

$(OUT)/asan_%: tests/c/%.c tests/c/check.h tests/c/json.h tests/c/routes.h include/blaze.h | c-helpers
	$(CC) $(STRICT) -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all \
	    -Iinclude $< -o $@ $(LINK) -lpthread -ldl

.PHONY: test-c-plain
test-c-plain: $(C_TESTS:%=$(OUT)/test_%) ## run the C tests
	@set -e; for test in $(C_TESTS); do echo "== $$test"; $(OUT)/test_$$test; done

.PHONY: test-c-sanitized
test-c-sanitized: c-helpers ## run the C tests under AddressSanitizer and UBSan
	@set -e; echo 'int main(void) { return 0; }' > $(OUT)/probe.c; \
	if $(CC) -fsanitize=address,undefined $(OUT)/probe.c -o $(OUT)/probe 2>/dev/null && $(OUT)/probe; then \
	    $(MAKE) --no-print-directory $(C_TESTS:%=$(OUT)/asan_%); \
	    for test in $(C_TESTS); do echo "== $$test (sanitizers)"; $(OUT)/asan_$$test; done; \
	else echo "the compiler has no sanitizers: the C tests are not run under them"; fi

.PHONY: test-c-valgrind
# Valgrind runs one thread at a time, so two tests share two cores well. The test of processes starts itself anew and forks, which
# is beyond valgrind.
VALGRIND_TESTS = $(filter-out process,$(C_TESTS))
test-c-valgrind: $(VALGRIND_TESTS:%=$(OUT)/test_%) ## run the C tests under valgrind
	@if ! command -v valgrind >/dev/null; then echo "valgrind is not installed: the C tests are not run under it"; \
	else $(MAKE) --no-print-directory -j2 --output-sync=target $(VALGRIND_TESTS:%=valgrind_%); fi

.PHONY: $(VALGRIND_TESTS:%=valgrind_%)
$(VALGRIND_TESTS:%=valgrind_%): valgrind_%:
	@echo "== $* (valgrind)"
	@BLAZE_SHORT=1 valgrind -q --fair-sched=try --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
	    --suppressions=tests/c/valgrind.supp $(OUT)/test_$* $(SHORT_$*)

# How much of the long tests to run under valgrind, which is some thirty times slower.
SHORT_stress       = 2000
SHORT_cycles       = 20
SHORT_route_stress = 500

# ---- checks of style ------------------------------------------------------------------------------------------------

.PHONY: lint lint-rust lint-symbols
lint: lint-rust lint-symbols ## formatting, clippy, exported symbols, documentation
lint-rust:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

lint-symbols: release
	@nm -D --defined-only target/release/libblaze.so | awk '{print $$3}' | sort | diff tests/abi/symbols.txt - \
	    || { echo "the exported symbols differ from tests/abi/symbols.txt"; exit 1; }

.PHONY: symbols
symbols: release ## write tests/abi/symbols.txt anew
	nm -D --defined-only target/release/libblaze.so | awk '{print $$3}' | sort > tests/abi/symbols.txt

# ---- the rest ---------------------------------------------------------------------------------------------------------

.PHONY: models
models: ## make the committed models anew
	PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install -q --disable-pip-version-check --require-hashes --target target/python \
	    -r tools/requirements-models.txt
	$(PYTHON) tools/make_models.py all

# ---- benchmarks -------------------------------------------------------------------------------------------------------

.PHONY: bench
bench: onnxruntime release target/bench/models/large.onnx ## measure speed, 4 minutes; BENCH="--quick" or BENCH=FILTER: see benches/README.md
	$(CARGO) bench --locked --bench throughput -- $(BENCH)

# Too large to be committed.
target/bench/models/large.onnx: tools/requirements-models.txt tools/models/mlps.py
	PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install -q --disable-pip-version-check --require-hashes --target target/python \
	    -r tools/requirements-models.txt
	$(PYTHON) tools/make_models.py mlps target/bench/models

.PHONY: bench-memory
bench-memory: onnxruntime ## measure memory, 6 minutes; BENCH="--quick" or BENCH=FILTER: see benches/README.md
	$(CARGO) bench --locked --bench memory -- $(BENCH)

.PHONY: bench-router
bench-router: onnxruntime ## measure routes, 5 minutes; BENCH="--quick" or BENCH=FILTER: see benches/README.md
	$(CARGO) bench --locked --bench router -- $(BENCH)

.PHONY: bench-insight
bench-insight: onnxruntime target/bench/models/large.onnx ## measure insight, 13 minutes; BENCH="--quick" or BENCH=FILTER: see benches/README.md
	$(CARGO) bench --locked --bench insight -- $(BENCH)

.PHONY: bench-publish
bench-publish: ## put the results of the last full runs of `make bench`, `bench-memory`, `-router`, `-insight` into benches/results/
	@grep -qs "a full run" target/bench/throughput.md target/bench/memory.md target/bench/router.md target/bench/insight.md \
	    || { echo "there is no full run to publish: make bench, bench-memory, bench-router, bench-insight"; exit 1; }
	@mkdir -p benches/results
	@if grep -qs "a full run" target/bench/throughput.md; then \
	    cp -v $(foreach kind,json svg md,target/bench/throughput.$(kind)) benches/results/; fi
	@if grep -qs "a full run" target/bench/memory.md; then \
	    cp -v $(foreach kind,json md,target/bench/memory.$(kind)) benches/results/; fi
	@if grep -qs "a full run" target/bench/router.md; then \
	    cp -v $(foreach kind,json md,target/bench/router.$(kind)) benches/results/; fi
	@if grep -qs "a full run" target/bench/insight.md; then \
	    cp -v $(foreach kind,json md,target/bench/insight.$(kind)) benches/results/; fi

.PHONY: clean
clean: ## remove everything built, but not what was fetched
	$(CARGO) clean --release
	$(CARGO) clean --profile dev
	rm -rf $(OUT)
