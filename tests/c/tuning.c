/* Settings that change while a model works, the search for the best ones, and what is said of them. */
#include "json.h"

static const char *info(struct rig *rig) {
    static char text[65536];
    CHECK_STATUS(blaze_model_info(rig->engine, rig->model, text, sizeof text, NULL), OK);
    return text;
}

static const char *report(blaze_engine *engine) {
    static char text[1 << 20];
    CHECK_STATUS(blaze_tune_report(engine, text, sizeof text, NULL), OK);
    return text;
}

static void configure(struct rig *rig, const char *json) {
    blaze_error error = {.status = 0};
    if (blaze_model_configure(rig->engine, rig->model, json, &error) != BLAZE_STATUS_OK)
        FAIL("%s: %s", json, error.message);
}

static void settings_change_while_a_model_works(void) {
    struct rig rig = rig_up(NULL, "\"latency_us\": 100", "\"batching\": {\"max_rows\": 2}");
    for (int round = 0; round < 20; round++) {
        char json[200];
        for (uint64_t i = 0; i < 10; i++) submit_simple(&rig, i);
        snprintf(json, sizeof json, "{\"batching\": {\"max_rows\": %d, \"max_delay_us\": %d}, \"lanes\": %d}",
                 1 + round * 7 % 40, round % 3 * 100, 1 + round % 3);
        configure(&rig, json);
        for (int i = 0; i < 10; i++) {
            blaze_event event = next_event(rig.queue);
            CHECK_STATUS(event.status, OK);
            CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            blaze_event_release(&event);
        }
        CHECK_INT(json_number(info(&rig), "batching.max_rows"), 1 + round * 7 % 40);
        CHECK_INT(json_number(info(&rig), "batching.max_delay_us"), round % 3 * 100);
        CHECK_INT(json_number(info(&rig), "lanes"), 1 + round % 3);
    }
    configure(&rig, "{\"intra_op_threads\": 2}");
    CHECK_JSON(info(&rig), "intra_op_threads", "2");
    configure(&rig, "{}");
    CHECK_JSON(info(&rig), "intra_op_threads", "2");
    still_works(&rig);
    rig_down(&rig);
}

#define SEARCH "{\"model\": \"mock\", \"max_rows\": [1, 32], \"max_delay_us\": [0], \"lanes\": [1], \"seconds_per_point\": 0.05"

static void check_search(const char *text) {
    CHECK_JSON(text, "model", "mock:1");
    CHECK_JSON(text, "objective", "throughput");
    CHECK_JSON(text, "best.settings.max_rows", "32");
    CHECK_JSON(text, "configuration.batching.max_rows", "32");
    CHECK_JSON(text, "before.max_rows", "1");
    CHECK_JSON(text, "saved", "null");
    CHECK_INT(json_count(text, "points"), 3);
    CHECK(json_number(text, "best.requests_per_second") > 0);
}

static void the_best_settings_are_searched(void) {
    struct rig rig = rig_up(NULL, "\"latency_us\": 2000", "\"batching\": {\"max_rows\": 32}");
    configure(&rig, "{\"batching\": {\"max_rows\": 1}}");
    CHECK_JSON(report(rig.engine), "search", "null");
    CHECK_JSON(report(rig.engine), "mode", "off");
    CHECK_STATUS(blaze_tune(rig.engine, SEARCH "}", NULL, 0, NULL, NULL), OK);
    CHECK_JSON(info(&rig), "batching.max_rows", "1");
    blaze_ticket ticket = 0;
    CHECK_STATUS(blaze_tune(rig.engine, SEARCH ", \"apply\": true}", rig.queue, 7, &ticket, NULL), OK);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, OK);
    CHECK_INT(event.ticket, ticket);
    CHECK_INT(event.user_data, 7);
    check_search(event.text);
    CHECK_JSON(event.text, "applied", "true");
    blaze_event_release(&event);
    CHECK_JSON(info(&rig), "batching.max_rows", "32");
    CHECK_JSON(report(rig.engine), "search.best.settings.max_rows", "32");
    CHECK_JSON(report(rig.engine), "models[name=mock:1].settings.max_rows", "32");
    still_works(&rig);
    rig_down(&rig);
}

