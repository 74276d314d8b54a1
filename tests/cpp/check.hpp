// A few lines of test framework, and the helpers that the C++ tests share. Works without exceptions and without RTTI.
//
// A test is a function whose name says what is so. A failed CHECK is printed and counted, and the test goes on; a failed
// REQUIRE ends the function that it is in.
#ifndef CHECK_HPP
#define CHECK_HPP

#include <blaze.hpp>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

/// Long enough for a slow machine under valgrind. Only a failing test ever waits this long.
inline constexpr std::chrono::nanoseconds patience = 60s;

inline std::atomic<unsigned> check_failures{0};

inline bool check_that(bool so, const char *what, const char *file, int line) {
    if (!so) {
        std::printf("  %s:%d: not so: %s\n", file, line, what);
        std::fflush(stdout);
        check_failures++;
    }
    return so;
}

inline bool check_status(blaze::status actual, blaze::status expected, const char *what, const char *file, int line) {
    if (actual != expected) {
        std::printf("  %s:%d: %s is %s, not %s\n", file, line, what, blaze::to_string(actual), blaze::to_string(expected));
        std::fflush(stdout);
        check_failures++;
    }
    return actual == expected;
}

#define CHECK(...) check_that(static_cast<bool>(__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define CHECK_STATUS(actual, expected) \
    check_status((actual), blaze::status::expected, #actual, __FILE__, __LINE__)
#define REQUIRE(...)                  \
    do {                              \
        if (!CHECK(__VA_ARGS__)) return; \
    } while (0)

struct test {
    const char *name;
    void (*run)();
};
#define TEST(name) {#name, name}

/// Runs those tests whose names are given, or all. Says how many have run.
inline unsigned run_tests(const char *suite, blaze::span<const test> tests, int argc, char **argv) {
    unsigned run = 0;
    for (const test &one : tests) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++) wanted = wanted || !std::strcmp(argv[i], one.name) || !std::strcmp(argv[i], suite);
        if (!wanted) continue;
        const unsigned before = check_failures;
        one.run();
        std::printf("%s %s: %s\n", check_failures == before ? "ok  " : "FAIL", suite, one.name);
        std::fflush(stdout);
        run++;
    }
    return run;
}

// ---- making things --------------------------------------------------------------------------------------------------

/// For mock models: every request runs alone.
#define ALONE R"(, "batching": {"max_rows": 1})"
/// For mock models: no run ends by itself.
#define HANGS R"(, "mock": {"faults": [{"kind": "hang"}]})"
/// For mock models: the first run does not end by itself.
#define HANGS_ONCE R"(, "mock": {"faults": [{"kind": "hang", "count": 1}]})"

inline blaze::engine new_engine(blaze::cstring config = nullptr) {
    blaze::result<blaze::engine> made = blaze::engine::try_create(config);
    if (!CHECK(made.has_value())) {
        std::printf("  %s\n", made.error().to_string().c_str());
        std::exit(1); /* nothing can be tested without one */
    }
    return *std::move(made);
}

/// A mock model: one input x and one output y = 2x + 1, both f32 [batch, 4].
inline blaze::model load_mock(const blaze::engine &engine, const std::string &name, const std::string &more = "") {
    blaze::result<blaze::model> made = engine.try_load(R"({"name": ")" + name + R"(", "backend": "mock")" + more + "}");
    if (!CHECK(made.has_value())) {
        std::printf("  %s\n", made.error().to_string().c_str());
        return {};
    }
    return *made;
}

inline blaze::model load_file(const blaze::engine &engine, const std::string &name) {
    blaze::result<blaze::model> made =
        engine.try_load(R"({"name": ")" + name + R"(", "path": "tests/models/)" + name + R"(.onnx"})");
    if (!CHECK(made.has_value())) {
        std::printf("  %s\n", made.error().to_string().c_str());
        return {};
    }
    return *made;
}

inline constexpr std::array<float, 4> one_to_four = {1, 2, 3, 4};

/// The simplest request for a mock model. Its answer is 3, 5, 7, 9.
inline blaze::request simple(const blaze::model &model) { return blaze::request(model).input(one_to_four, {1, 4}); }

/// The event has the answer to `simple`.
inline bool is_answer(const blaze::event &event) {
    const auto values = event.try_values<float>(0);
    return values && values->size() == 4 && (*values)[0] == 3 && (*values)[1] == 5 && (*values)[2] == 7 &&
           (*values)[3] == 9;
}

inline bool still_works(const blaze::model &model) {
    const blaze::response answer = model.try_infer(blaze::tensor(one_to_four, {1, 4}), patience);
    return CHECK(answer.has_value()) && CHECK(is_answer(*answer));
}

/// Waits until something is so, which another thread makes so. False if it takes too long.
template <class So> bool eventually(const So &so) {
    const auto until = blaze::clock::now() + patience;
    while (!so()) {
        if (blaze::clock::now() > until) return false;
        std::this_thread::sleep_for(1ms);
    }
    return true;
}

/// Returns when nothing is queued any more: what was submitted is inside the backend.
inline void until_running(const blaze::engine &engine) {
    CHECK(eventually([&] { return engine.health().queue_depth == 0; }));
    std::this_thread::sleep_for(20ms);
}

// ---- the suites, each in its file -----------------------------------------------------------------------------------

unsigned test_handles(int argc, char **argv);
unsigned test_errors(int argc, char **argv);
unsigned test_tensors(int argc, char **argv);
unsigned test_engines(int argc, char **argv);
unsigned test_dispatchers(int argc, char **argv);
unsigned test_throwing(int argc, char **argv);
unsigned test_coroutines(int argc, char **argv);

#endif
