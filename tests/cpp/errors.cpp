// Errors: every family, what they say, and results.
#include "check.hpp"

namespace {

template <class T> blaze::error why(const blaze::result<T> &result) { return result ? blaze::error{} : result.error(); }

void statuses_have_names_and_families() {
    using blaze::family;
    CHECK(std::string(blaze::to_string(blaze::status::queue_full)) == "QUEUE_FULL");
    CHECK(blaze::family_of(blaze::status::ok) == family::success);
    CHECK(blaze::family_of(blaze::status::invalid_dtype) == family::argument);
    CHECK(blaze::family_of(blaze::status::timeout) == family::state);
    CHECK(blaze::family_of(blaze::status::rate_limited) == family::capacity);
    CHECK(blaze::family_of(blaze::status::model_invalid) == family::model);
    CHECK(blaze::family_of(blaze::status::device_lost) == family::backend);
    CHECK(blaze::family_of(blaze::status::internal) == family::internal);
}

void a_wrong_argument_is_named() {
    const blaze::error config = why(blaze::engine::try_create(R"({"thread": 1})"));
    CHECK_STATUS(config.code, invalid_config);
    CHECK(config.message.find("thread") != std::string::npos);
    CHECK(config.to_string().find("INVALID_CONFIG: ") == 0);
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    const float four[4] = {1, 2, 3, 4};
    const double wide[4] = {1, 2, 3, 4};
    CHECK_STATUS(model.try_infer(blaze::tensor(wide, {1, 4})).code(), invalid_dtype);
    CHECK_STATUS(model.try_infer(blaze::tensor(four, {1, 5})).code(), invalid_shape);
    CHECK_STATUS(model.try_infer(blaze::tensor(four, {2, 4})).code(), invalid_size);
    CHECK_STATUS(model.try_infer(blaze::tensor(four, {1, 4}, "nobody")).code(), invalid_name);
    CHECK_STATUS(model.try_infer(blaze::tensor(four, {1, -4})).code(), invalid_shape);
    CHECK_STATUS(model.try_infer({}).code(), invalid_name);
    still_works(model);
}

void more_than_there_is_room_for_is_said() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    const float four[4] = {1, 2, 3, 4};
    const blaze::error axes = why(model.try_infer(blaze::tensor(four, {1, 1, 1, 1, 1, 1, 1, 1, 4})));
    CHECK_STATUS(axes.code, invalid_shape);
    CHECK(axes.message.find("max_inline") != std::string::npos);
    blaze::request work(model);
    for (std::size_t i = 0; i < blaze::max_inline; i++) work.input(four, {1, 4});
    CHECK_STATUS(engine.try_infer(work).code(), invalid_name); /* the library's own answer to too many */
    work.input(four, {1, 4});
    CHECK_STATUS(engine.try_infer(work).code(), unsupported);
    CHECK_STATUS(engine.try_infer(work.clear().input(four, {1, 4})).code(), ok);
    float out[4];
    for (std::size_t i = 0; i <= blaze::max_inline; i++) work.output(out);
    CHECK_STATUS(engine.try_queue(4)->try_submit(work).code(), unsupported);
}

void a_wrong_state_is_said() {
    const blaze::engine engine = new_engine();
    blaze::model model = load_mock(engine, "mock");
    CHECK_STATUS(engine.try_find("other").code(), not_found);
    CHECK_STATUS(engine.try_load(R"({"name": "mock", "backend": "mock", "lanes": 2})").code(), already_exists);
    CHECK_STATUS(engine.try_pump().code(), invalid_state);
    CHECK_STATUS(engine.try_stop_profile().code(), invalid_state);
    CHECK_STATUS(engine.try_rescan().code(), invalid_state);
    CHECK_STATUS(model.try_unload().code(), ok);
    CHECK_STATUS(model.try_unload().code(), not_found);
    CHECK_STATUS(engine.try_infer(simple(model)).code(), not_found);
    CHECK_STATUS(model.try_info().code(), not_found);
    CHECK_STATUS(model.try_configure("{}").code(), not_found);
    CHECK(!engine.cancel(12345));
    const blaze::model again = load_mock(engine, "mock", HANGS);
    CHECK_STATUS(engine.try_infer(simple(again), 20ms).code(), timeout);
    CHECK_STATUS(engine.try_infer(simple(again).within(20ms)).code(), expired);
    CHECK_STATUS(engine.try_infer(simple(again).deadline(blaze::clock::now() - 1s)).code(), expired);
    blaze::engine ended = new_engine();
    model = load_mock(ended, "mock");
    ended.shutdown();
    CHECK_STATUS(ended.try_infer(simple(model)).code(), shut_down);
    CHECK_STATUS(ended.try_load(R"({"name": "more", "backend": "mock"})").code(), shut_down);
}

