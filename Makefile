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
	$(CARGO) build --release --locked

EXAMPLES = $(patsubst examples-c/%.c,$(OUT)/%,$(wildcard examples-c/*.c))

.PHONY: examples
examples: $(EXAMPLES) ## build the C examples

$(OUT)/%: examples-c/%.c include/blaze.h | release onnxruntime
	@mkdir -p $(OUT)
	$(CC) $(STRICT) $(CFLAGS) -Iinclude $< -o $@ $(LINK)

.PHONY: header
header: ## write include/blaze.h anew
	BLAZE_UPDATE=1 $(CARGO) test --locked --test header
