/* Engines, queues and events from beginning to end, in every order. */
#include "check.h"
#include <pthread.h>

static void an_engine_that_does_nothing_can_be_destroyed(void) {
    blaze_engine_destroy(NULL);
    CHECK_STATUS(blaze_queue_destroy(NULL), OK);
    blaze_event_release(NULL);
    blaze_engine_destroy(new_engine(NULL));
    blaze_engine_destroy(new_engine("{}"));
    blaze_engine *engine = new_engine("{\"threads\": 0}");
    CHECK_STATUS(blaze_engine_shutdown(engine, 0), OK);
    CHECK_STATUS(blaze_engine_shutdown(engine, UINT64_MAX), OK); /* nothing to drain: returns at once */
    blaze_engine_destroy(engine);
}

static void an_engine_comes_with_the_models_of_its_configuration(void) {
    blaze_engine *engine = new_engine(
        "{\"model_directory\": \"tests/models\", \"models\": [{\"name\": \"tiny\", \"path\": \"tiny.onnx\"},"
        " {\"name\": \"mock\", \"backend\": \"mock\"}, {\"name\": \"mock\", \"version\": 2, \"backend\": \"mock\"}]}");
    blaze_model model = 0;
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    CHECK_STATUS(blaze_model_find(engine, "tiny", &model), OK);
    CHECK_STATUS(blaze_model_find(engine, "mock:2", &model), OK);
    CHECK_STATUS(blaze_health(engine, &health), OK);
    CHECK_INT(health.models_ready, 3);
    blaze_engine_destroy(engine);
}

static void a_model_that_fails_fails_the_engines_creation(void) {
    blaze_engine *engine = (blaze_engine *)(uintptr_t)16;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_engine_create("{\"models\": [{\"name\": \"good\", \"backend\": \"mock\"},"
                                     " {\"name\": \"bad\", \"path\": \"tests/models/none.onnx\"}]}", &engine, &error),
                 MODEL_NOT_FOUND);
    CHECK(engine == (blaze_engine *)(uintptr_t)16); /* written on success only */
    CHECK_TEXT(error.message, "models[1]");
    CHECK_TEXT(error.message, "none.onnx");
}

enum work { RUNNING = 1, QUEUED = 2, UNDELIVERED = 4, UNRELEASED = 8, LENT = 16, EXPIRING = 32, ALL_WORK = 63 };

/* Puts an engine into a state, and ends it there; the queue goes before, between or after. */
static void end_in_state(unsigned work, int order) {
    struct rig rig = rig_up(NULL, "\"latency_us\": 1000, \"faults\": [{\"kind\": \"hang\", \"after\": 2}]", ALONE);
    blaze_event held = BLAZE_EVENT_INIT;
    struct call call;
    simple_call(&call, rig.model);
    if (work & EXPIRING) call.request.deadline_ns = blaze_now_ns() + PATIENCE;
    submit(&rig, &call.request);
    if (work & UNRELEASED) held = next_event(rig.queue);
    submit(&rig, &call.request);
    if (!(work & UNDELIVERED)) {
        for (int left = work & UNRELEASED ? 1 : 2; left > 0; left--) {
            blaze_event event = next_event(rig.queue);
            blaze_event_release(&event);
        }
    }
    if (work & LENT) call.request.flags = BLAZE_REQUEST_BORROW;
    if (work & RUNNING) {
        submit(&rig, &call.request);
        until_running(rig.engine);
    }
    if (work & QUEUED) submit(&rig, &call.request);

    int busy = (work & (RUNNING | QUEUED | UNDELIVERED)) != 0;
    if (order == 0 && busy) CHECK_STATUS(blaze_queue_destroy(rig.queue), BUSY);
    if (order == 1) CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    if (order == 2) CHECK_STATUS(blaze_engine_shutdown(rig.engine, 20 * MILLISECOND), OK);
    if (order == 0 && !busy) {
        CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
        rig.queue = NULL;
    }
    blaze_engine_destroy(rig.engine);
    if (order == 1) { /* what waited in the queue is delivered still */
        blaze_event event = BLAZE_EVENT_INIT;
        while (blaze_poll(rig.queue, &event, sizeof event, 1) == 1) {
            if (event.kind == BLAZE_EVENT_DONE && event.status == BLAZE_STATUS_OK)
                CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            blaze_event_release(&event);
        }
    }
    if (work & UNRELEASED) CHECK_FLOATS(floats(&held, 0), 3, 5, 7, 9);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK); /* never BUSY now */
    if (work & UNRELEASED) {
        CHECK_FLOATS(floats(&held, 0), 3, 5, 7, 9);
        blaze_event_release(&held);
        CHECK_STATUS(blaze_event_output(&held, 0, &(blaze_tensor)BLAZE_TENSOR_INIT), NOT_FOUND);
        blaze_event_release(&held);
    }
}

static void an_engine_can_be_ended_in_any_state(void) {
    for (unsigned work = 0; work <= ALL_WORK; work++) end_in_state(work, (int)(work % 3));
    for (unsigned work = 0; work <= ALL_WORK; work += 5) end_in_state(work, (int)((work + 1) % 3));
}

