# The slow suites: sanitizers, model checkers, fuzzing, and running for a long time. Each ends with one line that sums it up.

HOST      = $(shell rustc -vV | sed -n 's/host: //p')
SECONDS  ?= 600
FUZZ     ?= abi
FUZZ_ALL  = abi config model manifest

.PHONY: miri
miri: ## the FFI tests under Miri (needs `rustup component add miri` on a nightly toolchain)
	MIRIFLAGS="-Zmiri-disable-isolation" $(CARGO) +nightly miri test --locked --test ffi
	@echo "miri: nothing found"

.PHONY: loom
loom: ## every interleaving of the lock-free parts, within bounds (part of `make test`)
	$(CARGO) test --locked --test loom
	@echo "loom: nothing found"

.PHONY: interleavings
interleavings: onnxruntime ## random interleavings of everything, for some minutes
	BLAZE_ROUNDS=20000 $(CARGO) test --locked --release --test interleavings
	@echo "interleavings: nothing found"

.PHONY: asan asan-short
ASAN_SHORT = batching ffi onnx_interrupts onnx_loading onnx_memory onnx_models onnx_types races residence routing
asan: ASAN_WHAT = --lib --tests
asan: ## the Rust tests with AddressSanitizer in the library itself
asan-short: ASAN_WHAT = $(ASAN_SHORT:%=--test %)
asan-short: ## those of them that touch memory of others
# Without loom's models, which have no memory to check, and what is said of the heap, which is another one here.
asan asan-short: onnxruntime
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 \
	    $(CARGO) test --locked --target $(HOST) --target-dir target/asan $(ASAN_WHAT) \
	    -- --skip wake_ups:: --skip lists:: --skip batches:: --skip completion:: --skip residence:: --skip routing:: --skip relays:: --skip spans:: --skip the_heap_grows --skip pool::a_trim --skip pool::two_users --skip pool::idle_bytes_never --skip alloc
	@echo "$@: nothing found"

.PHONY: ubsan
ubsan: test-c-sanitized ## the C tests with UndefinedBehaviorSanitizer and AddressSanitizer
	@echo "ubsan: nothing found"

.PHONY: valgrind
valgrind: test-c-valgrind ## the C tests under valgrind
	@echo "valgrind: nothing found"

# ---- ThreadSanitizer ----------------------------------------------------------------------------------------------------

TSAN_TESTS ?= races batching interleavings residence routing

.PHONY: tsan
tsan: onnxruntime ## the concurrent Rust tests under ThreadSanitizer; what it takes is in tools/tsan.sh
	BLAZE_ROUNDS=100 tools/tsan.sh $(TSAN_TESTS)
	@echo "tsan: nothing found"

# ---- a long time --------------------------------------------------------------------------------------------------------

.PHONY: soak soak-short
soak: $(OUT)/test_soak ## everything at once with failures of all kinds, SECONDS (600) long
	$(OUT)/test_soak $(SECONDS)
	@echo "soak: $(SECONDS) seconds without a lost event, growth or leak"

soak-short: $(OUT)/test_soak
	$(OUT)/test_soak 20
	@echo "soak: 20 seconds without a lost event, growth or leak"

# ---- fuzzing ------------------------------------------------------------------------------------------------------------

FUZZ_FLAGS = -Zsanitizer=address -Cpasses=sancov-module --cfg fuzzing \
    $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)
FUZZ_BIN   = target/fuzz/$(HOST)/release
# What is found goes to target/fuzz/found, new inputs to target/fuzz/corpus. Models are mutated from the tests' own.
FUZZ_SEEDS_model   = tests/models
FUZZ_OPTIONS_model = -max_len=8192
FUZZ_OPTIONS_abi   = -max_len=800 -len_control=0
FUZZ_OPTIONS_config   = -max_len=2000 -dict=fuzz/config.dict
FUZZ_OPTIONS_manifest = -max_len=800 -len_control=0 -dict=fuzz/config.dict

.PHONY: fuzz fuzz-build fuzz-short
fuzz-build: onnxruntime
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --locked --release --manifest-path fuzz/Cargo.toml \
	    --target $(HOST) --target-dir target/fuzz --bins

define run_fuzz
	@mkdir -p target/fuzz/found target/fuzz/corpus/$(1)
	@ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:detect_odr_violation=0 $(FUZZ_BIN)/$(1) \
	    -max_total_time=$(2) -timeout=25 -rss_limit_mb=4000 -print_final_stats=1 -artifact_prefix=target/fuzz/found/$(1)- \
	    $(FUZZ_OPTIONS_$(1)) target/fuzz/corpus/$(1) fuzz/corpus/$(1) $(FUZZ_SEEDS_$(1)) > target/fuzz/$(1).log 2>&1 \
	    || { tail -n 60 target/fuzz/$(1).log; echo "fuzz $(1): found something: target/fuzz/found, target/fuzz/$(1).log"; exit 1; }
	@echo "fuzz $(1): $$(sed -n 's/^stat::number_of_executed_units: *//p' target/fuzz/$(1).log) executions in $(2) s," \
	    "$$(sed -n 's/.*cov: \([0-9]*\).*/\1/p' target/fuzz/$(1).log | tail -n 1) edges, nothing found"
endef

fuzz: fuzz-build ## fuzz one target: FUZZ=abi, config, model or manifest, SECONDS=600
	$(call run_fuzz,$(FUZZ),$(SECONDS))

fuzz-short: $(FUZZ_ALL:%=fuzz-short-%) ## each fuzz target for 15 seconds

.PHONY: $(FUZZ_ALL:%=fuzz-short-%)
$(FUZZ_ALL:%=fuzz-short-%): fuzz-short-%: fuzz-build
	$(call run_fuzz,$*,15)
