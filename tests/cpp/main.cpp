// All suites in one program, which is compiled as one: the standard library's headers take longer than the tests.
//
// usage: main [SUITE|TEST ...]
#include "coroutines.cpp"
#include "dispatchers.cpp"
#include "engines.cpp"
#include "errors.cpp"
#include "handles.cpp"
#include "tensors.cpp"
#include "throwing.cpp"

/// In another file, so that the header is in two.
bool header_works_in_a_second_file(const blaze::engine &engine);

int main(int argc, char **argv) {
    CHECK(blaze::abi_matches());
    CHECK(header_works_in_a_second_file(new_engine()));
    const unsigned run = test_handles(argc, argv) + test_errors(argc, argv) + test_tensors(argc, argv) +
                         test_engines(argc, argv) + test_dispatchers(argc, argv) + test_throwing(argc, argv) +
                         test_coroutines(argc, argv);
    std::printf("C++%ld%s: %u tests, %u failed checks\n", (__cplusplus / 100) % 100,
                BLAZE_HAS_EXCEPTIONS ? "" : " without exceptions", run, check_failures.load());
    return check_failures == 0 && run > 0 ? 0 : 1;
}
