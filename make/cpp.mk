# The C++ binding: its tests, its example, and what it costs over C.

TESTS += test-cpp

CPP_OUT     = target/cpp
CPP_STRICT  = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
CPP_HEADERS = include/blaze.h $(wildcard bindings/cpp/*.hpp bindings/cpp/blaze/*.hpp)
CPP_TESTS   = $(wildcard tests/cpp/*)
CPP_BUILD   = $(CXX) $(CPP_STRICT) -Iinclude -Ibindings/cpp
CPP_LINK    = $(LINK) -lpthread

# How the tests are built: name and flags. Optimized once, for what the compiler warns of only then.
CPP_FLAGS_cpp17 = -std=c++17 -O1 -g
CPP_FLAGS_cpp20 = -std=c++20 -O0 -g
CPP_FLAGS_bare  = -std=c++17 -O0 -g -fno-exceptions -fno-rtti
CPP_FLAGS_asan  = -std=c++20 -O0 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all

.PHONY: test-cpp
test-cpp: ## run the C++ tests: C++17, C++20, without exceptions, with sanitizers, under valgrind; and the example
	@if ! command -v $(CXX) >/dev/null; then echo "no C++ compiler: the C++ binding is not tested"; \
	else $(MAKE) --no-print-directory test-cpp-all; fi

.PHONY: test-cpp-all
test-cpp-all: release onnxruntime
	@$(MAKE) --no-print-directory -j2 cpp-programs
	@set -e; for test in cpp17 cpp20 bare asan; do \
	    if [ -x $(CPP_OUT)/test_$$test ]; then echo "== C++ ($$test)"; \
	        $(CPP_OUT)/test_$$test > $(CPP_OUT)/test.log || { cat $(CPP_OUT)/test.log; exit 1; }; tail -n 1 $(CPP_OUT)/test.log; \
	    else echo "the compiler has no sanitizers: the C++ tests are not run under them"; fi; done
	@if ! command -v valgrind >/dev/null; then echo "valgrind is not installed: the C++ tests are not run under it"; else \
	    echo "== C++ (valgrind)"; \
	    valgrind -q --fair-sched=try --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite \
	        --show-leak-kinds=definite --suppressions=tests/c/valgrind.supp $(CPP_OUT)/test_cpp17 handles dispatchers \
        > $(CPP_OUT)/test.log 2>&1 \
	        || { cat $(CPP_OUT)/test.log; exit 1; }; tail -n 1 $(CPP_OUT)/test.log; fi
	@echo "== $(CPP_OUT)/thread_pool"
	@$(CPP_OUT)/thread_pool > $(CPP_OUT)/test.log 2>&1 || { cat $(CPP_OUT)/test.log; exit 1; }; tail -n 2 $(CPP_OUT)/test.log

.PHONY: cpp-programs
cpp-programs: $(patsubst %,$(CPP_OUT)/test_%,cpp17 cpp20 bare) cpp-asan $(CPP_OUT)/thread_pool $(CPP_OUT)/bare20.o

$(CPP_OUT)/test_%: $(CPP_TESTS) $(CPP_HEADERS)
	@mkdir -p $(CPP_OUT)
	$(CPP_BUILD) $(CPP_FLAGS_$*) tests/cpp/main.cpp tests/cpp/second.cpp -o $@ $(CPP_LINK)

$(CPP_OUT)/bare20.o: tests/cpp/second.cpp $(CPP_HEADERS)
	@mkdir -p $(CPP_OUT)
	$(CPP_BUILD) -std=c++20 -O2 -fno-exceptions -fno-rtti -c $< -o $@

.PHONY: cpp-asan
cpp-asan:
	@mkdir -p $(CPP_OUT)
	@echo 'int main() { return 0; }' > $(CPP_OUT)/probe.cpp; \
	if $(CXX) -fsanitize=address,undefined $(CPP_OUT)/probe.cpp -o $(CPP_OUT)/probe 2>/dev/null && $(CPP_OUT)/probe; then \
	    $(MAKE) --no-print-directory $(CPP_OUT)/test_asan; fi

$(CPP_OUT)/thread_pool: examples-c/thread_pool.cpp $(CPP_HEADERS)
	@mkdir -p $(CPP_OUT)
	$(CPP_BUILD) -std=c++17 -O2 -g $< -o $@ $(CPP_LINK)

$(CPP_OUT)/overhead: benches/bindings/overhead.cpp $(CPP_HEADERS) | release onnxruntime
	@mkdir -p $(CPP_OUT)
	$(CPP_BUILD) -std=c++17 -O2 $< -o $@ $(CPP_LINK)

.PHONY: bench-cpp
bench-cpp: $(CPP_OUT)/overhead ## what a request costs from C++ over C, 20 s; BENCH=--quick
	$(CPP_OUT)/overhead $(BENCH)
