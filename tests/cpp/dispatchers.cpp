// Dispatchers: callbacks, futures, operations, with a thread and polled; cancellation, deadlines, and their end.
#include "check.hpp"

namespace {

using blaze::dispatcher;
using blaze::response;
using blaze::status;

void a_callback_gets_the_answer() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_create(engine);
    std::promise<response> answered;
    const auto kept = std::make_unique<int>(7); /* what a callback captures may be move-only */
    const auto id = dispatcher.try_submit(simple(model), [&answered, own = std::make_unique<int>(*kept)](response answer) {
        if (*own == 7) answered.set_value(std::move(answer));
    });
    CHECK(id && *id != 0);
    const response answer = answered.get_future().get();
    CHECK(answer && is_answer(*answer) && answer->id() == *id);
    CHECK(eventually([&] { return dispatcher.in_flight() == 0; }));
}

void a_large_callback_has_room_too() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_create(engine);
    std::array<char, 1000> much = {};
    much[999] = 5;
    std::promise<char> answered;
    CHECK(dispatcher.try_submit(simple(model), [&answered, much](response &&) { answered.set_value(much[999]); }));
    CHECK(answered.get_future().get() == 5);
}

void a_future_has_the_answer() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_create(engine);
    std::vector<std::future<response>> futures;
    for (int i = 0; i < 100; i++) {
        auto future = dispatcher.try_submit(simple(model));
        REQUIRE(future.has_value());
        futures.push_back(*std::move(future));
    }
    for (auto &future : futures) {
        const response answer = future.get();
        CHECK(answer && is_answer(*answer));
    }
}

/// An operation that the program keeps itself.
struct counting : blaze::operation {
    void complete(response &&answer) noexcept override {
        good = answer && is_answer(*answer);
        completed++;
    }
    void progress(const blaze::event &) noexcept override { steps++; }
    bool good = false;
    std::atomic<int> completed{0}, steps{0};
};

void an_operation_of_the_callers_is_completed() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_create(engine);
    counting operation, load;
    for (int i = 1; i <= 10; i++) {
        CHECK_STATUS(dispatcher.try_submit(simple(model), operation).code(), ok);
        CHECK(eventually([&] { return operation.completed == i; }));
        CHECK(operation.good);
    }
    CHECK_STATUS(dispatcher.try_load(R"({"name": "late", "backend": "mock", "progress": true})", load).code(), ok);
    CHECK(eventually([&] { return load.completed == 1; }));
    CHECK(load.steps > 0);
}

void a_callback_may_submit() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_create(engine, 1); /* has room again when the callback runs */
    std::promise<void> over;
    struct again {
        blaze::dispatcher *dispatcher;
        blaze::model model;
        std::promise<void> *over;
        int left;
        void operator()(response &&answer) {
            CHECK(answer.has_value());
            if (left == 0) return over->set_value();
            CHECK_STATUS(dispatcher->try_submit(simple(model), again{dispatcher, model, over, left - 1}).code(), ok);
        }
    };
    CHECK(dispatcher.try_submit(simple(model), again{&dispatcher, model, &over, 100}));
    CHECK(over.get_future().wait_for(patience) == std::future_status::ready);
}

void many_threads_may_submit() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_create(engine, 64);
    std::atomic<int> good{0}, full{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&] {
            for (int i = 0; i < 500;) {
                const auto id =
                    dispatcher.try_submit(simple(model), [&](response answer) { good += answer && is_answer(*answer); });
                if (id) i++;
                else if (id.code() == status::queue_full) full++, std::this_thread::yield();
                else CHECK(false);
            }
        });
    }
    for (std::thread &thread : threads) thread.join();
    CHECK(eventually([&] { return good == 2000; }));
    CHECK(eventually([&] { return dispatcher.in_flight() == 0; }));
}

void what_is_refused_is_not_completed() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_create(engine);
    int calls = 0;
    const float three[3] = {};
    auto alive = std::make_shared<int>(0);
    const blaze::request wrong = blaze::request(model).input(three, {1, 3});
    CHECK_STATUS(dispatcher.try_submit(wrong, [&calls, alive](response) { calls++; }).code(), invalid_shape);
    CHECK(alive.use_count() == 1 && dispatcher.in_flight() == 0); /* the callback is gone */
    CHECK_STATUS(dispatcher.try_submit(wrong).code(), invalid_shape);
    CHECK_STATUS(dispatcher.try_load("{}", [&](blaze::result<blaze::model>) { calls++; }).code(), invalid_config);
    CHECK(calls == 0);
    CHECK_STATUS(dispatcher::try_create(engine, 0).code(), invalid_argument);
}

