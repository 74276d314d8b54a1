// Handles: who owns what, moves, and any order of destruction.
#include "check.hpp"

namespace {

template <class T> constexpr bool move_only =
    std::is_nothrow_move_constructible_v<T> && std::is_move_assignable_v<T> && !std::is_copy_constructible_v<T> &&
    !std::is_copy_assignable_v<T> && std::is_nothrow_default_constructible_v<T>;
static_assert(move_only<blaze::engine> && move_only<blaze::queue> && move_only<blaze::event>);
static_assert(std::is_move_constructible_v<blaze::dispatcher> && !std::is_copy_constructible_v<blaze::dispatcher>);
static_assert(std::is_copy_constructible_v<blaze::model> && std::is_copy_constructible_v<blaze::request>);
static_assert(std::is_trivially_copyable_v<blaze::tensor> && std::is_trivially_copyable_v<blaze::tensor_view>);
static_assert(!std::is_convertible_v<std::uint64_t, blaze::model>);

void what_is_empty_does_no_harm() {
    const blaze::engine engine;
    CHECK(!engine && engine.c() == nullptr);
    CHECK_STATUS(engine.try_load("{}").code(), null_pointer);
    CHECK_STATUS(engine.try_find("x").code(), null_pointer);
    CHECK_STATUS(engine.try_queue(1).code(), null_pointer);
    CHECK_STATUS(engine.try_pump().code(), null_pointer);
    CHECK_STATUS(engine.try_health_json().code(), null_pointer);
    CHECK_STATUS(engine.try_profile().code(), null_pointer);
    CHECK_STATUS(engine.try_log_to({}).code(), null_pointer);
    CHECK_STATUS(engine.try_strategy("s", {}).code(), null_pointer);
    CHECK_STATUS(engine.try_infer(blaze::request(blaze_model{1})).code(), null_pointer);
    CHECK(!engine.cancel(1));
    CHECK(engine.health().state == 0 && engine.metrics().batches == 0);
    engine.trim();
    engine.set_budget(5);
    blaze::queue queue;
    blaze::event event;
    CHECK(!queue.poll(event) && !queue.wait(event, 1s) && queue.poll(blaze::span<blaze::event>()) == 0);
    queue.wake();
    CHECK_STATUS(queue.try_fd().code(), null_pointer);
    CHECK_STATUS(queue.try_submit(blaze::request(blaze_model{1})).code(), null_pointer);
    CHECK_STATUS(blaze::model().try_info().code(), null_pointer);
    CHECK_STATUS(blaze::model().try_unload().code(), null_pointer);
    blaze::dispatcher dispatcher;
    CHECK(dispatcher.poll() == 0 && dispatcher.in_flight() == 0 && !dispatcher.cancel(1));
    CHECK_STATUS(dispatcher.try_submit(blaze::request(blaze_model{1})).code(), null_pointer);
    event.release();
    CHECK_STATUS(event.try_output(0).code(), not_found);
}

void a_move_takes_everything_along() {
    blaze::engine first = new_engine();
    blaze_engine *handle = first.c();
    blaze::engine engine = std::move(first);
    CHECK(engine.c() == handle && first.c() == nullptr);
    first = std::move(engine);
    engine = std::move(first);
    engine = new_engine(); /* the one before is destroyed */
    const blaze::model model = load_mock(engine, "mock");

    blaze::queue made = *engine.try_queue(8);
    blaze::queue queue = std::move(made);
    CHECK(made.c() == nullptr && queue.c() != nullptr);
    CHECK_STATUS(queue.try_submit(simple(model).user_data(7)).code(), ok);
    blaze::event event;
    REQUIRE(queue.wait(event, patience));
    blaze::event other = std::move(event);
    CHECK(other.user_data() == 7 && is_answer(other) && event.outputs_count() == 0);
    CHECK_STATUS(event.try_output(0).code(), not_found);
    event = std::move(other);
    CHECK(is_answer(event));
    blaze::event &itself = event;
    event = std::move(itself);
    CHECK(is_answer(event));

    blaze::dispatcher dispatcher = *blaze::dispatcher::try_create(engine);
    auto future = dispatcher.try_submit(simple(model));
    blaze::dispatcher moved = std::move(dispatcher);
    REQUIRE(future.has_value());
    CHECK(is_answer(*future->get()));
    moved = *blaze::dispatcher::try_create(engine); /* ends the thread of the one before */
    CHECK(is_answer(*moved.try_submit(simple(model))->get()));
}

void an_engine_lives_as_long_as_anything_of_it() {
    blaze::model model;
    blaze::queue queue;
    blaze::dispatcher dispatcher;
    {
        const blaze::engine engine = new_engine();
        model = load_mock(engine, "mock");
        queue = *engine.try_queue(8);
        dispatcher = *blaze::dispatcher::try_create(engine);
    }
    still_works(model);
    blaze::event event;
    CHECK_STATUS(queue.try_submit(simple(model)).code(), ok);
    CHECK(queue.wait(event, patience) && is_answer(event));
    CHECK(is_answer(*dispatcher.try_submit(simple(model))->get()));
    model = blaze::model();
    dispatcher = blaze::dispatcher();
    CHECK(queue.try_fd().has_value());
    queue = blaze::queue();
    CHECK(is_answer(event)); /* the engine is gone, the event is not */
}

/// Engine, queue, dispatcher and event, destroyed in every order there is, with work under way.
void every_order_of_destruction_is_fine() {
    std::array<int, 4> order = {0, 1, 2, 3};
    do {
        auto engine = std::make_unique<blaze::engine>(new_engine(R"({"threads": 1})"));
        const blaze::model model = load_mock(*engine, "mock", ALONE);
        auto queue = std::make_unique<blaze::queue>(*engine->try_queue(8));
        auto dispatcher = std::make_unique<blaze::dispatcher>(*blaze::dispatcher::try_create(*engine, 8));
        auto event = std::make_unique<blaze::event>(*model.try_infer(blaze::tensor(one_to_four, {1, 4})));
        std::atomic<int> answers{0};
        for (int i = 0; i < 3; i++) {
            CHECK_STATUS(queue->try_submit(simple(model)).code(), ok);
            CHECK_STATUS(dispatcher->try_submit(simple(model), [&](blaze::response) { answers++; }).code(), ok);
        }
        for (const int one : order) {
            if (one == 0) engine.reset();
            if (one == 1) queue.reset();
            if (one == 2) dispatcher.reset();
            if (one == 3) event.reset();
        }
        CHECK(answers == 3);
    } while (std::next_permutation(order.begin(), order.end()));
}

void a_queue_may_go_while_requests_are_to_complete_in_it() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock", HANGS ALONE);
    for (int i = 0; i < 20; i++) { /* abandoned ones do not pile up: what ends is destroyed */
        blaze::queue queue = *engine.try_queue(4);
        const auto hanging = queue.try_submit(simple(model));
        REQUIRE(hanging.has_value());
        CHECK(engine.cancel(*hanging) || i < 0);
    }
    blaze::queue last = *engine.try_queue(4);
    CHECK_STATUS(last.try_submit(simple(model)).code(), ok);
    last = blaze::queue();
    CHECK(engine.health().in_flight == 1);
}

