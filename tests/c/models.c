/* Models: load, find, describe, unload, reload; here, in the background, and from memory. */
#include "check.h"
#include <pthread.h>

#define TINY "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}"

static char *info(blaze_engine *engine, blaze_model model) {
    static char text[8192];
    if (blaze_model_info(engine, model, text, sizeof text, NULL) != BLAZE_STATUS_OK) text[0] = 0;
    return text;
}

static void a_loaded_model_is_described(void) {
    blaze_engine *engine = new_engine(NULL);
    blaze_model model = load_model(engine, TINY);
    size_t needed = 0;
    CHECK_STATUS(blaze_model_info(engine, model, NULL, 0, &needed), OK);
    char *text = info(engine, model);
    CHECK_INT(needed, strlen(text) + 1);
    CHECK_TEXT(text, "\"name\":\"tiny\"");
    CHECK_TEXT(text, "\"dtype\":\"f32\"");
    CHECK_TEXT(text, "\"provider\":\"cpu\"");
    CHECK_TEXT(text, "tests/models/tiny.onnx");
    blaze_engine_destroy(engine);
}

static void a_model_is_found_by_name_and_version(void) {
    blaze_engine *engine = new_engine(NULL);
    blaze_model first = load_mock(engine, "m", "", "\"version\": 1");
    blaze_model tenth = load_mock(engine, "m", "", "\"version\": 10");
    blaze_model second = load_mock(engine, "m", "", "\"version\": 2");
    load_mock(engine, "mm", "", "\"version\": 99");
    const struct { const char *name; blaze_model model; } cases[] = {
        {"m", tenth}, {"m:1", first}, {"m:2", second}, {"m:10", tenth},
        {"m:3", 0},   {"", 0},        {"m:", 0},       {":1", 0}, {"M", 0}, {"m:01", 0}, {"m:1 ", 0}, {"m:1:1", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        blaze_model found = 0;
        blaze_status status = blaze_model_find(engine, cases[i].name, &found);
        CHECK_INT(status, cases[i].model ? BLAZE_STATUS_OK : BLAZE_STATUS_NOT_FOUND);
        CHECK_INT(found, cases[i].model);
    }
    blaze_model found = 0;
    CHECK_STATUS(blaze_model_unload(engine, tenth, NULL, NULL), OK);
    CHECK_STATUS(blaze_model_find(engine, "m", &found), OK);
    CHECK_INT(found, second); /* now the newest */
    blaze_engine_destroy(engine);
}

#define TINY_WITH(more) "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\", " more "}"

static void a_name_and_version_is_loaded_once_at_a_time(void) {
    blaze_engine *engine = new_engine(NULL);
    blaze_model first = load_model(engine, TINY), again = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(engine, TINY, &again, &error), OK);
    CHECK_INT(again, first);
    /* What is said is what is meant, however it is written. */
    CHECK_STATUS(blaze_model_load(engine, TINY_WITH("\"version\": 1, \"lanes\": 1, \"batching\": {}"), &again, &error), OK);
    CHECK_INT(again, first);
    const char *const others[] = {
        "{\"name\": \"tiny\", \"path\": \"tests/models/small.onnx\"}", TINY_WITH("\"lanes\": 2"),
        TINY_WITH("\"pinned\": true"), TINY_WITH("\"warmup\": false"), TINY_WITH("\"batching\": {\"max_rows\": 2}"),
        "{\"name\": \"tiny\", \"backend\": \"mock\"}",
    };
    for (size_t i = 0; i < COUNT(others); i++) {
        again = 0;
        CHECK_STATUS(blaze_model_load(engine, others[i], &again, &error), ALREADY_EXISTS);
        CHECK_TEXT(error.message, "tiny:1");
        CHECK_TEXT(error.message, "configuration");
        CHECK_INT(again, 0);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(blaze_model_unload(engine, first, NULL, NULL), OK);
        CHECK_STATUS(blaze_model_unload(engine, first, NULL, NULL), NOT_FOUND);
        again = load_model(engine, TINY);
        CHECK(again != first); /* a handle is never used again */
        CHECK(!*info(engine, first));
        first = again;
    }
    blaze_engine_destroy(engine);
}