void a_lack_of_room_is_said_and_when_to_try_again() {
    const blaze::engine engine = new_engine(R"({"queue": {"capacity": 64}})");
    const blaze::model slow = load_mock(engine, "slow", HANGS ALONE);
    blaze::queue queue = *engine.try_queue(1);
    const auto first = queue.try_submit(simple(slow));
    CHECK_STATUS(queue.try_submit(simple(slow)).code(), queue_full);
    CHECK(engine.cancel(*first));
    const blaze::model limited = load_mock(engine, "limited", R"(, "limits": {"requests_per_second": 0.01, "burst": 1})");
    still_works(limited);
    const blaze::error refused = why(engine.try_infer(simple(limited)));
    CHECK_STATUS(refused.code, rate_limited);
    CHECK(refused.retry_after > 1s && refused.retry_after <= 100s);
    float small[3];
    const blaze::model model = load_mock(engine, "mock");
    CHECK_STATUS(engine.try_infer(simple(model).output(small)).code(), buffer_too_small);
}

void a_bad_model_or_backend_is_said() {
    const blaze::engine engine = new_engine();
    CHECK_STATUS(engine.try_load(R"({"name": "a", "path": "nowhere.onnx"})").code(), model_not_found);
    CHECK_STATUS(engine.try_load(R"({"name": "b"})", "not a model", 11).code(), model_invalid);
    const blaze::model fails = load_mock(engine, "fails", R"(, "mock": {"faults": [{"kind": "error"}]}, "recovery": false)");
    const blaze::error run = why(engine.try_infer(simple(fails)));
    CHECK_STATUS(run.code, backend_failed);
    CHECK(run.message.find("injected fault") != std::string::npos);
    const auto provider = engine.try_load(R"({"name": "c", "path": "tests/models/tiny.onnx", "providers": ["cuda"]})");
    CHECK_STATUS(provider.code(), provider_unavailable);
    const auto library = blaze::engine::try_create(
        R"({"onnxruntime": {"library": "/nowhere/libonnxruntime.so"}, "models": [{"name": "t", "path": "tests/models/tiny.onnx"}]})");
    CHECK(!library && (library.code() == blaze::status::backend_unavailable || library.code() == blaze::status::invalid_state));
}

void a_result_is_a_value_or_an_error() {
    blaze::result<std::string> value = std::string("text");
    CHECK(value && value.has_value() && *value == "text" && value->size() == 4);
    CHECK_STATUS(value.code(), ok);
    CHECK(*std::move(value) == "text");
    blaze::result<std::string> none = blaze::error{blaze::status::busy, "why", 5ns};
    CHECK(!none && none.error().message == "why" && none.error().retry_after == 5ns);
    CHECK_STATUS(none.code(), busy);
    CHECK(std::move(none).value_or("else") == "else");
    const blaze::result<void> fine;
    CHECK(fine.has_value());
    CHECK_STATUS(fine.code(), ok);
    const blaze::result<void> not_fine = blaze::error{blaze::status::busy, "why", {}};
    CHECK(!not_fine && not_fine.error().message == "why");
}

} // namespace

unsigned test_errors(int argc, char **argv) {
    const test tests[] = {
        TEST(statuses_have_names_and_families),
        TEST(a_wrong_argument_is_named),
        TEST(more_than_there_is_room_for_is_said),
        TEST(a_wrong_state_is_said),
        TEST(a_lack_of_room_is_said_and_when_to_try_again),
        TEST(a_bad_model_or_backend_is_said),
        TEST(a_result_is_a_value_or_an_error),
    };
    return run_tests("errors", tests, argc, argv);
}