static void a_search_can_be_cancelled(void) {
    struct rig rig = rig_up(NULL, "\"latency_us\": 100", "\"batching\": {\"max_rows\": 3}");
    blaze_ticket ticket = 0;
    const char *json = "{\"model\": \"mock\", \"seconds_per_point\": 60, \"max_rows\": [64]}";
    CHECK_STATUS(blaze_tune(rig.engine, json, rig.queue, 0, &ticket, NULL), OK);
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (!strcmp(json_text(report(rig.engine), "searching"), "false") && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    CHECK_STATUS(blaze_tune(rig.engine, json, NULL, 0, NULL, NULL), INVALID_STATE);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    while (!strcmp(json_text(report(rig.engine), "searching"), "true") && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    CHECK_JSON(info(&rig), "batching.max_rows", "3");
    /* And by the engine's end. */
    CHECK_STATUS(blaze_tune(rig.engine, json, rig.queue, 0, &ticket, NULL), OK);
    rig_down(&rig);
}

static void a_pumped_engine_searches_on_the_hosts_thread(void) {
    struct rig rig = rig_up("{\"threads\": 0}", "\"latency_us\": 1000", "\"batching\": {\"max_rows\": 32}");
    configure(&rig, "{\"batching\": {\"max_rows\": 1}}");
    blaze_ticket ticket = 0;
    CHECK_STATUS(blaze_tune(rig.engine, SEARCH "}", rig.queue, 0, &ticket, NULL), OK);
    CHECK_STATUS(blaze_pump(rig.engine, 0, NULL), OK);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, OK);
    check_search(event.text);
    blaze_event_release(&event);
    rig_down(&rig);
}

static void an_engine_tunes_itself(void) {
    struct rig rig = rig_up("{\"tuning\": {\"mode\": \"on\", \"level\": \"aggressive\", \"limits\": {\"max_rows\": [1, 32]}}}",
                            "\"latency_us\": 1000", "\"batching\": {\"max_rows\": 2, \"max_delay_us\": 0}");
    uint64_t until = blaze_now_ns() + 20 * SECOND;
    int in_flight = 0;
    /* A step that is tried is not yet one that was taken. */
    while (blaze_now_ns() < until && (json_number(info(&rig), "batching.max_rows") < 8 ||
                                      json_count(report(rig.engine), "models[0].steps") == 0)) {
        for (; in_flight < 64; in_flight++) submit_simple(&rig, 0);
        blaze_event events[64];
        uint32_t count = blaze_wait(rig.queue, events, sizeof *events, 64, PATIENCE);
        for (uint32_t i = 0; i < count; i++) {
            CHECK_STATUS(events[i].status, OK);
            blaze_event_release(&events[i]);
        }
        in_flight -= (int)count;
    }
    CHECK(json_number(info(&rig), "batching.max_rows") >= 8);
    CHECK_JSON(report(rig.engine), "mode", "on");
    CHECK_JSON(report(rig.engine), "models[0].bounds.max_rows", "[1,32]");
    CHECK(json_count(report(rig.engine), "models[0].steps") > 0);
    rig_down(&rig);
}

static void what_is_wrong_is_refused(void) {
    struct rig rig = rig_up("{\"tuning\": {\"limits\": {\"lanes\": [1, 2]}}}", "", "");
    static const struct { const char *json, *text; } searches[] = {
        {"{}", "model"},
        {"{\"model\": 1}", "model: "},
        {"{\"model\": \"mock\", \"speed\": 1}", "speed: unknown field"},
        {"{\"model\": \"mock\", \"lanes\": [1, 3]}", "lanes[1]: "},
        {"{\"model\": \"mock\", \"max_rows\": []}", "max_rows: "},
        {"{\"model\": \"mock\", \"seconds_per_point\": 0}", "seconds_per_point: "},
        {"{\"model\": \"mock\", \"p99_ms\": -1}", "p99_ms: "},
        {"{\"model\": \"mock\"", "EOF"},
    };
    blaze_error error;
    for (size_t i = 0; i < COUNT(searches); i++) {
        error = (blaze_error){0, "", 0};
        CHECK_STATUS(blaze_tune(rig.engine, searches[i].json, NULL, 0, NULL, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, searches[i].text);
    }
    static const struct { const char *json, *text; } changes[] = {
        {"{\"batching\": {\"max_rows\": 0}}", "batching.max_rows: "},
        {"{\"batching\": []}", "batching: "},
        {"{\"lane\": 1}", "lane: unknown field"},
        {"{\"lanes\": 1000}", "lanes: "},
        {"", "EOF"},
    };
    for (size_t i = 0; i < COUNT(changes); i++) {
        error = (blaze_error){0, "", 0};
        CHECK_STATUS(blaze_model_configure(rig.engine, rig.model, changes[i].json, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, changes[i].text);
    }
    CHECK_STATUS(blaze_tune(rig.engine, "{\"model\": \"none\"}", NULL, 0, NULL, NULL), NOT_FOUND);
    CHECK_STATUS(blaze_tune(NULL, "{}", NULL, 0, NULL, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_tune(rig.engine, NULL, NULL, 0, NULL, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_model_configure(NULL, rig.model, "{}", NULL), NULL_POINTER);
    CHECK_STATUS(blaze_model_configure(rig.engine, rig.model, NULL, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_model_configure(rig.engine, 0, "{}", NULL), NOT_FOUND);
    size_t needed = 0;
    char small[4];
    CHECK_STATUS(blaze_tune_report(NULL, small, sizeof small, &needed), NULL_POINTER);
    CHECK_STATUS(blaze_tune_report(rig.engine, small, sizeof small, &needed), BUFFER_TOO_SMALL);
    CHECK(needed > sizeof small);
    CHECK_STATUS(blaze_tune_report(rig.engine, NULL, 0, &needed), OK);
    still_works(&rig);
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(settings_change_while_a_model_works),
        TEST(the_best_settings_are_searched),
        TEST(a_search_can_be_cancelled),
        TEST(a_pumped_engine_searches_on_the_hosts_thread),
        TEST(an_engine_tunes_itself),
        TEST(what_is_wrong_is_refused),
    };
    return RUN_TESTS(tests, argc, argv);
}
