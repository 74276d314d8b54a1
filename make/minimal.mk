# A small library for small devices, and what each takes.

MINIMAL = target/minimal/libblaze.so

.PHONY: minimal
minimal: ## the smallest library: without profiler, repository, router and tuning
	$(CARGO) rustc --profile minimal --no-default-features --locked --lib --crate-type cdylib
	@ln -sf libblaze.so target/minimal/libblaze.so.0
	@ls -l $(MINIMAL)

.PHONY: test-minimal
test-minimal: minimal onnxruntime ## the smallest library loads, runs a model, and refuses what it has not
	@echo "== minimal"
	@mkdir -p $(OUT)
	@$(CC) $(STRICT) $(CFLAGS) -Iinclude packaging/tests/minimal.c -o $(OUT)/minimal -Ltarget/minimal -lblaze \
	    -Wl,-rpath,$(CURDIR)/target/minimal
	@$(OUT)/minimal
	@nm -D --defined-only $(MINIMAL) | awk '{print $$3}' | sort | diff tests/abi/symbols.txt - \
	    || { echo "the minimal library exports something else"; exit 1; }
	@test $$(wc -c < $(MINIMAL)) -lt 1400000 || { echo "the minimal library has grown to 1.4 MB or more"; exit 1; }

.PHONY: bench-footprint
bench-footprint: release minimal onnxruntime ## sizes, time until an engine is there, memory at rest; half a minute
	@mkdir -p target/bench
	@strip -o target/bench/libblaze-stripped.so target/release/libblaze.so
	@$(CC) $(STRICT) $(CFLAGS) -Iinclude benches/footprint/footprint.c -o target/bench/footprint -ldl
	@target/bench/footprint target/bench/libblaze-stripped.so
	@echo
	@target/bench/footprint $(MINIMAL)
