# What is measured on a machine with a GPU: programs, and a script that runs them there. Here it runs with a fake driver.

TESTS += test-gpu-script

GPU_PROGRAMS = $(OUT)/gpu_model $(OUT)/gpu_direct $(OUT)/gpu_driver
GPU_ORT      = $(CURDIR)/target/onnxruntime-gpu
# For which GPUs ONNX Runtime's code is packed: see tools/gpu/pack.sh.
ARCHITECTURE ?= 90

$(OUT)/gpu_%: benches/gpu/%.c benches/gpu/gpu.h benches/gpu/cuda.h include/blaze.h | release
	@mkdir -p $(OUT)
	$(CC) -std=gnu11 -Wall -Wextra -Wshadow -Wconversion -Werror $(CFLAGS) -Iinclude $< -o $@ \
	    $(if $(filter model,$*),-Ltarget/release -lblaze -Wl$(comma)-rpath$(comma)'$$ORIGIN/../lib') -lpthread -ldl -lm

# What both build is built once.
ifneq ($(filter test,$(MAKECMDGOALS)),)
test-gpu-script: | test-cuda
endif

.PHONY: gpu-pack
gpu-pack: release cuda-plugin onnxruntime $(CUDA_HELPERS) $(GPU_PROGRAMS) ## pack what is to be measured on a machine with a GPU, with ONNX Runtime for it (fetched, 244 MiB), to target/gpu
	@$(PYTHON) tools/fetch_onnxruntime.py --package onnxruntime-gpu $(GPU_ORT)
	tools/gpu/pack.sh target/gpu $(GPU_ORT) $(ARCHITECTURE)
	@echo "there: python3 1/run.py"

.PHONY: test-gpu-script
test-gpu-script: release cuda-plugin onnxruntime $(CUDA_HELPERS) $(GPU_PROGRAMS) ## what is measured on GPUs runs here, with a fake driver
	@$(PYTHON) tools/gpu/test_run.py -q
	@if [ "$$(uname -s)" = Linux ]; then \
	    tools/gpu/pack.sh target/gpu-here && $(PYTHON) target/gpu-here/1/run.py --quick --out target/gpu-here/out > $(OUT)/gpu.log 2>&1 \
	    || { cat $(OUT)/gpu.log; exit 1; }; cat target/gpu-here/out/gpu.md; \
	else echo "the programs that measure GPUs are for Linux"; fi
