# What is given to others: make dist, make deb.

TESTS += test-packages

DIST = target/dist/blaze-$(VERSION)-linux-$(shell uname -m).tar.gz

.PHONY: dist
dist: static-library onnxruntime ## a tarball with ONNX Runtime, which runs after unpacking anywhere
	@mkdir -p $(dir $(DIST))
	@packaging/dist.sh $(SHARED) $(STATIC) $(ORT_DIR) $(DIST)

.PHONY: deb
deb: static-library ## Debian packages libblaze0 and libblaze-dev in target/deb
	@if command -v dpkg-deb > /dev/null; then packaging/deb.sh $(SHARED) $(STATIC) target/deb; \
	else echo "there is no dpkg-deb: the Debian packages are not made"; fi

.PHONY: test-packages
test-packages: dist deb ## unpack them, and build and run programs
	@echo "== packages"
	@MAKE="$(MAKE)" packaging/tests/dist.sh $(DIST) target/dist-test
	@if command -v dpkg-deb > /dev/null; then CC="$(CC)" ORT_DYLIB_PATH="$(ORT_LIB)" packaging/tests/deb.sh target/deb target/deb-test; fi