static void a_model_is_loaded_from_memory(void) {
    blaze_engine *engine = new_engine(NULL);
    static char bytes[65536];
    FILE *file = fopen("tests/models/tiny.onnx", "rb");
    REQUIRE(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    REQUIRE(size > 0 && size < sizeof bytes);
    blaze_model model = 0, from_file = load_model(engine, "{\"name\": \"file\", \"path\": \"tests/models/tiny.onnx\"}");
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load_memory(engine, "{\"name\": \"t\"}", bytes, size, &model, &error), OK);
    memset(bytes, 0xAA, sizeof bytes); /* read during the call only */
    float answers[2][2] = {{0}};
    for (int i = 0; i < 2; i++) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        simple_call(&call, i ? model : from_file);
        REQUIRE(blaze_infer(engine, &call.request, PATIENCE, &event, &error) == BLAZE_STATUS_OK);
        memcpy(answers[i], floats(&event, 0), sizeof answers[i]);
        blaze_event_release(&event);
    }
    CHECK_FLOATS(answers[1], answers[0][0], answers[0][1]);
    CHECK_STATUS(blaze_model_load_memory(engine, "{\"name\": \"x\"}", bytes, size, &model, &error), MODEL_INVALID);
    CHECK_STATUS(blaze_model_load_memory(engine, "{\"name\": \"x\"}", bytes, 0, &model, &error), MODEL_INVALID);
    CHECK_STATUS(blaze_model_load_memory(engine, "{\"name\": \"x\", \"path\": \"p\"}", bytes, 1, &model, &error),
                 INVALID_CONFIG);
    CHECK_TEXT(error.message, "path");
    blaze_engine_destroy(engine);
}

static void an_unload_waits_for_the_models_requests(void) {
    struct rig rig = rig_up(NULL, "\"latency_us\": 30000", ALONE);
    for (uint64_t i = 0; i < 4; i++) submit_simple(&rig, i);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
    blaze_event events[8];
    CHECK_INT(blaze_poll(rig.queue, events, sizeof events[0], 8), 4);
    for (int i = 0; i < 4; i++) {
        CHECK_STATUS(events[i].status, OK);
        CHECK_FLOATS(floats(&events[i], 0), 3, 5, 7, 9); /* outputs outlive their model */
        blaze_event_release(&events[i]);
    }
    struct call call;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, rig.model), rig.queue, NULL, &error), NOT_FOUND);
    CHECK_TEXT(error.message, "model");
    rig_down(&rig);
}

/* "its handle is stale at once, requests that it has still end as usual" */
static void an_unload_in_the_background_ends_with_an_event_after_the_models_requests(void) {
    struct rig rig = rig_up(NULL, HANGS(1), ALONE);
    blaze_ticket blocker = submit_blocker(&rig), queued = submit_simple(&rig, 0), unload = 0, again = 0;
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &unload), OK);
    struct call call;
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, rig.model), rig.queue, NULL, NULL), NOT_FOUND);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &again), NOT_FOUND);
    CHECK_STATUS(blaze_model_find(rig.engine, "mock", &rig.model), NOT_FOUND);
    CHECK_INT(again, 0);
    no_event(rig.queue);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    EXPECT_EVENT(rig.queue, queued, OK);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.ticket, unload);
    CHECK_INT(event.kind, BLAZE_EVENT_DONE);
    CHECK_STATUS(event.status, OK);
    blaze_event_release(&event);
    no_event(rig.queue);
    rig_down(&rig);
}

/* The same without threads, where nothing can happen between the calls: no luck involved. */
static void a_handle_is_stale_as_soon_as_its_unload_is_accepted(void) {
    struct rig rig = rig_up("{\"threads\": 0}", "", "");
    blaze_ticket unload = 0;
    struct call call;
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &unload), OK);
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, NULL, 0, &(size_t){0}), NOT_FOUND);
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, rig.model), rig.queue, NULL, NULL), NOT_FOUND);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, NULL), NOT_FOUND);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.ticket, unload);
    blaze_event_release(&event);
    rig_down(&rig);
}

