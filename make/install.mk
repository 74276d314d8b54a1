# Installing: make install PREFIX=/usr/local [DESTDIR=…] [LIBDIR=…] [INCLUDEDIR=…]. See packaging/.

TESTS += test-install

PREFIX     ?= /usr/local
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
STRIP      ?= strip
VERSION    := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SHARED      = target/release/$(if $(filter Darwin,$(shell uname -s)),libblaze.dylib,libblaze.so)
STATIC      = target/static/libblaze.a

.PHONY: static-library
static-library: release # which makes both libraries
	@mkdir -p $(dir $(STATIC))
	@if ! test $(STATIC) -nt target/release/libblaze.a || ! test $(STATIC) -nt packaging/static_library.sh; then \
	    packaging/static_library.sh target/release/libblaze.a $(STATIC) tests/abi/symbols.txt; fi

.PHONY: install
install: static-library ## install into PREFIX (/usr/local), below DESTDIR
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) LIBDIR=$(LIBDIR) INCLUDEDIR=$(INCLUDEDIR) STRIP=$(STRIP) \
	    packaging/install.sh $(SHARED) $(STATIC)

.PHONY: uninstall
uninstall: ## remove what `make install` with the same directories has installed
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) LIBDIR=$(LIBDIR) INCLUDEDIR=$(INCLUDEDIR) REMOVE=1 packaging/install.sh - -

# CMake from PyPI, where the system has none.
CMAKE_FETCHED = $(CURDIR)/target/packaging-tools/cmake/data/bin/cmake

.PHONY: packaging-tools
packaging-tools:
	@command -v cmake > /dev/null || $(MAKE) --no-print-directory target/packaging-tools/.done

target/packaging-tools/.done: tools/requirements-packaging.txt
	@rm -rf $(@D)
	PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
	    --target $(@D) -r $<
	@touch $@

.PHONY: test-install
test-install: static-library onnxruntime packaging-tools ## install into an empty prefix, and build and run programs against it
	@echo "== install"
	@MAKE="$(MAKE)" CC="$(CC)" CXX="$(CXX)" ORT_DYLIB_PATH="$(ORT_LIB)" CMAKE="$(CMAKE_FETCHED)" packaging/tests/install.sh target/install-test
