# The ABI stays what it was: see docs/abi.md.
TESTS += test-abi

# Headers of earlier versions. Programs that were built with one must work with this library.
OLDER_HEADERS = $(patsubst tests/abi/headers/%/blaze.h,%,$(wildcard tests/abi/headers/*/blaze.h))
OLDER_TESTS   = requests giving_up lifecycle models faults pump bad_tensors

.PHONY: test-abi
test-abi: $(foreach header,$(OLDER_HEADERS),$(OLDER_TESTS:%=$(OUT)/older/$(header)/%)) ## programs built with older headers, and abidiff
	@set -e; for program in $^; do echo "== $$program"; $$program > $(OUT)/older.log 2>&1 || { cat $(OUT)/older.log; exit 1; }; \
	    tail -n 1 $(OUT)/older.log; done
	@for header in $(OLDER_HEADERS); do $(PYTHON) tools/check_abi.py tests/abi/headers/$$header include/blaze.h target/abi || exit 1; done
	@# And a header with a constant, or a member in the middle, that has changed must be found out.
	@set -e; older=tests/abi/headers/$(lastword $(OLDER_HEADERS)); mkdir -p target/abi; \
	for change in 's/BLAZE_STATUS_BUSY 202/BLAZE_STATUS_BUSY 203/' 's/^    uint64_t deadline_ns;/    uint64_t more; uint64_t deadline_ns;/'; do \
	    sed "$$change" include/blaze.h > target/abi/changed.h; \
	    case "$$change" in *more*) command -v abidiff >/dev/null || continue;; esac; \
	    if $(PYTHON) tools/check_abi.py $$older target/abi/changed.h target/abi >/dev/null 2>&1; then \
	        echo "a changed header was not found out: $$change"; exit 1; fi; done

define older_test
$(OUT)/older/$(1)/%: tests/c/%.c tests/c/check.h tests/c/json.h tests/abi/headers/$(1)/blaze.h | release onnxruntime
	@mkdir -p $$(@D)
	$$(CC) $$(STRICT) $$(CFLAGS) -Itests/abi/headers/$(1) $$< -o $$@ $$(LINK) -lpthread -ldl
endef
$(foreach header,$(OLDER_HEADERS),$(eval $(call older_test,$(header))))

.PHONY: abi-baseline
abi-baseline: ## keep this version's header, for later ones to be held against: when a version is tagged
	@version=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1); mkdir -p tests/abi/headers/$$version; \
	    cp -v include/blaze.h tests/abi/headers/$$version/
