// The throwing functions, where there are exceptions.
#include "check.hpp"

#if BLAZE_HAS_EXCEPTIONS
namespace {

template <class Call> blaze::status thrown_by(const Call &call) {
    try {
        call();
    } catch (const blaze::exception &why) {
        CHECK(std::string(why.what()).find(blaze::to_string(why.code())) == 0 && why.error().code == why.code());
        return why.code();
    }
    return blaze::status::ok;
}

void what_works_returns_its_value() {
    const blaze::engine engine = blaze::engine::create();
    const blaze::model model = engine.load(R"({"name": "mock", "backend": "mock"})");
    CHECK(engine.find("mock").id() == model.id() && !model.info().empty());
    const blaze::event answer = model.infer(blaze::tensor(one_to_four, {1, 4}));
    CHECK(is_answer(answer) && answer.values<float>(0)[1] == 5 && answer.output(0).values<float>().size() == 4);
    CHECK(is_answer(engine.infer(simple(model))) && is_answer(model.infer({blaze::tensor(one_to_four, {1, 4})})));
    blaze::queue queue = engine.queue(4);
    queue.submit(simple(model));
    blaze::event event;
    CHECK(queue.wait(event, patience) && is_answer(event) && queue.fd() >= 0);
    engine.load(R"({"name": "late", "backend": "mock"})", queue);
    CHECK(queue.wait(event, patience) && event.ok());
    const blaze::route route = engine.route(R"({"name": "r", "targets": [{"model": "mock"}]})");
    CHECK(is_answer(route.infer(blaze::tensor(one_to_four, {1, 4}))));
    route.add_target(R"({"model": "late"})");
    route.drain_target("late");
    route.remove_target("late");
    route.update(R"({"name": "r", "targets": [{"model": "late"}]})");
    route.remove();
    engine.tenant(R"({"id": 1})");
    engine.strategy("mine", [](const blaze::route_choice &) { return 0u; });
    engine.log(R"({"level": "off"})");
    engine.log_to({});
    engine.profile();
    engine.stop_profile();
    CHECK(!engine.profile_report().empty() && !engine.health_json().empty() && !engine.metrics_text().empty());
    CHECK(!engine.advice_json().empty() && !engine.tune_report().empty());
    model.configure(R"({"lanes": 2})");
    model.unload();
}

void what_fails_throws_its_error() {
    CHECK_STATUS(thrown_by([] { blaze::engine::create("{"); }), invalid_config);
    const blaze::engine engine = blaze::engine::create();
    const blaze::model model = load_mock(engine, "mock");
    CHECK_STATUS(thrown_by([&] { engine.find("other"); }), not_found);
    CHECK_STATUS(thrown_by([&] { engine.pump(); }), invalid_state);
    CHECK_STATUS(thrown_by([&] { engine.queue(0); }), invalid_argument);
    CHECK_STATUS(thrown_by([&] { model.infer(blaze::tensor(one_to_four, {4})); }), invalid_shape);
    CHECK_STATUS(thrown_by([&] { model.infer(blaze::tensor(one_to_four, {1, 4})).values<int>(0); }), invalid_dtype);
    CHECK_STATUS(thrown_by([&] { model.configure("[]"); }), invalid_config);
    CHECK_STATUS(thrown_by([&] { blaze::dispatcher::create(blaze::engine()); }), null_pointer);
}

void futures_throw_what_became_of_their_requests() {
    const blaze::engine engine = blaze::engine::create();
    const blaze::model model = load_mock(engine, "mock"), hangs = load_mock(engine, "hangs", HANGS ALONE);
    blaze::dispatcher dispatcher = blaze::dispatcher::create(engine);
    CHECK(is_answer(dispatcher.submit(simple(model)).get()));
    blaze::ticket id = 0;
    std::future<blaze::event> future = dispatcher.submit(simple(hangs), &id);
    CHECK(dispatcher.cancel(id));
    CHECK_STATUS(thrown_by([&] { future.get(); }), cancelled);
    CHECK_STATUS(thrown_by([&] { dispatcher.submit(blaze::request(model)); }), invalid_name);
    std::promise<bool> called;
    dispatcher.submit(simple(model), [&](blaze::response answer) { called.set_value(is_answer(std::move(answer).value_or(blaze::event()))); });
    CHECK(called.get_future().get());
    std::promise<blaze::model> loaded;
    dispatcher.load(R"({"name": "late", "backend": "mock"})",
                    [&](blaze::result<blaze::model> answer) { loaded.set_value(std::move(answer).value()); });
    still_works(loaded.get_future().get());
}

void what_a_function_of_the_programs_throws_stays_here() {
    const blaze::engine engine = blaze::engine::create(R"({"log": {"level": "debug", "target": "callback"}})");
    std::atomic<int> calls{0};
    engine.log_to([&](const blaze::log_record &) {
        calls++;
        throw 5;
    });
    const blaze::model a = load_mock(engine, "a");
    load_mock(engine, "b");
    CHECK(calls > 0);
    engine.log_to({});
    engine.strategy("throws", [](const blaze::route_choice &) -> std::uint32_t { throw 5; });
    const blaze::route route = engine.route(R"({"name": "r", "strategy": "throws", "targets": [{"model": "a"}, {"model": "b"}]})");
    CHECK(engine.infer(simple(route)).model_id() == a.id());
}

} // namespace

unsigned test_throwing(int argc, char **argv) {
    const test tests[] = {
        TEST(what_works_returns_its_value),
        TEST(what_fails_throws_its_error),
        TEST(futures_throw_what_became_of_their_requests),
        TEST(what_a_function_of_the_programs_throws_stays_here),
    };
    return run_tests("throwing", tests, argc, argv);
}
#else
unsigned test_throwing(int, char **) { return 0; }
#endif