static void a_load_in_the_background_ends_with_an_event_that_has_the_model(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_ticket ticket = 0;
    char config[] = TINY;
    CHECK_STATUS(blaze_model_load_async(rig.engine, config, rig.queue, 41, &ticket, NULL), OK);
    memset(config, 'x', sizeof config - 1);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.kind, BLAZE_EVENT_DONE);
    CHECK_STATUS(event.status, OK);
    CHECK_INT(event.ticket, ticket);
    CHECK_INT(event.user_data, 41);
    CHECK_INT(event.outputs_count, 0);
    blaze_model found = 0;
    CHECK_STATUS(blaze_model_find(rig.engine, "tiny", &found), OK);
    CHECK_INT(event.model, found);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), NOT_FOUND);

    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.requests_accepted, 0); /* a load is no request */
    rig_down(&rig);
}

static void a_load_in_the_background_that_fails_says_why_in_its_event(void) {
    struct rig rig = rig_up(NULL, "", "");
    const struct { const char *config; blaze_status status; const char *text; } cases[] = {
        {"{\"name\": \"x\", \"path\": \"tests/models/none.onnx\"}", BLAZE_STATUS_MODEL_NOT_FOUND, "none.onnx"},
        {"{\"name\": \"x\", \"path\": \"tests/models/README.md\"}", BLAZE_STATUS_MODEL_INVALID, "x:1"},
        {"{\"name\": \"x\", \"backend\": \"none\"}", BLAZE_STATUS_INVALID_CONFIG, "backend"},
        {"{\"name\": \"mock\", \"backend\": \"mock\", \"lanes\": 9}", BLAZE_STATUS_ALREADY_EXISTS, "mock:1"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        blaze_ticket ticket = 0;
        CHECK_STATUS(blaze_model_load_async(rig.engine, cases[i].config, rig.queue, i, &ticket, NULL), OK);
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.ticket, ticket);
        CHECK_INT(event.status, cases[i].status);
        CHECK_TEXT(event.text, cases[i].text);
        blaze_event_release(&event);
        still_works(&rig);
    }
    blaze_ticket ticket = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": 5}", rig.queue, 0, &ticket, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "name");
    blaze_queue *small = new_queue(rig.engine, 1);
    const char *slow = "{\"name\": \"slow\", \"backend\": \"mock\", \"mock\": {\"load_latency_us\": 60000000}}";
    CHECK_STATUS(blaze_model_load_async(rig.engine, slow, small, 0, &ticket, NULL), OK);
    CHECK_STATUS(blaze_model_load_async(rig.engine, TINY, small, 0, &ticket, NULL), QUEUE_FULL);
    rig_down(&rig);
    CHECK_STATUS(blaze_queue_destroy(small), OK);
}

#define SLOW_LOAD "{\"name\": \"slow\", \"backend\": \"mock\", \"mock\": {\"load_latency_us\": 600000000}}"

static void a_load_in_the_background_is_cancelled_and_its_name_is_free_again(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_ticket ticket = 0;
    blaze_model model = 0;
    CHECK_STATUS(blaze_model_load_async(rig.engine, SLOW_LOAD, rig.queue, 0, &ticket, NULL), OK);
    sleep_ns(20 * MILLISECOND);
    CHECK_STATUS(blaze_model_find(rig.engine, "slow", &model), NOT_FOUND);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), NOT_FOUND);
    blaze_status status;
    uint64_t until = blaze_now_ns() + PATIENCE;
    while ((status = blaze_model_load(rig.engine, "{\"name\": \"slow\", \"backend\": \"mock\"}", &model, NULL)) ==
               BLAZE_STATUS_ALREADY_EXISTS && blaze_now_ns() < until)
        sleep_ns(MILLISECOND); /* until the loader has noticed */
    CHECK_STATUS(status, OK);
    no_event(rig.queue);
    rig_down(&rig);
}

