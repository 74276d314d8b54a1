/* What holds an engine back, as hosts are told. */
#include "json.h"

static char text[1 << 16];

static const char *advice(blaze_engine *engine) {
    CHECK_STATUS(blaze_advice_json(engine, text, sizeof text, NULL), OK);
    CHECK(json_is_valid(text));
    return text;
}

static void without_an_engine_there_is_no_advice(void) {
    size_t needed = 77;
    CHECK_STATUS(blaze_advice_json(NULL, text, sizeof text, &needed), NULL_POINTER);
    CHECK_INT(needed, 77);
    CHECK_STATUS(blaze_advice_json(NULL, NULL, 0, NULL), NULL_POINTER);
}

static void text_comes_by_the_two_call_pattern(void) {
    blaze_engine *engine = new_engine(NULL);
    size_t needed = 0;
    CHECK_STATUS(blaze_advice_json(engine, NULL, 0, &needed), OK);
    CHECK(needed > 20 && needed < sizeof text);
    size_t again = 0;
    char small[8] = "unused";
    CHECK_STATUS(blaze_advice_json(engine, small, sizeof small, &again), BUFFER_TOO_SMALL);
    CHECK(again > sizeof small);
    CHECK_STATUS(blaze_advice_json(engine, NULL, 8, &again), NULL_POINTER);
    CHECK_STATUS(blaze_advice_json(engine, text, sizeof text, &again), OK);
    CHECK_INT(strlen(text) + 1, again);
    blaze_engine_destroy(engine);
}

static void an_engine_that_does_nothing_has_nothing_wrong(void) {
    blaze_engine *engine = new_engine(NULL);
    CHECK_TEXT(json_text(advice(engine), "findings"), "[]");
    CHECK(json_at(text, "window_seconds") != NULL);
    blaze_engine_destroy(engine);

    struct rig rig = rig_up(NULL, "", "");
    EXPECT_EVENT(rig.queue, submit_simple(&rig, 0), OK);
    CHECK_TEXT(json_text(advice(rig.engine), "findings"), "[]");
    rig_down(&rig);
}

static void a_host_without_threads_gets_advice_too(void) {
    struct rig rig = rig_up("{\"threads\": 0}", "", "");
    CHECK_TEXT(json_text(advice(rig.engine), "findings"), "[]");
    rig_down(&rig);
}

static void a_provider_that_is_not_there_is_told_of(void) {
    blaze_engine *engine = new_engine(NULL);
    load_model(engine, "{\"name\": \"m\", \"path\": \"tests/models/tiny.onnx\", \"providers\": [\"qnn\", \"cpu\"]}");
    advice(engine);
    CHECK_TEXT(json_text(text, "findings.[0].bottleneck"), "provider_fell_back");
    CHECK_TEXT(json_text(text, "findings.[0].subject.kind"), "model");
    CHECK_TEXT(json_text(text, "findings.[0].subject.name"), "m:1");
    CHECK_TEXT(json_text(text, "findings.[0].explanation"), "qnn");
    CHECK_TEXT(json_text(text, "findings.[0].change"), "null");
    CHECK_TEXT(json_text(text, "findings.[0].expected"), "null");
    blaze_engine_destroy(engine);
}

static void what_fails_is_found_in_numbers(void) {
    struct rig rig = rig_up(NULL, "\"latency_us\": 2000, \"faults\": [{\"kind\": \"error\", \"every\": 2}]",
                            ALONE ", \"recovery\": false");
    uint64_t until = blaze_now_ns() + SECOND;
    for (int count = 0; count < 100 || blaze_now_ns() < until; count++) {
        submit_simple(&rig, 0);
        blaze_event event = next_event(rig.queue);
        blaze_event_release(&event);
    }
    advice(rig.engine);
    CHECK_TEXT(json_text(text, "findings.[bottleneck=failing_model].subject.name"), "mock:1");
    CHECK_TEXT(json_text(text, "findings.[bottleneck=failing_model].figure"), "failed_share");
    CHECK_TEXT(json_text(text, "findings.[bottleneck=failing_model].evidence.[0].unit"), "share of requests");
    rig_down(&rig);
}

int main(int argc, char **argv) {
    const struct test tests[] = {
        TEST(without_an_engine_there_is_no_advice),
        TEST(text_comes_by_the_two_call_pattern),
        TEST(an_engine_that_does_nothing_has_nothing_wrong),
        TEST(a_host_without_threads_gets_advice_too),
        TEST(a_provider_that_is_not_there_is_told_of),
        TEST(what_fails_is_found_in_numbers),
    };
    return RUN_TESTS(tests, argc, argv);
}
