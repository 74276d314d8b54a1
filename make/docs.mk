# The guide's programs, and the reference.
TESTS += test-docs

RECIPES = $(wildcard docs/cookbook/*.md)

.PHONY: test-docs
test-docs: test-docs-c test-docs-cpp ## check the guide's links, and build and run the guide's programs in C and C++; see test-docs-go, test-docs-python
	@$(PYTHON) tools/check_links.py

# Extracts a language's programs: $(call extract,LANGUAGE,DIRECTORY).
extract = rm -rf $(2); $(PYTHON) tools/extract_programs.py $(1) $(2) $(RECIPES)
# Runs a program, and shows its last line: $(call run_program,NAME,COMMAND).
run_program = echo "== $(1)"; $(2) > $(OUT)/guide.log 2>&1 || { cat $(OUT)/guide.log; exit 1; }; \
    tail -n 1 $(OUT)/guide.log | cut -c 1-160

.PHONY: test-docs-c
test-docs-c: include/blaze.h | release onnxruntime
	@mkdir -p $(OUT); set -e; $(call extract,c,$(OUT)/docs); \
	for source in $(OUT)/docs/*.c; do \
	    $(CC) $(STRICT) $(CFLAGS) -Iinclude $$source -o $${source%.c} $(LINK); $(call run_program,$${source%.c},$${source%.c}); done

.PHONY: test-docs-cpp
test-docs-cpp: $(CPP_HEADERS) | release onnxruntime
	@mkdir -p $(OUT); set -e; \
	if ! command -v $(CXX) >/dev/null; then echo "no C++ compiler: the guide's programs in C++ are not run"; exit 0; fi; \
	$(call extract,cpp,target/cpp/docs); \
	for source in target/cpp/docs/*.cpp; do \
	    $(CPP_BUILD) -std=c++17 -O1 $$source -o $${source%.cpp} $(CPP_LINK); $(call run_program,$${source%.cpp},$${source%.cpp}); done

.PHONY: docs
docs: ## the API's reference in target/docs/html, out of the header (needs doxygen); a warning is an error
	@command -v doxygen >/dev/null || { echo "doxygen is not installed (Debian: doxygen)"; exit 1; }
	@mkdir -p target/docs && doxygen docs/Doxyfile && echo "target/docs/html/index.html"
