/* An engine made with "threads": 0: it has none, and works when the host's own thread comes by. */
#include "check.h"
#include <dirent.h>
#include <pthread.h>

#define NO_THREADS "{\"threads\": 0}"

static unsigned pump(blaze_engine *engine, uint64_t budget_ns) {
    uint32_t did = 12345;
    CHECK_STATUS(blaze_pump(engine, budget_ns, &did), OK);
    return did;
}

static void an_engine_with_threads_cannot_be_pumped(void) {
    struct rig rig = rig_up(NULL, "", "");
    uint32_t did = 12345;
    CHECK_STATUS(blaze_pump(rig.engine, SECOND, &did), INVALID_STATE);
    CHECK_INT(did, 12345);
    rig_down(&rig);
}

static void nothing_happens_without_a_pump(void) {
    struct rig rig = rig_up(NO_THREADS, "", "");
    CHECK_INT(pump(rig.engine, 0), 0); /* nothing to do */
    blaze_ticket ticket = submit_simple(&rig, 0), load = 0;
    CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"late\", \"backend\": \"mock\"}", rig.queue, 0, &load,
                                        NULL), OK);
    sleep_ns(50 * MILLISECOND);
    no_event(rig.queue);
    CHECK_INT(queue_depth(rig.engine), 1);
    CHECK_INT(pump(rig.engine, PATIENCE), 2); /* returns when there is no more work */
    CHECK_INT(pump(rig.engine, PATIENCE), 0);
    blaze_event events[4];
    CHECK_INT(blaze_poll(rig.queue, events, sizeof events[0], 4), 2);
    CHECK((events[0].ticket == ticket && events[1].ticket == load) ||
          (events[1].ticket == ticket && events[0].ticket == load));
    for (int i = 0; i < 2; i++) {
        CHECK_STATUS(events[i].status, OK);
        blaze_event_release(&events[i]);
    }
    CHECK_STATUS(blaze_pump(rig.engine, 0, NULL), OK); /* who does not want to know */
    rig_down(&rig);
}

static void a_pump_does_at_least_one_piece_of_work_and_starts_none_after_its_budget(void) {
    struct rig rig = rig_up(NO_THREADS, "\"latency_us\": 30000", ALONE);
    for (uint64_t i = 0; i < 6; i++) submit_simple(&rig, i);
    CHECK_INT(pump(rig.engine, 0), 1);
    CHECK_INT(pump(rig.engine, 1), 1);
    CHECK_INT(queue_depth(rig.engine), 4);
    uint64_t started = blaze_now_ns();
    unsigned did = pump(rig.engine, 45 * MILLISECOND); /* one run fits, a second may start; on a slow machine, not */
    CHECK(did == 1 || did == 2);
    CHECK(blaze_now_ns() - started >= 30 * MILLISECOND);
    CHECK_INT(pump(rig.engine, PATIENCE), 4 - did);
    for (uint64_t i = 0; i < 6; i++) {
        blaze_event event = BLAZE_EVENT_INIT;
        REQUIRE(blaze_poll(rig.queue, &event, sizeof event, 1) == 1);
        CHECK_STATUS(event.status, OK);
        CHECK_INT(event.user_data, i);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void a_pump_joins_what_waits(void) {
    struct rig rig = rig_up(NO_THREADS, "", "\"batching\": {\"max_delay_us\": 10000000}");
    for (uint64_t i = 0; i < 64; i++) submit_simple(&rig, i);
    CHECK_INT(pump(rig.engine, 0), 1);
    for (int i = 0; i < 64; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.timing.batch_rows, 64);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void every_model_gets_its_turn(void) {
    struct rig rig = rig_up(NO_THREADS, "", ALONE);
    blaze_model other = load_mock(rig.engine, "other", "", ALONE);
    struct call call;
    for (uint64_t i = 0; i < 10; i++) submit_simple(&rig, 0);
    for (uint64_t i = 0; i < 10; i++) submit(&rig, simple_call(&call, other));
    for (int i = 0; i < 10; i++) pump(rig.engine, 0);
    unsigned of_other = 0;
    for (int i = 0; i < 10; i++) {
        blaze_event event = BLAZE_EVENT_INIT;
        REQUIRE(blaze_poll(rig.queue, &event, sizeof event, 1) == 1);
        of_other += event.model == other;
        blaze_event_release(&event);
    }
    CHECK(of_other >= 3 && of_other <= 7);
    rig_down(&rig);
}

static void deadlines_act_in_the_pump(void) {
    struct rig rig = rig_up(NO_THREADS, "", ALONE);
    struct call call;
    simple_call(&call, rig.model)->deadline_ns = blaze_now_ns() + 10 * MILLISECOND;
    blaze_ticket ticket = submit(&rig, &call.request);
    sleep_ns(20 * MILLISECOND);
    no_event(rig.queue); /* nobody looked */
    pump(rig.engine, SECOND);
    EXPECT_EVENT(rig.queue, ticket, EXPIRED);
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.batches, 0);
    ticket = submit_simple(&rig, 0);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK); /* a cancel needs no pump */
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    rig_down(&rig);
}

static void wait_works_by_itself(void) {
    struct rig rig = rig_up(NO_THREADS, "", "");
    for (uint64_t i = 0; i < 5; i++) EXPECT_EVENT(rig.queue, submit_simple(&rig, i), OK);
    blaze_ticket load = 0;
    CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}", rig.queue,
                                        0, &load, NULL), OK);
    EXPECT_EVENT(rig.queue, load, OK);
    struct call call; /* wakes up for a deadline in time, too */
    blaze_model full = load_mock(rig.engine, "full", "", ALONE);
    simple_call(&call, full)->deadline_ns = blaze_now_ns() + 1;
    EXPECT_EVENT(rig.queue, submit(&rig, &call.request), EXPIRED);
    blaze_event event = BLAZE_EVENT_INIT;
    uint64_t started = blaze_now_ns();
    CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 1, 20 * MILLISECOND), 0);
    CHECK(blaze_now_ns() - started >= 20 * MILLISECOND);
    rig_down(&rig);
}