void a_model_is_loaded_in_the_background() {
    const blaze::engine engine = new_engine();
    dispatcher dispatcher = *dispatcher::try_create(engine);
    std::promise<blaze::result<blaze::model>> good, bad;
    CHECK(dispatcher.try_load(R"({"name": "m", "path": "tests/models/tiny.onnx"})",
                              [&](blaze::result<blaze::model> model) { good.set_value(std::move(model)); }));
    CHECK(dispatcher.try_load(R"({"name": "n", "path": "tests/models/none.onnx"})",
                              [&](blaze::result<blaze::model> model) { bad.set_value(std::move(model)); }));
    const auto model = good.get_future().get();
    if (!model) std::printf("  %s\n", model.error().to_string().c_str());
    REQUIRE(model.has_value());
    CHECK_STATUS(model->try_infer(blaze::tensor(one_to_four, {1, 4})).code(), ok);
    const auto none = bad.get_future().get();
    CHECK_STATUS(none.code(), model_not_found);
    CHECK(!none && none.error().message.find("none.onnx") != std::string::npos);
}

void a_cancelled_request_completes_as_such() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock", HANGS ALONE);
    dispatcher dispatcher = *dispatcher::try_create(engine);
    blaze::ticket id = 0;
    auto future = dispatcher.try_submit(simple(model), &id);
    REQUIRE(future && id != 0);
    until_running(engine);
    CHECK(dispatcher.cancel(id));
    CHECK_STATUS(future->get().code(), cancelled);
    CHECK(!dispatcher.cancel(id));
    auto late = dispatcher.try_submit(simple(model).within(20ms));
    CHECK_STATUS(late->get().code(), expired);
}

/// It would otherwise complete while the backend still reads what the caller then frees.
void lent_memory_is_back_when_a_request_completes() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock", HANGS ALONE);
    dispatcher dispatcher = *dispatcher::try_create(engine);
    for (int i = 0; i < 20; i++) {
        auto input = std::make_unique<std::array<float, 4>>(one_to_four), output = std::make_unique<std::array<float, 4>>();
        blaze::ticket id = 0;
        auto future = dispatcher.try_submit(blaze::request(model).input(*input, {1, 4}).output(*output).borrow(), &id);
        REQUIRE(future.has_value());
        if (i % 2) until_running(engine);
        CHECK(dispatcher.cancel(id));
        CHECK_STATUS(future->get().code(), cancelled);
        input.reset();
        output.reset();
    }
    CHECK(eventually([&] { return dispatcher.in_flight() == 0; }));
}

void destroying_a_dispatcher_completes_what_is_under_way() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock", HANGS ALONE);
    for (int polled = 0; polled < 2; polled++) {
        int cancelled = 0;
        std::future<response> future;
        {
            dispatcher dispatcher = polled ? *dispatcher::try_polled(engine) : *dispatcher::try_create(engine);
            for (int i = 0; i < 10; i++)
                CHECK(dispatcher.try_submit(simple(model).borrow(i % 2 == 0), [&](response answer) {
                    cancelled += answer.code() == status::cancelled;
                }));
            future = *dispatcher.try_submit(simple(model));
        }
        CHECK(cancelled == 10);
        CHECK(future.wait_for(0s) == std::future_status::ready);
        CHECK_STATUS(future.get().code(), cancelled);
    }
    CHECK(engine.health().in_flight == 0);
}

void a_callback_of_a_dying_dispatcher_cannot_submit() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock", HANGS ALONE);
    status code = status::ok;
    {
        dispatcher dispatcher = *dispatcher::try_create(engine);
        CHECK(dispatcher.try_submit(simple(model), [&](response) {
            code = dispatcher.try_submit(simple(model), [](response) {}).code();
        }));
    }
    CHECK_STATUS(code, shut_down);
}

void a_callback_may_destroy_its_dispatcher() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    const blaze::model hangs = load_mock(engine, "hangs", HANGS ALONE);
    for (int polled = 0; polled < 2; polled++) {
        auto owned = std::make_unique<dispatcher>(*(polled ? dispatcher::try_polled(engine) : dispatcher::try_create(engine)));
        dispatcher *dispatcher = owned.get();
        std::promise<status> destroyed, other;
        CHECK(dispatcher->try_submit(simple(hangs), [&](response answer) { other.set_value(answer.code()); }));
        CHECK(dispatcher->try_submit(simple(model), [&, mine = std::move(owned)](response answer) mutable {
            mine.reset();
            destroyed.set_value(answer.code());
        }));
        auto done = destroyed.get_future();
        if (polled) CHECK(eventually([&] { return dispatcher->poll() > 0; }));
        CHECK_STATUS(done.get(), ok);
        CHECK_STATUS(other.get_future().get(), cancelled);
    }
}

