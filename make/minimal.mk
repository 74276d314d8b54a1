# A small library for small devices, and what each takes.

MINIMAL = target/minimal/libblaze.so

# PANIC=abort leaves out what unwinds the stack, an eighth of the library. A panic, which should not be, then ends the process
# instead of failing one call or batch.
ifeq ($(PANIC),abort)
MINIMAL_ENV = CARGO_PROFILE_MINIMAL_PANIC=abort RUSTFLAGS="$(RUSTFLAGS) -C force-unwind-tables=no"
MINIMAL_MAX = 1250000
endif
MINIMAL_MAX ?= 1450000

.PHONY: minimal
minimal: ## the smallest library: without plugins, profiler, providers, repository, router and tuning (PANIC=abort: smaller, a panic ends the process)
	$(MINIMAL_ENV) $(CARGO) rustc --profile minimal --no-default-features --locked --lib --crate-type cdylib
	@ln -sf libblaze.so target/minimal/libblaze.so.0
	@ls -l $(MINIMAL)

# The C tests that need nothing of what is left out; `faults` has backends that panic.
MINIMAL_TESTS = abi bad_input requests giving_up queues lifecycle models pump memory loading padding health logs \
                $(if $(filter abort,$(PANIC)),,faults)

$(OUT)/minimal_%: tests/c/%.c tests/c/check.h tests/c/json.h include/blaze.h | minimal
	@mkdir -p $(OUT)
	$(CC) $(STRICT) $(CFLAGS) -Iinclude $< -o $@ -Ltarget/minimal -lblaze -Wl,-rpath,$(CURDIR)/target/minimal -lpthread -ldl

.PHONY: test-minimal
test-minimal: minimal onnxruntime $(OUT)/libfake_old_onnxruntime.so $(MINIMAL_TESTS:%=$(OUT)/minimal_%) ## the smallest library loads, runs models, and refuses what it has not
	@echo "== minimal"
	@$(CC) $(STRICT) $(CFLAGS) -Iinclude packaging/tests/minimal.c -o $(OUT)/minimal -Ltarget/minimal -lblaze \
	    -Wl,-rpath,$(CURDIR)/target/minimal
	@$(OUT)/minimal
	@set -e; for test in $(MINIMAL_TESTS); do \
	    BLAZE_SHORT=1 $(OUT)/minimal_$$test > $(OUT)/minimal.log 2>&1 || { cat $(OUT)/minimal.log; exit 1; }; \
	    echo "  $$test: $$(tail -n 1 $(OUT)/minimal.log)"; done
	@nm -D --defined-only $(MINIMAL) | awk '{print $$3}' | sort | diff tests/abi/symbols.txt - \
	    || { echo "the minimal library exports something else"; exit 1; }
	@test $$(wc -c < $(MINIMAL)) -lt $(MINIMAL_MAX) || { echo "the minimal library has grown to $(MINIMAL_MAX) bytes or more"; exit 1; }

.PHONY: bench-footprint
bench-footprint: release minimal onnxruntime ## sizes, time until an engine is there, memory at rest; half a minute
	@mkdir -p target/bench
	@strip -o target/bench/libblaze-stripped.so target/release/libblaze.so
	@$(CC) $(STRICT) $(CFLAGS) -Iinclude benches/footprint/footprint.c -o target/bench/footprint -ldl
	@target/bench/footprint target/bench/libblaze-stripped.so
	@echo
	@target/bench/footprint $(MINIMAL)
