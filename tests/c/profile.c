/* The profiler through the C ABI: what it takes, what it refuses, and that it may come and go at any time. */
#include "check.h"
#include "json.h"
#include <pthread.h>

/* One buffer for each thread, which frees it before it ends. */
static _Thread_local char *text;
static _Thread_local size_t room;

/* A report; NULL if there is none. */
static const char *report(blaze_engine *engine, blaze_report_format format) {
    size_t needed = 0;
    blaze_error error;
    for (int tries = 0; tries < 100; tries++) {
        blaze_status status = blaze_profile_report(engine, format, text, room, &needed, &error);
        if (status == BLAZE_STATUS_OK && text) return text;
        if (status != BLAZE_STATUS_OK && status != BLAZE_STATUS_BUFFER_TOO_SMALL) return NULL;
        room = needed * 2 + 4096; /* it grows while it is recorded */
        free(text);
        text = malloc(room);
        REQUIRE(text);
        *text = 0;
    }
    return NULL;
}

/* The same in JSON, once so many requests are in it: a lane records a batch after its events are out. */
static const char *report_of(blaze_engine *engine, double requests) {
    const char *json = report(engine, BLAZE_REPORT_JSON);
    for (int i = 0; json && json_number(json, "requests") < requests && i < 5000; i++) {
        sleep_ns(1000000);
        json = report(engine, BLAZE_REPORT_JSON);
    }
    return json;
}

static void infer(struct rig *rig, unsigned count) {
    struct call call;
    simple_call(&call, rig->model);
    while (count-- > 0) {
        blaze_event event = BLAZE_EVENT_INIT;
        CHECK_STATUS(blaze_infer(rig->engine, &call.request, PATIENCE, &event, NULL), OK);
        blaze_event_release(&event);
    }
}

static void a_profile_is_started_reported_and_stopped(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_error error;
    CHECK_STATUS(blaze_profile_start(rig.engine, "{\"level\": \"comprehensive\"}", &error), OK);
    infer(&rig, 20);
    EXPECT_EVENT(rig.queue, submit_simple(&rig, 1), OK);
    const char *json = report_of(rig.engine, 21);
    REQUIRE(json);
    CHECK_JSON(json, "running", "true");
    CHECK_JSON(json, "settings.level", "comprehensive");
    CHECK_JSON(json, "network.available", "false");
    CHECK_JSON(json, "models[name=mock:1].name", "mock:1");
    CHECK_INT(json_number(json, "models[name=mock:1].total.count"), 21);
    CHECK_INT(json_number(json, "requests"), 21);
    CHECK_STATUS(blaze_profile_stop(rig.engine, &error), OK);
    infer(&rig, 5);
    json = report(rig.engine, BLAZE_REPORT_JSON);
    REQUIRE(json);
    CHECK_JSON(json, "running", "false");
    CHECK_INT(json_number(json, "requests"), 21);
    json = report(rig.engine, BLAZE_REPORT_TRACE);
    REQUIRE(json);
    CHECK(json_count(json, "traceEvents") > 21);
    json = report(rig.engine, BLAZE_REPORT_HTML);
    REQUIRE(json);
    CHECK_TEXT(json, "<!doctype html>");
    CHECK_TEXT(json, "mock:1");
    CHECK_TEXT(json, "</html>");
    rig_down(&rig);
}

