// Coroutines, where there are any.
#include "check.hpp"

#if BLAZE_HAS_COROUTINES
namespace {

/// A coroutine that begins at once, and that nobody waits for. What it throws is a failed check.
struct task {
    struct promise_type {
        task get_return_object() noexcept { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() noexcept {}
        void unhandled_exception() noexcept { CHECK(!"a coroutine has thrown"); }
    };
};

task ask(blaze::dispatcher &on, blaze::model model, int times, std::promise<int> &over) {
    int good = 0;
    std::array<float, 4> kept = one_to_four; /* in the coroutine's own frame */
    const blaze::request work = blaze::request(model).input(kept, {1, 4}).borrow();
    for (int i = 0; i < times; i++) {
        const blaze::response answer = co_await on.try_run(work);
        good += answer && is_answer(*answer);
    }
    over.set_value(good);
}

void a_coroutine_awaits_answers() {
    const blaze::engine engine = new_engine();
    blaze::dispatcher dispatcher = *blaze::dispatcher::try_create(engine);
    std::promise<int> over;
    ask(dispatcher, load_mock(engine, "mock"), 100, over);
    CHECK(over.get_future().get() == 100);
}

task be_refused(blaze::dispatcher &on, blaze::model model, blaze::status &code, blaze::status &nowhere) {
    const blaze::request wrong(model);
    code = (co_await on.try_run(wrong)).code();
    blaze::dispatcher none;
    nowhere = (co_await none.try_run(wrong)).code();
}

void what_is_refused_does_not_suspend() {
    const blaze::engine engine = new_engine();
    blaze::dispatcher dispatcher = *blaze::dispatcher::try_polled(engine);
    blaze::status code = blaze::status::ok, nowhere = blaze::status::ok;
    be_refused(dispatcher, load_mock(engine, "mock"), code, nowhere);
    CHECK_STATUS(code, invalid_name);
    CHECK_STATUS(nowhere, null_pointer);
}

task live(blaze::dispatcher &on, int &over) {
    const blaze::result<blaze::model> loaded = co_await on.try_bring(R"({"name": "other", "backend": "mock"})");
    CHECK(loaded.has_value());
    for (int i = 0; i < 10; i++) {
        const blaze::response answer = co_await on.try_run(simple(*loaded));
        CHECK(answer && is_answer(*answer));
    }
    over++;
}

void a_game_polls_its_coroutines() {
    const blaze::engine engine = new_engine();
    blaze::dispatcher dispatcher = *blaze::dispatcher::try_polled(engine);
    int over = 0;
    for (int i = 0; i < 20; i++) live(dispatcher, over);
    CHECK(over == 0);
    CHECK(eventually([&] { return dispatcher.poll(1ms), over == 20; }));
}

task hang(blaze::dispatcher &on, blaze::model model, int &cancelled) {
    const blaze::response answer = co_await on.try_run(simple(model));
    cancelled += answer.code() == blaze::status::cancelled;
}

void coroutines_end_with_their_dispatcher() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock", HANGS ALONE);
    int cancelled = 0;
    {
        blaze::dispatcher dispatcher = *blaze::dispatcher::try_create(engine);
        for (int i = 0; i < 5; i++) hang(dispatcher, model, cancelled);
    }
    CHECK(cancelled == 5);
}

#if BLAZE_HAS_EXCEPTIONS
task expire(blaze::dispatcher &on, std::promise<blaze::status> &over) {
    const blaze::model model = co_await on.bring(R"({"name": "m", "backend": "mock"})");
    CHECK(is_answer(co_await on.run(simple(model))));
    blaze::status code = blaze::status::ok;
    try {
        co_await on.run(simple(model).within(-1s));
    } catch (const blaze::exception &why) {
        code = why.code();
    }
    over.set_value(code);
}

void a_coroutine_catches_what_is_thrown() {
    const blaze::engine engine = new_engine();
    blaze::dispatcher dispatcher = blaze::dispatcher::create(engine);
    std::promise<blaze::status> over;
    expire(dispatcher, over);
    CHECK_STATUS(over.get_future().get(), expired);
}
#endif

} // namespace

unsigned test_coroutines(int argc, char **argv) {
    const test tests[] = {
        TEST(a_coroutine_awaits_answers),
        TEST(what_is_refused_does_not_suspend),
        TEST(a_game_polls_its_coroutines),
        TEST(coroutines_end_with_their_dispatcher),
#if BLAZE_HAS_EXCEPTIONS
        TEST(a_coroutine_catches_what_is_thrown),
#endif
    };
    return run_tests("coroutines", tests, argc, argv);
}
#else
unsigned test_coroutines(int, char **) { return 0; }
#endif