void an_event_is_one_of_the_librarys_and_gives_back_what_it_holds() {
    const blaze::engine engine = new_engine(R"({"queue": {"capacity": 2}})"); /* alive until their event is released */
    const blaze::model model = load_mock(engine, "mock");
    blaze::queue queue = *engine.try_queue(2);
    blaze::event events[2];
    for (int round = 0; round < 50; round++) { /* would be full if an event were not released by the next wait */
        CHECK_STATUS(queue.try_submit(simple(model)).code(), ok);
        REQUIRE(queue.wait(events, patience) == 1);
        CHECK(is_answer(events[0]));
    }
    CHECK_STATUS(queue.try_submit(simple(model)).code(), ok);
    CHECK_STATUS(queue.try_submit(simple(model)).code(), queue_full);
    events[0].release();
    events[0].release();
    std::vector<blaze::event> kept;
    kept.emplace_back();
    CHECK(queue.wait(kept.back(), patience));
    for (int i = 0; i < 20; i++) kept.emplace_back(); /* moves it */
    CHECK(is_answer(kept.front()));
}

void a_queue_wakes_whoever_waits() {
    const blaze::engine engine = new_engine();
    blaze::queue queue = *engine.try_queue(4);
    queue.wake();
    blaze::event event;
    CHECK(!queue.wait(event)); /* for ever, were it not for that */
    std::thread waker([&] { queue.wake(); });
    CHECK(!queue.wait(event));
    waker.join();
}

} // namespace

unsigned test_handles(int argc, char **argv) {
    const test tests[] = {
        TEST(what_is_empty_does_no_harm),
        TEST(a_move_takes_everything_along),
        TEST(an_engine_lives_as_long_as_anything_of_it),
        TEST(every_order_of_destruction_is_fine),
        TEST(a_queue_may_go_while_requests_are_to_complete_in_it),
        TEST(an_event_is_one_of_the_librarys_and_gives_back_what_it_holds),
        TEST(a_queue_wakes_whoever_waits),
    };
    return run_tests("handles", tests, argc, argv);
}