static void every_ticket_is_resolved_by_shutdown(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    blaze_ticket running = submit_blocker(&rig);
    blaze_ticket queued = submit_simple(&rig, 0);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    int seen_running = 0, seen_queued = 0;
    for (int i = 0; i < 2; i++) { /* both are there when shutdown returns */
        blaze_event event = BLAZE_EVENT_INIT;
        REQUIRE(blaze_poll(rig.queue, &event, sizeof event, 1) == 1);
        CHECK_STATUS(event.status, SHUT_DOWN);
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        seen_running += event.ticket == running;
        seen_queued += event.ticket == queued;
        blaze_event_release(&event);
    }
    CHECK(seen_running == 1 && seen_queued == 1);
    rig_down(&rig);
}

static void a_lent_buffer_is_released_after_shutdown_when_its_run_has_stopped(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_BORROW;
    submit(&rig, &call.request);
    until_running(rig.engine);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, SHUT_DOWN);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_MORE);
    blaze_event_release(&event);
    event = next_event(rig.queue);
    CHECK_INT(event.kind, BLAZE_EVENT_BUFFERS_RELEASED);
    blaze_event_release(&event);
    rig_down(&rig);
}

static void shutdown_lets_accepted_work_end_within_its_time(void) {
    struct rig rig = rig_up(NULL, "\"latency_us\": 20000", ALONE);
    for (uint64_t i = 0; i < 5; i++) submit_simple(&rig, i);
    uint64_t started = blaze_now_ns();
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, PATIENCE), OK);
    CHECK(blaze_now_ns() - started < PATIENCE / 2); /* returns when all is done, not when the time is over */
    blaze_event events[8];
    CHECK_INT(blaze_poll(rig.queue, events, sizeof events[0], 8), 5);
    for (int i = 0; i < 5; i++) {
        CHECK_STATUS(events[i].status, OK);
        CHECK_INT(events[i].user_data, i);
        blaze_event_release(&events[i]);
    }
    rig_down(&rig);
}

static void shutdown_gives_up_what_does_not_end_in_time(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    blaze_ticket ticket = submit_blocker(&rig);
    uint64_t started = blaze_now_ns();
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 100 * MILLISECOND), OK);
    CHECK(blaze_now_ns() - started >= 100 * MILLISECOND && blaze_now_ns() - started < PATIENCE / 2);
    EXPECT_EVENT(rig.queue, ticket, SHUT_DOWN);
    rig_down(&rig);
}

static void *infer_until_shut_down(void *argument) {
    struct rig *rig = argument;
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_infer(rig->engine, simple_call(&call, rig->model), PATIENCE, &event, NULL), SHUT_DOWN);
    return NULL;
}

static void shutdown_ends_an_infer_that_is_under_way(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    pthread_t threads[2]; /* one runs, one is queued */
    for (size_t i = 0; i < COUNT(threads); i++)
        REQUIRE(pthread_create(&threads[i], NULL, infer_until_shut_down, &rig) == 0);
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    do CHECK_STATUS(blaze_health(rig.engine, &health), OK);
    while (health.in_flight < 2);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    rig_down(&rig);
}

static void after_shutdown_nothing_is_taken_in_but_questions_are_answered(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_event held, event = BLAZE_EVENT_INIT;
    blaze_ticket ticket = submit_simple(&rig, 0);
    held = next_event(rig.queue);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, SECOND), OK); /* again */

    struct call call;
    blaze_error error = {.status = 0};
    blaze_model model = 0;
    blaze_queue *queue = NULL;
    const char *mock = "{\"name\": \"late\", \"backend\": \"mock\"}";
    simple_call(&call, rig.model);
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), SHUT_DOWN);
    CHECK_TEXT(error.message, "shut down");
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, NULL), SHUT_DOWN);
    CHECK_STATUS(blaze_model_load(rig.engine, mock, &model, NULL), SHUT_DOWN);
    CHECK_STATUS(blaze_model_load_memory(rig.engine, mock, "x", 1, &model, NULL), SHUT_DOWN);
    CHECK_STATUS(blaze_model_load_async(rig.engine, mock, rig.queue, 0, &ticket, NULL), SHUT_DOWN);
    CHECK_STATUS(blaze_queue_create(rig.engine, 8, &queue, NULL), SHUT_DOWN);
    CHECK_STATUS(blaze_cancel(rig.engine, held.ticket), NOT_FOUND);

    static char text[65536];
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_health(rig.engine, &health), OK);
    CHECK_INT(health.accepting, 0);
    CHECK_INT(health.state, BLAZE_HEALTH_FAILED);
    CHECK_INT(health.in_flight, 0);
    CHECK_STATUS(blaze_health_json(rig.engine, text, sizeof text, NULL), OK);
    CHECK_TEXT(text, "\"accepting\":false");
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.requests_ok, 1);
    CHECK_STATUS(blaze_metrics_text(rig.engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK);
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, text, sizeof text, NULL), OK);
    no_event(rig.queue);
    CHECK_FLOATS(floats(&held, 0), 3, 5, 7, 9);
    blaze_event_release(&held);
    rig_down(&rig);
}