static void infer_works_by_itself(void) {
    struct rig rig = rig_up(NO_THREADS, "", "");
    blaze_ticket before = submit_simple(&rig, 1); /* what is queued before it does not hinder it */
    for (int i = 0; i < 5; i++) still_works(&rig);
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_BORROW;
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, UINT64_MAX, &event, NULL), OK);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, 0, &event, NULL), TIMEOUT);
    EXPECT_EVENT(rig.queue, before, OK);
    rig_down(&rig);
}

struct waiter {
    blaze_queue *queue;
    atomic_uint inside;
    uint32_t count;
    blaze_event event;
};

static void *wait_for_one(void *argument) {
    struct waiter *waiter = argument;
    atomic_store(&waiter->inside, 1);
    waiter->count = blaze_wait(waiter->queue, &waiter->event, sizeof waiter->event, 1, 10 * SECOND);
    return NULL;
}

/* "a second one that comes meanwhile gets 0 at once", with or without threads. */
static void a_second_waiter_gets_nothing_at_once(void) {
    struct rig rig = rig_up(NO_THREADS, "", "");
    struct waiter waiter = {.queue = rig.queue};
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, wait_for_one, &waiter) == 0);
    while (!atomic_load(&waiter.inside)) sleep_ns(MILLISECOND);
    sleep_ns(100 * MILLISECOND); /* until it waits */
    blaze_event event = BLAZE_EVENT_INIT;
    uint64_t started = blaze_now_ns();
    CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 1, 2 * SECOND), 0);
    CHECK(blaze_now_ns() - started < 2 * SECOND); /* did not wait */
    submit_simple(&rig, 7);
    pthread_join(thread, NULL);
    CHECK_INT(waiter.count, 1);
    CHECK_INT(waiter.event.user_data, 7);
    blaze_event_release(&waiter.event);
    rig_down(&rig);
}

static void *pump_until_told(void *argument) {
    struct rig *rig = argument;
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    do {
        if (pump(rig->engine, MILLISECOND) == 0) sleep_ns(MILLISECOND / 10);
        CHECK_STATUS(blaze_health(rig->engine, &health), OK);
    } while (health.accepting);
    return NULL;
}