void a_dispatcher_outlives_the_engines_shutdown() {
    blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock", HANGS ALONE);
    dispatcher dispatcher = *dispatcher::try_create(engine);
    auto future = dispatcher.try_submit(simple(model));
    engine.shutdown();
    CHECK_STATUS(future->get().code(), shut_down);
    CHECK_STATUS(dispatcher.try_submit(simple(model)).code(), shut_down);
    engine = blaze::engine();
}

void a_polled_dispatcher_completes_on_the_thread_that_polls() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_polled(engine);
    int calls = 0, elsewhere = 0;
    const std::thread::id here = std::this_thread::get_id();
    for (int i = 0; i < 20; i++)
        CHECK(dispatcher.try_submit(simple(model), [&](response answer) {
            calls += answer.has_value();
            elsewhere += std::this_thread::get_id() != here;
        }));
    std::this_thread::sleep_for(20ms);
    CHECK(calls == 0 && dispatcher.in_flight() == 20);
    std::size_t taken = 0;
    CHECK(eventually([&] { return (taken += dispatcher.poll()) == 20; }));
    CHECK(calls == 20 && elsewhere == 0 && dispatcher.in_flight() == 0 && dispatcher.poll() == 0);
}

void a_poll_ends_with_its_budget_but_gets_on() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_polled(engine);
    int calls = 0;
    for (int i = 0; i < 10; i++) CHECK(dispatcher.try_submit(simple(model), [&](response) { calls++; }));
    CHECK(eventually([&] { return engine.metrics().events_waiting == 10; }));
    CHECK(dispatcher.poll(0ns) == 1 && calls == 1);
    CHECK(dispatcher.poll(0ns) == 1 && calls == 2);
    CHECK(dispatcher.poll(patience) == 8 && calls == 10);
    for (int i = 0; i < 3; i++) CHECK(dispatcher.try_submit(simple(model), [&](response) { calls++, dispatcher.poll(); }));
    CHECK(eventually([&] { return dispatcher.poll(), calls == 13; })); /* a callback may poll */
    for (int i = 0; i < 3; i++) CHECK(dispatcher.try_submit(simple(model), [&](response) { calls++; }));
    CHECK(eventually([&] { return engine.metrics().events_waiting == 3; }));
    CHECK(dispatcher.poll(0ns) == 1); /* two are taken out of the queue, and complete when it is destroyed */
    dispatcher = blaze::dispatcher();
    CHECK(calls == 16);
}

void an_engine_without_threads_is_pumped_and_polled() {
    const blaze::engine engine = new_engine(R"({"threads": 0})");
    const blaze::model model = load_mock(engine, "mock");
    dispatcher dispatcher = *dispatcher::try_polled(engine);
    int calls = 0;
    CHECK(dispatcher.try_submit(simple(model), [&](response answer) { calls += answer && is_answer(*answer); }));
    CHECK(dispatcher.poll() == 0);
    CHECK(*engine.try_pump(patience) == 1);
    CHECK(dispatcher.poll() == 1 && calls == 1);
    CHECK(dispatcher.try_submit(simple(model), [&](response) { calls++; }));
    dispatcher = blaze::dispatcher(); /* pumps until it has ended */
    CHECK(calls == 2);
}

} // namespace

unsigned test_dispatchers(int argc, char **argv) {
    const test tests[] = {
        TEST(a_callback_gets_the_answer),
        TEST(a_large_callback_has_room_too),
        TEST(a_future_has_the_answer),
        TEST(an_operation_of_the_callers_is_completed),
        TEST(a_callback_may_submit),
        TEST(many_threads_may_submit),
        TEST(what_is_refused_is_not_completed),
        TEST(a_model_is_loaded_in_the_background),
        TEST(a_cancelled_request_completes_as_such),
        TEST(lent_memory_is_back_when_a_request_completes),
        TEST(destroying_a_dispatcher_completes_what_is_under_way),
        TEST(a_callback_of_a_dying_dispatcher_cannot_submit),
        TEST(a_callback_may_destroy_its_dispatcher),
        TEST(a_dispatcher_outlives_the_engines_shutdown),
        TEST(a_polled_dispatcher_completes_on_the_thread_that_polls),
        TEST(a_poll_ends_with_its_budget_but_gets_on),
        TEST(an_engine_without_threads_is_pumped_and_polled),
    };
    return run_tests("dispatchers", tests, argc, argv);
}