static void events_outlive_their_engine_until_they_are_released(void) {
    struct rig rig = rig_up(NULL, "\"faults\": [{\"kind\": \"error\", \"after\": 1}]", ALONE);
    blaze_event ok, failed, unpolled = BLAZE_EVENT_INIT;
    submit_simple(&rig, 0);
    ok = next_event(rig.queue);
    submit_simple(&rig, 1);
    failed = next_event(rig.queue);
    submit_simple(&rig, 2);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, PATIENCE), OK);
    blaze_engine_destroy(rig.engine);
    CHECK_FLOATS(floats(&ok, 0), 3, 5, 7, 9);
    CHECK_STATUS(failed.status, BACKEND_FAILED);
    CHECK_TEXT(failed.text, "injected fault");
    CHECK_INT(failed.text_bytes, failed.text ? strlen(failed.text) : 0);
    CHECK_INT(blaze_wait(rig.queue, &unpolled, sizeof unpolled, 1, PATIENCE), 1);
    CHECK_INT(unpolled.user_data, 2);
    CHECK_TEXT(unpolled.text, "injected fault");
    blaze_event_release(&ok);
    blaze_event_release(&ok);
    blaze_event_release(&failed);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK); /* the last event's queue goes first */
    CHECK_TEXT(unpolled.text, "injected fault");
    blaze_event_release(&unpolled);
}

static void releasing_twice_also_through_a_copy_does_nothing_more(void) {
    struct rig rig = rig_up("{\"queue\": {\"capacity\": 1}}", "", ""); /* the slot is used again at once */
    for (int i = 0; i < 3; i++) {
        submit_simple(&rig, 0);
        blaze_event event = next_event(rig.queue), copy = event, other = event;
        blaze_tensor view = BLAZE_TENSOR_INIT;
        blaze_event_release(&event);
        CHECK(event.internal == NULL && event.text == NULL && event.outputs_count == 0);
        CHECK_STATUS(blaze_event_output(&event, 0, &view), NOT_FOUND);
        CHECK_STATUS(blaze_event_output(&copy, 0, &view), NOT_FOUND);
        blaze_event_release(&event);
        submit_simple(&rig, 1);
        blaze_event next = next_event(rig.queue);
        blaze_event_release(&copy); /* must not take the next one's outputs away */
        CHECK_STATUS(blaze_event_output(&other, 0, &view), NOT_FOUND);
        CHECK_FLOATS(floats(&next, 0), 3, 5, 7, 9);
        blaze_event_release(&next);
        blaze_event_release(&other);
    }
    rig_down(&rig);
}

static void a_queue_is_busy_while_a_ticket_targets_it_or_an_event_waits(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    blaze_ticket ticket = submit_blocker(&rig);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), BUSY);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), BUSY);
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    blaze_engine_destroy(rig.engine);
}

static void an_event_may_be_held_while_its_queue_is_destroyed(void) {
    struct rig rig = rig_up(NULL, "", "");
    submit_simple(&rig, 0);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    blaze_event_release(&event);
    blaze_engine_destroy(rig.engine);
}

static void several_engines_live_side_by_side(void) {
    struct rig rigs[4];
    for (int i = 0; i < 4; i++) {
        rigs[i] = rig_up(NULL, "", "");
        blaze_model tiny = load_model(rigs[i].engine, "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}");
        CHECK(tiny != rigs[i].model);
    }
    for (int i = 0; i < 4; i++) still_works(&rigs[i]);
    for (int i = 0; i < 4; i++) {
        rig_down(&rigs[i]);
        for (int j = i + 1; j < 4; j++) still_works(&rigs[j]);
    }
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(an_engine_that_does_nothing_can_be_destroyed),
        TEST(an_engine_comes_with_the_models_of_its_configuration),
        TEST(a_model_that_fails_fails_the_engines_creation),
        TEST(an_engine_can_be_ended_in_any_state),
        TEST(every_ticket_is_resolved_by_shutdown),
        TEST(a_lent_buffer_is_released_after_shutdown_when_its_run_has_stopped),
        TEST(shutdown_lets_accepted_work_end_within_its_time),
        TEST(shutdown_gives_up_what_does_not_end_in_time),
        TEST(shutdown_ends_an_infer_that_is_under_way),
        TEST(after_shutdown_nothing_is_taken_in_but_questions_are_answered),
        TEST(events_outlive_their_engine_until_they_are_released),
        TEST(releasing_twice_also_through_a_copy_does_nothing_more),
        TEST(a_queue_is_busy_while_a_ticket_targets_it_or_an_event_waits),
        TEST(an_event_may_be_held_while_its_queue_is_destroyed),
        TEST(several_engines_live_side_by_side),
    };
    return RUN_TESTS(tests, argc, argv);
}