static void several_threads_may_pump(void) {
    struct rig rig = rig_up(NO_THREADS, "", "\"lanes\": 2, \"batching\": {\"max_rows\": 2}");
    pthread_t threads[3];
    for (size_t i = 0; i < COUNT(threads); i++)
        REQUIRE(pthread_create(&threads[i], NULL, pump_until_told, &rig) == 0);
    for (int round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < 100; i++) submit_simple(&rig, i);
        for (int i = 0; i < 100; i++) {
            blaze_event event = next_event(rig.queue);
            CHECK_STATUS(event.status, OK);
            CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            blaze_event_release(&event);
        }
    }
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    rig_down(&rig);
}

static void shutdown_drains_by_itself(void) {
    struct rig rig = rig_up(NO_THREADS, "\"latency_us\": 1000", ALONE);
    for (uint64_t i = 0; i < 5; i++) submit_simple(&rig, i);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, PATIENCE), OK);
    for (uint64_t i = 0; i < 5; i++) {
        blaze_event event = BLAZE_EVENT_INIT;
        REQUIRE(blaze_poll(rig.queue, &event, sizeof event, 1) == 1);
        CHECK_STATUS(event.status, OK);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void an_engine_that_was_never_pumped_can_be_ended(void) {
    struct rig rig = rig_up(NO_THREADS, HANGS_ALWAYS, ALONE);
    blaze_ticket first = submit_simple(&rig, 0), load = 0, unload = 0;
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_BORROW;
    blaze_ticket second = submit(&rig, &call.request);
    CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"late\", \"backend\": \"mock\"}", rig.queue, 0, &load,
                                        NULL), OK);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &unload), OK);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    blaze_engine_destroy(rig.engine);
    blaze_event event = BLAZE_EVENT_INIT;
    unsigned ended = 0;
    while (blaze_poll(rig.queue, &event, sizeof event, 1) == 1) {
        CHECK_INT(event.kind, BLAZE_EVENT_DONE);
        if (event.ticket != unload) CHECK_STATUS(event.status, SHUT_DOWN); /* an unload may as well have succeeded */
        ended += event.ticket == first || event.ticket == second || event.ticket == load || event.ticket == unload;
        blaze_event_release(&event);
    }
    CHECK_INT(ended, 4);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
}

#ifdef __linux__
static unsigned threads(void) {
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/task");
    REQUIRE(directory);
    while (readdir(directory)) count++;
    closedir(directory);
    return count - 2; /* "." and ".." */
}

static void there_are_no_threads(void) {
    unsigned before = threads();
    struct rig rig = rig_up(NO_THREADS, "", "\"lanes\": 4");
    struct call call;
    blaze_ticket load = 0, unload = 0;
    blaze_event event = BLAZE_EVENT_INIT;
    simple_call(&call, rig.model)->deadline_ns = blaze_now_ns() + PATIENCE;
    submit(&rig, &call.request);
    CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"a\", \"backend\": \"mock\"}", rig.queue, 0, &load, NULL),
                 OK);
    CHECK_INT(threads(), before);
    pump(rig.engine, SECOND);
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, NULL), OK);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &unload), OK);
    CHECK_INT(threads(), before);
    pump(rig.engine, SECOND);
    CHECK_INT(threads(), before);
    rig_down(&rig);
}
#endif

int main(int argc, char **argv) {
    static const struct test tests[] = {
#ifdef __linux__
        TEST(there_are_no_threads), /* first: ONNX Runtime has threads of its own */
#endif
        TEST(an_engine_with_threads_cannot_be_pumped),
        TEST(nothing_happens_without_a_pump),
        TEST(a_pump_does_at_least_one_piece_of_work_and_starts_none_after_its_budget),
        TEST(a_pump_joins_what_waits),
        TEST(every_model_gets_its_turn),
        TEST(deadlines_act_in_the_pump),
        TEST(wait_works_by_itself),
        TEST(infer_works_by_itself),
        TEST(a_second_waiter_gets_nothing_at_once),
        TEST(several_threads_may_pump),
        TEST(shutdown_drains_by_itself),
        TEST(an_engine_that_was_never_pumped_can_be_ended),
    };
    return RUN_TESTS(tests, argc, argv);
}