/* Whoever is told CANCELLED has no handle to unload the model with: it must not stay. */
static void a_load_that_was_cancelled_leaves_no_model_behind(void) {
    struct rig rig = rig_up(NULL, "", "");
    unsigned cancelled = 0, loaded = 0, pause = 10000;
    for (unsigned i = 0; i < 1000; i++) {
        blaze_ticket ticket = 0;
        CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"race\", \"backend\": \"mock\"}", rig.queue, 0,
                                            &ticket, NULL), OK);
        for (volatile unsigned spin = 0; spin < pause; spin++) {}
        blaze_cancel(rig.engine, ticket);
        blaze_event event = next_event(rig.queue);
        blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
        if (event.status == BLAZE_STATUS_OK) {
            loaded++;
            pause -= pause / 16; /* stay where either may come first */
            CHECK_STATUS(blaze_model_unload(rig.engine, event.model, NULL, NULL), OK);
        } else {
            CHECK_STATUS(event.status, CANCELLED);
            cancelled++;
            pause += pause / 16 + 1;
            /* The loader may still be at it; when it is through, the name must be free. */
            uint64_t until = blaze_now_ns() + 10 * SECOND;
            blaze_model again = 0;
            blaze_status status;
            while ((status = blaze_model_load(rig.engine, "{\"name\": \"race\", \"backend\": \"mock\"}", &again, NULL)) ==
                       BLAZE_STATUS_ALREADY_EXISTS && blaze_now_ns() < until)
                sleep_ns(MILLISECOND / 10);
            if (status != BLAZE_STATUS_OK) {
                CHECK_STATUS(blaze_health(rig.engine, &health), OK);
                FAIL("round %u: the cancelled model is loaded for good; models: %u", i, health.models_ready);
                blaze_event_release(&event);
                break;
            }
            CHECK_STATUS(blaze_model_unload(rig.engine, again, NULL, NULL), OK);
        }
        blaze_event_release(&event);
    }
    printf("  %u cancelled, %u loaded\n", cancelled, loaded);
    rig_down(&rig);
}

static void a_load_in_the_background_is_ended_by_shutdown_or_destroy(void) {
    for (int shutdown = 0; shutdown < 2; shutdown++) {
        struct rig rig = rig_up(NULL, "", "");
        blaze_ticket ticket = 0;
        CHECK_STATUS(blaze_model_load_async(rig.engine, SLOW_LOAD, rig.queue, 0, &ticket, NULL), OK);
        if (shutdown) {
            CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
            EXPECT_EVENT(rig.queue, ticket, SHUT_DOWN);
        }
        blaze_engine_destroy(rig.engine);
        if (!shutdown) EXPECT_EVENT(rig.queue, ticket, SHUT_DOWN);
        CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    }
}

static void *load_and_unload(void *argument) {
    blaze_engine *engine = argument;
    static atomic_uint number;
    char config[128];
    snprintf(config, sizeof config, "{\"name\": \"m%u\", \"path\": \"tests/models/tiny.onnx\"}",
             atomic_fetch_add(&number, 1));
    for (int i = 0; i < 10; i++) {
        blaze_model model = 0;
        CHECK_STATUS(blaze_model_load(engine, config, &model, NULL), OK);
        CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), OK);
    }
    return NULL;
}

static void models_come_and_go_while_others_work(void) {
    struct rig rig = rig_up(NULL, "", "");
    pthread_t threads[3];
    for (size_t i = 0; i < COUNT(threads); i++)
        REQUIRE(pthread_create(&threads[i], NULL, load_and_unload, rig.engine) == 0);
    for (int i = 0; i < 200; i++) still_works(&rig);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_loaded_model_is_described),
        TEST(a_model_is_found_by_name_and_version),
        TEST(a_name_and_version_is_loaded_once_at_a_time),
        TEST(a_model_is_loaded_from_memory),
        TEST(an_unload_waits_for_the_models_requests),
        TEST(an_unload_in_the_background_ends_with_an_event_after_the_models_requests),
        TEST(a_handle_is_stale_as_soon_as_its_unload_is_accepted),
        TEST(a_load_in_the_background_ends_with_an_event_that_has_the_model),
        TEST(a_load_in_the_background_that_fails_says_why_in_its_event),
        TEST(a_load_in_the_background_is_cancelled_and_its_name_is_free_again),
        TEST(a_load_that_was_cancelled_leaves_no_model_behind),
        TEST(a_load_in_the_background_is_ended_by_shutdown_or_destroy),
        TEST(models_come_and_go_while_others_work),
    };
    return RUN_TESTS(tests, argc, argv);
}
