# The Python bindings: their tests, and what a call through them costs.

TESTS += test-python test-docs-python

# Examples that compute with more than + and *.
$(OUT)/game_loop $(OUT)/classify: LINK += -lm

PYTHON_BINDINGS = PYTHONPATH=$(CURDIR)/target/python-bindings:$(CURDIR)/bindings/python PYTHONDONTWRITEBYTECODE=1 \
    BLAZE_LIBRARY=$(CURDIR)/target/release/$(if $(filter Darwin,$(shell uname -s)),libblaze.dylib,libblaze.so)

.PHONY: python-bindings
python-bindings: target/python-bindings/.done
target/python-bindings/.done: tools/requirements-python.txt
	@rm -rf target/python-bindings
	PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --require-hashes --target target/python-bindings -r $<
	@touch $@

.PHONY: test-python
test-python: release onnxruntime python-bindings ## test the Python bindings, and check their types
	$(PYTHON_BINDINGS) $(PYTHON) -m mypy --strict --cache-dir target/python-mypy --config-file bindings/python/pyproject.toml bindings/python/blaze
	$(PYTHON_BINDINGS) $(PYTHON) -m pytest -q -p no:cacheprovider -c bindings/python/pyproject.toml --rootdir bindings/python bindings/python/tests
	@mkdir -p $(OUT); echo "== bindings/python/examples/digits.py"; \
	    $(PYTHON_BINDINGS) $(PYTHON) bindings/python/examples/digits.py > $(OUT)/example.py.log 2>&1 \
	    || { cat $(OUT)/example.py.log; exit 1; }; tail -n 3 $(OUT)/example.py.log

.PHONY: test-docs-python
test-docs-python: release onnxruntime python-bindings ## run the guide's programs in Python
	@mkdir -p $(OUT); set -e; \
	if ! $(PYTHON_BINDINGS) $(PYTHON) -c 'import numpy' 2>/dev/null; then \
	    echo "there is no numpy for this Python: the guide's programs in Python are not run"; exit 0; fi; \
	$(call extract,python,target/python-docs); \
	for program in target/python-docs/*.py; do $(call run_program,$$program,$(PYTHON_BINDINGS) $(PYTHON) $$program); done

.PHONY: bench-python
bench-python: release onnxruntime python-bindings ## measure what a request through Python costs over one through C, 20 s
	@mkdir -p target/c
	$(CC) $(STRICT) -O2 -shared -fPIC -Iinclude benches/bindings/python/direct.c -o target/c/libdirect.so $(LINK)
	$(PYTHON_BINDINGS) $(PYTHON) benches/bindings/python/bench.py $(BENCH)