static void what_does_not_fit_is_refused(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_error error;
    size_t needed = 0;
    char small[8];
    CHECK_STATUS(blaze_profile_report(rig.engine, BLAZE_REPORT_JSON, NULL, 0, &needed, &error), INVALID_STATE);
    CHECK_TEXT(error.message, "blaze_profile_start");
    CHECK_STATUS(blaze_profile_stop(rig.engine, &error), INVALID_STATE);
    static const struct {
        const char *json, *path;
    } bad[] = {
        {"{\"level\": \"everything\"}", "level: "}, {"{\"modes\": [\"cpu\", \"gpu\"]}", "modes[1]: "},
        {"{\"modes\": []}", "modes: "},             {"{\"sample\": 0}", "sample: "},
        {"{\"sample\": \"x\"}", "sample: "},        {"{\"spans\": 1}", "spans: "},
        {"{\"speed\": 1}", "speed: "},              {"[]", "object"},
        {"", "EOF"},                                {"{\"directory\": \"\"}", "directory: "},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        CHECK_STATUS(blaze_profile_start(rig.engine, bad[i].json, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, bad[i].path);
    }
    CHECK_STATUS(blaze_profile_start(rig.engine, "\"\xff\"", &error), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_profile_stop(rig.engine, NULL), INVALID_STATE); /* none of them has started it */
    CHECK_STATUS(blaze_profile_start(NULL, NULL, &error), NULL_POINTER);
    CHECK_STATUS(blaze_profile_stop(NULL, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_profile_report(NULL, BLAZE_REPORT_JSON, small, sizeof small, &needed, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_profile_start(rig.engine, NULL, NULL), OK);
    for (blaze_report_format format = 0; format < 6; format++)
        if (format < BLAZE_REPORT_JSON || format > BLAZE_REPORT_HTML)
            CHECK_STATUS(blaze_profile_report(rig.engine, format, NULL, 0, &needed, &error), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_profile_report(rig.engine, BLAZE_REPORT_JSON, NULL, 0, NULL, &error), NULL_POINTER);
    CHECK_STATUS(blaze_profile_report(rig.engine, BLAZE_REPORT_JSON, NULL, 5, &needed, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_profile_report(rig.engine, BLAZE_REPORT_JSON, small, sizeof small, &needed, &error),
                 BUFFER_TOO_SMALL);
    CHECK(needed > sizeof small);
    rig_down(&rig);
}

static void starting_twice_changes_how_and_keeps_what_there_is(void) {
    struct rig rig = rig_up(NULL, "", "");
    CHECK_STATUS(blaze_profile_start(rig.engine, "{\"sample\": 1}", NULL), OK);
    infer(&rig, 10);
    CHECK_STATUS(blaze_profile_start(rig.engine, "{\"level\": \"debug\"}", NULL), OK);
    infer(&rig, 10);
    const char *json = report_of(rig.engine, 20);
    REQUIRE(json);
    CHECK_JSON(json, "settings.level", "debug");
    CHECK_INT(json_number(json, "models[name=mock:1].total.count"), 20);
    CHECK(json_count(json, "spans") >= 60);
    CHECK_STATUS(blaze_profile_stop(rig.engine, NULL), OK);
    CHECK_STATUS(blaze_profile_start(rig.engine, NULL, NULL), OK);
    json = report(rig.engine, BLAZE_REPORT_JSON);
    REQUIRE(json);
    CHECK_INT(json_count(json, "models"), 0); /* anew */
    rig_down(&rig);
}

static void an_engine_may_be_profiled_from_the_start(void) {
    struct rig rig = rig_up("{\"profile\": {\"level\": \"basic\"}}", "", "");
    const char *json = report(rig.engine, BLAZE_REPORT_JSON);
    REQUIRE(json);
    CHECK_INT(json_count(json, "io.loads"), 1); /* the rig's model */
    rig_down(&rig);
    blaze_engine *engine = NULL;
    blaze_error error;
    CHECK_STATUS(blaze_engine_create("{\"profile\": {\"level\": \"x\"}}", &engine, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "profile.level: ");
    engine = new_engine("{\"profile\": null}");
    CHECK_STATUS(blaze_profile_stop(engine, NULL), INVALID_STATE);
    blaze_engine_destroy(engine);
}

static void an_engine_may_end_while_it_is_profiled(void) {
    for (int i = 0; i < 3; i++) {
        struct rig rig = rig_up(i == 2 ? "{\"threads\": 0}" : NULL, "", "");
        CHECK_STATUS(blaze_profile_start(rig.engine, "{\"level\": \"comprehensive\"}", NULL), OK);
        blaze_ticket ticket = submit_simple(&rig, 7);
        infer(&rig, 3);
        if (i == 1) EXPECT_EVENT(rig.queue, ticket, OK);
        blaze_engine_destroy(rig.engine);
        blaze_event event = BLAZE_EVENT_INIT;
        while (blaze_wait(rig.queue, &event, sizeof event, 1, 0) == 1) blaze_event_release(&event);
        CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    }
}

static struct rig shared;
static atomic_int over;

static void *send(void *unused) {
    blaze_queue *queue = new_queue(shared.engine, 64);
    struct call call;
    simple_call(&call, shared.model);
    while (!atomic_load(&over)) {
        unsigned sent = 0;
        while (sent < 16 && blaze_submit(shared.engine, &call.request, queue, NULL, NULL) == BLAZE_STATUS_OK) sent++;
        while (sent-- > 0) {
            blaze_event event = BLAZE_EVENT_INIT;
            CHECK_INT(blaze_wait(queue, &event, sizeof event, 1, PATIENCE), 1);
            CHECK_STATUS(event.status, OK);
            blaze_event_release(&event);
        }
    }
    CHECK_STATUS(blaze_queue_destroy(queue), OK);
    return unused;
}

static void *meddle(void *number) {
    static const char *const settings[] = {NULL, "{\"level\": \"detailed\", \"spans\": 1024}",
                                           "{\"level\": \"comprehensive\", \"spans\": 2048}", "{\"modes\": [\"memory\"]}",
                                           "{\"level\": \"debug\", \"spans\": 1024, \"sample\": 3}"};
    unsigned turns = getenv("BLAZE_SHORT") ? 4 : 30;
    for (unsigned turn = (unsigned)(uintptr_t)number; turns-- > 0; turn++) {
        CHECK_STATUS(blaze_profile_start(shared.engine, settings[turn % COUNT(settings)], NULL), OK);
        sleep_ns(2 * MILLISECOND);
        const char *written = report(shared.engine, 1 + turn % 3);
        CHECK(written && strlen(written) > 100);
        if (turn % 4 == 3) {
            blaze_status status = blaze_profile_stop(shared.engine, NULL);
            CHECK(status == BLAZE_STATUS_OK || status == BLAZE_STATUS_INVALID_STATE); /* the other one was first */
        }
    }
    free(text);
    return NULL;
}

static void profiles_come_and_go_under_load(void) {
    shared = rig_up(NULL, "", "");
    atomic_store(&over, 0);
    pthread_t senders[2], meddlers[2];
    for (uintptr_t i = 0; i < 2; i++) {
        CHECK_INT(pthread_create(&senders[i], NULL, send, NULL), 0);
        CHECK_INT(pthread_create(&meddlers[i], NULL, meddle, (void *)i), 0);
    }
    for (int i = 0; i < 2; i++) pthread_join(meddlers[i], NULL);
    atomic_store(&over, 1);
    for (int i = 0; i < 2; i++) pthread_join(senders[i], NULL);
    rig_down(&shared);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_profile_is_started_reported_and_stopped),
        TEST(what_does_not_fit_is_refused),
        TEST(starting_twice_changes_how_and_keeps_what_there_is),
        TEST(an_engine_may_be_profiled_from_the_start),
        TEST(an_engine_may_end_while_it_is_profiled),
        TEST(profiles_come_and_go_under_load),
    };
    return RUN_TESTS(tests, argc, argv);
}
