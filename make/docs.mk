# The guide's programs, and the reference.
TESTS += test-docs

RECIPES = $(wildcard docs/cookbook/*.md)

.PHONY: test-docs
test-docs: include/blaze.h | release onnxruntime ## build and run every C program in the guide
	@$(PYTHON) tools/check_links.py
	@set -e; rm -rf $(OUT)/docs; $(PYTHON) tools/extract_programs.py $(OUT)/docs $(RECIPES); \
	for source in $(OUT)/docs/*.c; do \
	    $(CC) $(STRICT) $(CFLAGS) -Iinclude $$source -o $${source%.c} $(LINK); \
	    echo "== $${source%.c}"; $${source%.c} > $(OUT)/docs/output 2>&1 || { cat $(OUT)/docs/output; exit 1; }; \
	    tail -n 1 $(OUT)/docs/output | cut -c 1-160; done

.PHONY: docs
docs: ## the API's reference in target/docs/html, out of the header (needs doxygen); a warning is an error
	@command -v doxygen >/dev/null || { echo "doxygen is not installed (Debian: doxygen)"; exit 1; }
	@mkdir -p target/docs && doxygen docs/Doxyfile && echo "target/docs/html/index.html"
