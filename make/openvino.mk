# Intel's OpenVINO by way of ONNX Runtime, on this machine's processor. The library is another one: an 81 MiB download.

OPENVINO_ORT = $(CURDIR)/target/onnxruntime-openvino
TESTS += test-openvino

# Not test_providers, which another make may be building just now.
$(OUT)/openvino: tests/c/providers.c tests/c/check.h tests/c/json.h include/blaze.h | release
	@mkdir -p $(OUT)
	$(CC) $(STRICT) $(CFLAGS) -Iinclude $< -o $@ $(LINK) -lpthread -ldl

.PHONY: test-openvino
test-openvino: $(OUT)/openvino ## models on the CPU by OpenVINO
	@if test "$$(uname -sm)" = "Linux x86_64"; then \
	    $(PYTHON) tools/fetch_onnxruntime.py --package onnxruntime-openvino $(OPENVINO_ORT) && echo "== providers (OpenVINO)" && \
	    BLAZE_TEST_OPENVINO=1 ORT_DYLIB_PATH=$(OPENVINO_ORT)/lib/libonnxruntime.so $(OUT)/openvino; \
	else echo "there is no ONNX Runtime with OpenVINO for $$(uname -sm): OpenVINO is not tested"; fi
