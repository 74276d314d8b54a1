/* Loads and unloads: how far they have come, giving them up, who asks for the same, and receipts. */
#include "json.h"
#include <pthread.h>

#define SMALL_FILE "\"path\": \"tests/models/small.onnx\""
#define SMALL "{\"name\": \"small\", " SMALL_FILE "}"
#define TELLING "{\"name\": \"small\", " SMALL_FILE ", \"progress\": true}"
#define MOCK(name, mock) "{\"name\": \"" name "\", \"backend\": \"mock\", \"mock\": {" mock "}}"
#define LATENCY_NS (300 * MILLISECOND)
#define ENDLESS "\"load_latency_us\": 600000000"
#define SLOW "\"load_latency_us\": 300000"

static struct rig new_rig(const char *config) {
    struct rig rig = {new_engine(config), NULL, 0};
    rig.queue = new_queue(rig.engine, 256);
    return rig;
}

static blaze_ticket start(struct rig *rig, const char *config) {
    blaze_ticket ticket = 0;
    blaze_error error = {.status = 0};
    if (blaze_model_load_async(rig->engine, config, rig->queue, 9, &ticket, &error) != BLAZE_STATUS_OK)
        FAIL("load: %s", error.message);
    REQUIRE(ticket);
    return ticket;
}

static uint64_t used(blaze_engine *engine) {
    return (uint64_t)health_number(engine, "memory.used_bytes");
}

static const char *const stages[] = {"waiting", "reading", "checking", "warming up", "loaded"};

static int stage_of(const char *text) {
    for (int i = 0; text && i < (int)COUNT(stages); i++)
        if (!strcmp(text, stages[i])) return i;
    return -1;
}

/* Takes the events of one load up to its terminal one, which is returned; how many of progress there were. */
static blaze_event progress_until_done(struct rig *rig, blaze_ticket ticket, int *count) {
    float fraction = -1;
    int stage = -1;
    for (*count = 0;; ++*count) {
        blaze_event event = next_event(rig->queue);
        CHECK_INT(event.ticket, ticket);
        CHECK_INT(event.user_data, 9);
        if (event.kind == BLAZE_EVENT_DONE) return event;
        CHECK_INT(event.kind, BLAZE_EVENT_PROGRESS);
        CHECK_STATUS(event.status, OK);
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_MORE);
        CHECK_INT(event.outputs_count, 0);
        CHECK(event.progress > fraction && event.progress >= 0 && event.progress <= 1);
        if (stage_of(event.text) <= stage) FAIL("\"%s\" after %d", event.text ? event.text : "", stage);
        CHECK_INT(event.text_bytes, event.text ? strlen(event.text) : 0);
        fraction = event.progress;
        stage = stage_of(event.text);
        if (stage == (int)COUNT(stages) - 1) CHECK(fraction >= 1);
        blaze_event_release(&event);
        blaze_event_release(&event);
    }
}

static void a_load_tells_how_far_it_has_come_if_it_is_asked_to(void) {
    struct rig rig = new_rig(NULL);
    int count = 0, most = 0;
    for (int i = 0; i < 10; i++) {
        blaze_ticket ticket = start(&rig, TELLING);
        blaze_event event = progress_until_done(&rig, ticket, &count);
        CHECK_STATUS(event.status, OK);
        CHECK_STATUS(blaze_model_unload(rig.engine, event.model, NULL, NULL), OK);
        blaze_event_release(&event);
        no_event(rig.queue);
        if (count > most) most = count;
        EXPECT_EVENT(rig.queue, start(&rig, SMALL), OK); /* not asked: only the end */
        blaze_model model = 0;
        CHECK_STATUS(blaze_model_find(rig.engine, "small", &model), OK);
        CHECK_STATUS(blaze_model_unload(rig.engine, model, NULL, NULL), OK);
    }
    printf("  at most %d events\n", most);
    CHECK(most >= 1);
    blaze_ticket ticket = start(&rig, "{\"name\": \"x\", \"path\": \"tests/models/README.md\", \"progress\": true}");
    blaze_event event = progress_until_done(&rig, ticket, &count);
    CHECK_STATUS(event.status, MODEL_INVALID);
    blaze_event_release(&event);
    no_event(rig.queue);
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"x\", \"progress\": 1}", rig.queue, 0, &ticket, &error),
                 INVALID_CONFIG);
    CHECK_TEXT(error.message, "progress");
    rig_down(&rig);
}

/* A queue with room for the terminal event alone; and nobody looks until it is there. */
static void progress_needs_no_room_and_what_was_not_looked_at_is_left_out(void) {
    struct rig rig = new_rig(NULL);
    blaze_queue *plenty = rig.queue;
    rig.queue = new_queue(rig.engine, 1);
    int count = 0;
    blaze_event event = progress_until_done(&rig, start(&rig, TELLING), &count);
    CHECK_STATUS(event.status, OK);
    CHECK_STATUS(blaze_model_unload(rig.engine, event.model, NULL, NULL), OK);
    blaze_event_release(&event);
    blaze_ticket ticket = start(&rig, TELLING), other = 0;
    CHECK_STATUS(blaze_model_load_async(rig.engine, MOCK("m", ""), rig.queue, 0, &other, NULL), QUEUE_FULL);
    blaze_model model = 0;
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (blaze_model_find(rig.engine, "small", &model) != BLAZE_STATUS_OK && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    sleep_ns(50 * MILLISECOND);
    event = progress_until_done(&rig, ticket, &count);
    CHECK(count <= 1);
    CHECK_STATUS(event.status, OK);
    blaze_event_release(&event);
    no_event(rig.queue);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    rig.queue = plenty;
    rig_down(&rig);
}

/* Until health says that so many models are being loaded. */
static void wait_for_loads(struct rig *rig, long long count) {
    for (int look = 0; look < 5000 && json_count(health_text(rig->engine), "loading") != count; look++) sleep_ns(MILLISECOND);
    CHECK_INT(json_count(health_text(rig->engine), "loading"), count);
}

static void a_load_is_given_up_in_whichever_stage_it_is(void) {
    struct rig rig = new_rig("{\"loading\": {\"concurrency\": 1}}");
    blaze_ticket first = start(&rig, MOCK("a", ENDLESS));
    wait_for_loads(&rig, 1);
    blaze_ticket waiting = start(&rig, MOCK("b", ENDLESS));
    wait_for_loads(&rig, 2);
    CHECK_JSON(health_text(rig.engine), "loading[0]", "a:1");
    CHECK_JSON(health_text(rig.engine), "loading[1]", "b:1");
    uint64_t started = blaze_now_ns();
    CHECK_STATUS(blaze_cancel(rig.engine, waiting), OK); /* waits for its turn */
    EXPECT_EVENT(rig.queue, waiting, CANCELLED);
    CHECK_STATUS(blaze_cancel(rig.engine, first), OK); /* reads */
    EXPECT_EVENT(rig.queue, first, CANCELLED);
    CHECK(blaze_now_ns() - started < 10 * SECOND);
    CHECK_STATUS(blaze_cancel(rig.engine, first), NOT_FOUND);
    EXPECT_EVENT(rig.queue, start(&rig, MOCK("c", "")), OK);
    blaze_model model = 0;
    CHECK_STATUS(blaze_model_find(rig.engine, "c", &model), OK);
    CHECK_STATUS(blaze_model_unload(rig.engine, model, NULL, NULL), OK);

    unsigned cancelled = 0, at_stage[COUNT(stages)] = {0}; /* a real one, here and there */
    for (unsigned round = 0; round < 60; round++) {
        blaze_ticket ticket = start(&rig, TELLING);
        unsigned wanted = round % COUNT(stages);
        blaze_event event;
        int asked = 0;
        do {
            event = next_event(rig.queue);
            int stage = event.kind == BLAZE_EVENT_PROGRESS ? stage_of(event.text) : -1;
            if (!asked && stage >= (int)wanted) {
                asked = 1;
                at_stage[stage] += blaze_cancel(rig.engine, ticket) == BLAZE_STATUS_OK;
            }
            if (event.kind != BLAZE_EVENT_DONE) blaze_event_release(&event);
        } while (event.kind != BLAZE_EVENT_DONE);
        if (event.status == BLAZE_STATUS_OK) {
            CHECK_STATUS(blaze_model_unload(rig.engine, event.model, NULL, NULL), OK);
        } else {
            CHECK_STATUS(event.status, CANCELLED);
            cancelled++;
            uint64_t until = blaze_now_ns() + PATIENCE; /* until the loader has noticed */
            while (blaze_model_find(rig.engine, "small:1", &model) == BLAZE_STATUS_OK && blaze_now_ns() < until)
                sleep_ns(MILLISECOND);
            CHECK_STATUS(blaze_model_find(rig.engine, "small:1", &model), NOT_FOUND);
        }
        blaze_event_release(&event);
    }
    no_event(rig.queue); /* "none after the terminal one" */
    printf("  %u cancelled (%u %u %u %u %u)\n", cancelled, at_stage[0], at_stage[1], at_stage[2], at_stage[3], at_stage[4]);
    CHECK_STATUS(blaze_model_load(rig.engine, SMALL, &model, NULL), OK); /* when the last is through */
    CHECK_STATUS(blaze_model_unload(rig.engine, model, NULL, NULL), OK);
    CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    CHECK_INT(used(rig.engine), 0);
    rig_down(&rig);
}

struct asker {
    blaze_engine *engine;
    const char *config;
    blaze_model model;
    blaze_status status;
};

static void *ask(void *argument) {
    struct asker *asker = argument;
    asker->status = blaze_model_load(asker->engine, asker->config, &asker->model, NULL);
    return NULL;
}

static void who_asks_for_the_same_at_once_gets_the_same(void) {
    const char *const configs[] = {MOCK("m", SLOW), SMALL};
    for (size_t i = 0; i < COUNT(configs); i++) {
        struct rig rig = new_rig(NULL);
        struct asker askers[6];
        pthread_t threads[COUNT(askers)];
        uint64_t started = blaze_now_ns();
        for (size_t t = 0; t < COUNT(askers); t++) {
            askers[t] = (struct asker){rig.engine, configs[i], 0, 0};
            REQUIRE(pthread_create(&threads[t], NULL, ask, &askers[t]) == 0);
        }
        blaze_ticket ticket = start(&rig, configs[i]);
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.ticket, ticket);
        CHECK_STATUS(event.status, OK);
        for (size_t t = 0; t < COUNT(askers); t++) {
            pthread_join(threads[t], NULL);
            CHECK_STATUS(askers[t].status, OK);
            CHECK_INT(askers[t].model, event.model);
        }
        if (i == 0) CHECK(blaze_now_ns() - started < 3 * LATENCY_NS); /* two at a time would have taken four */
        CHECK_INT(json_count(health_text(rig.engine), "models"), 1);
        CHECK_STATUS(blaze_model_unload(rig.engine, event.model, NULL, NULL), OK); /* once, for all */
        CHECK_INT(used(rig.engine), 0);
        blaze_event_release(&event);
        rig_down(&rig);
    }
}

static void of_two_who_ask_for_the_same_one_may_give_up(void) {
    struct rig rig = new_rig(NULL);
    struct call call;
    for (int which = 0; which < 2; which++) {
        blaze_ticket tickets[2] = {start(&rig, MOCK("m", SLOW)), 0};
        sleep_ns(20 * MILLISECOND);
        tickets[1] = start(&rig, MOCK("m", SLOW));
        sleep_ns(20 * MILLISECOND);
        CHECK_STATUS(blaze_cancel(rig.engine, tickets[which]), OK);
        EXPECT_EVENT(rig.queue, tickets[which], CANCELLED);
        blaze_event event = next_event(rig.queue), answer = BLAZE_EVENT_INIT;
        CHECK_INT(event.ticket, tickets[!which]);
        CHECK_STATUS(event.status, OK);
        sleep_ns(20 * MILLISECOND);
        CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, event.model), PATIENCE, &answer, NULL), OK);
        blaze_event_release(&answer);
        CHECK_STATUS(blaze_model_unload(rig.engine, event.model, NULL, NULL), OK);
        blaze_event_release(&event);
    }
    blaze_ticket first = start(&rig, MOCK("m", SLOW)), other;
    sleep_ns(20 * MILLISECOND);
    other = start(&rig, MOCK("m", SLOW ", \"memory_bytes\": 5")); /* another configuration meanwhile */
    EXPECT_EVENT(rig.queue, other, ALREADY_EXISTS);
    CHECK_STATUS(blaze_cancel(rig.engine, first), OK);
    EXPECT_EVENT(rig.queue, first, CANCELLED);

    /* A load that is cancelled in the last moment must not take away what another has. */
    blaze_model mine = 0;
    CHECK_STATUS(blaze_model_load(rig.engine, MOCK("n", ""), &mine, NULL), OK);
    unsigned cancelled = 0;
    for (unsigned round = 0; round < 1000; round++) {
        first = start(&rig, MOCK("n", ""));
        for (volatile unsigned spin = 0; spin < round * 20; spin++) {}
        blaze_cancel(rig.engine, first);
        blaze_event event = next_event(rig.queue);
        cancelled += event.status == BLAZE_STATUS_CANCELLED;
        if (event.status == BLAZE_STATUS_OK) CHECK_INT(event.model, mine);
        blaze_event_release(&event);
    }
    sleep_ns(20 * MILLISECOND);
    printf("  %u cancelled\n", cancelled);
    rig.model = mine;
    still_works(&rig);
    rig_down(&rig);
}

static void so_many_are_loaded_at_once(void) {
    const struct { const char *config; unsigned rounds; } cases[] = {
        {"{\"loading\": {\"concurrency\": 1}}", 4}, {NULL, 2}, {"{\"loading\": {\"concurrency\": 4}}", 1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t took = UINT64_MAX; /* the shortest: machines pause */
        for (int attempt = 0; attempt < 10 && took >= 2 * cases[i].rounds * LATENCY_NS; attempt++) {
            struct rig rig = new_rig(cases[i].config);
            uint64_t started = blaze_now_ns();
            const char *const configs[] = {MOCK("a", SLOW), MOCK("b", SLOW), MOCK("c", SLOW), MOCK("d", SLOW)};
            for (size_t n = 0; n < COUNT(configs); n++) start(&rig, configs[n]);
            for (size_t n = 0; n < COUNT(configs); n++) {
                blaze_event event = next_event(rig.queue);
                CHECK_STATUS(event.status, OK);
                blaze_event_release(&event);
            }
            uint64_t this_time = blaze_now_ns() - started;
            CHECK(this_time >= cases[i].rounds * LATENCY_NS);
            if (this_time < took) took = this_time;
            rig_down(&rig);
            if (getenv("BLAZE_SHORT")) break; /* instrumented: how long it takes says nothing */
        }
        if (!getenv("BLAZE_SHORT")) CHECK(took < 2 * cases[i].rounds * LATENCY_NS);
    }
    blaze_engine *engine = NULL;
    blaze_error error = {.status = 0};
    const char *const bad[] = {"{\"loading\": {\"concurrency\": 0}}", "{\"loading\": {\"concurrency\": 257}}",
                               "{\"loading\": {\"concurrency\": null}}"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        CHECK_STATUS(blaze_engine_create(bad[i], &engine, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, "loading.concurrency");
    }
}

/* All that the header says a receipt has. */
static void check_receipt(const char *text, const char *model) {
    CHECK(json_is_valid(text));
    CHECK_JSON(text, "model", model);
    long long before = json_number(text, "bytes_before"), after = json_number(text, "bytes_after"), stayed = 0;
    CHECK_INT(json_number(text, "freed_bytes"), before - after);
    CHECK(after >= 0 && before >= after);
    char path[64];
    for (long i = 0; i < json_count(text, "stayed"); i++) {
        snprintf(path, sizeof path, "stayed[%ld].bytes", i);
        stayed += json_number(text, path);
        snprintf(path, sizeof path, "stayed[%ld].what", i);
        CHECK(strlen(json_text(text, path)) > 10);
    }
    CHECK_INT(stayed, after);
    CHECK(json_at(text, "process_bytes_before") && json_at(text, "process_bytes_after"));
}

static void unload(struct rig *rig, blaze_model model, char *receipt, size_t size) {
    blaze_ticket ticket = 0;
    CHECK_STATUS(blaze_model_unload(rig->engine, model, rig->queue, &ticket), OK);
    blaze_event event = next_event(rig->queue);
    CHECK_INT(event.ticket, ticket);
    CHECK_INT(event.user_data, 0);
    CHECK_STATUS(event.status, OK);
    CHECK_INT(event.text_bytes, event.text ? strlen(event.text) : 0);
    snprintf(receipt, size, "%s", event.text ? event.text : "");
    blaze_event_release(&event);
}

static void an_unload_gives_a_receipt(void) {
    struct rig rig = new_rig(NULL);
    char receipt[4096];
    blaze_model model = load_model(rig.engine, SMALL);
    uint64_t before = used(rig.engine);
    unload(&rig, model, receipt, sizeof receipt);
    check_receipt(receipt, "small:1");
    CHECK(json_number(receipt, "bytes_before") > 300000 && (uint64_t)json_number(receipt, "bytes_before") <= before);
    CHECK_JSON(receipt, "stayed", "[]");
    CHECK_INT(used(rig.engine), 0);
    CHECK_JSON(health_text(rig.engine), "recent[-1].what", "unloaded");
    CHECK_JSON(health_text(rig.engine), "recent[-1].model", "small:1");
    CHECK_INT(health_number(rig.engine, "recent[-1].bytes_before"), json_number(receipt, "bytes_before"));

    /* What an event holds stays until it is released. */
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    static float data[64];
    model = load_model(rig.engine, SMALL);
    CHECK_STATUS(blaze_infer(rig.engine, call_with(&call, model, data, 1, 64), PATIENCE, &event, NULL), OK);
    unload(&rig, model, receipt, sizeof receipt);
    check_receipt(receipt, "small:1");
    CHECK(json_number(receipt, "bytes_after") > 0);
    CHECK_TEXT(json_text(receipt, "stayed[0].what"), "event");
    CHECK(used(rig.engine) > 0);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    CHECK_INT(used(rig.engine), 0);

    /* Two names of one file have its weights in common. */
    blaze_model one = load_model(rig.engine, "{\"name\": \"one\", " SMALL_FILE "}");
    before = used(rig.engine);
    blaze_model two = load_model(rig.engine, "{\"name\": \"two\", " SMALL_FILE "}");
    CHECK(used(rig.engine) < 2 * before);
    unload(&rig, one, receipt, sizeof receipt);
    check_receipt(receipt, "one:1");
    CHECK(json_number(receipt, "bytes_after") > 300000);
    CHECK_TEXT(json_text(receipt, "stayed[0].what"), "another model");
    CHECK_STATUS(blaze_infer(rig.engine, call_with(&call, two, data, 1, 64), PATIENCE, &event, NULL), OK);
    blaze_event_release(&event);
    unload(&rig, two, receipt, sizeof receipt);
    check_receipt(receipt, "two:1");
    CHECK_INT(json_number(receipt, "bytes_after"), 0);
    CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    CHECK_INT(used(rig.engine), 0);
    rig_down(&rig);
}

static void models_are_warmed_up_as_their_configuration_says(void) {
    blaze_engine *engine = new_engine(NULL);
    const struct { const char *warmup, *path; } bad[] = {
        {"1", "warmup"},
        {"\"yes\"", "warmup"},
        {"{\"size\": [1]}", "warmup.size"},
        {"{\"sizes\": [0]}", "warmup.sizes"},
        {"{\"sizes\": [65]}", "warmup.sizes"},
        {"{\"sizes\": 3}", "warmup.sizes"},
        {"{\"inputs\": {\"none\": {}}}", "warmup.inputs.none"},
        {"{\"inputs\": {\"x\": {\"data\": [1, 2, 3]}}}", "warmup.inputs.x: data"},
        {"{\"inputs\": {\"x\": {\"more\": 1}}}", "warmup.inputs.x.more"},
        {"{\"inputs\": {\"x\": {\"fill\": \"1\"}}}", "warmup.inputs.x.fill"},
        {"{\"inputs\": {\"x\": 1}}", "warmup.inputs.x"},
        {"{\"inputs\": []}", "warmup.inputs"},
    };
    char config[512];
    blaze_model model = 0;
    for (size_t i = 0; i < COUNT(bad); i++) {
        blaze_error error = {.status = 0};
        snprintf(config, sizeof config, "{\"name\": \"m\", \"path\": \"tests/models/identity_f32.onnx\", \"warmup\": %s}",
                 bad[i].warmup);
        blaze_status status = blaze_model_load(engine, config, &model, &error);
        if (status != BLAZE_STATUS_INVALID_CONFIG || !strstr(error.message, bad[i].path))
            FAIL("%s: %s: %s, without %s", bad[i].warmup, blaze_status_name(status), error.message, bad[i].path);
        if (status == BLAZE_STATUS_OK) CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), OK);
    }
    CHECK_INT(used(engine), 0);
    const char *const good[] = {"true", "false", "{}", "{\"sizes\": [64, 1, 7]}", "{\"inputs\": {\"x\": {\"fill\": -2.5}}}",
                                "{\"inputs\": {\"x\": {\"data\": [1, 2, 3, 4]}}}", "{\"sizes\": [2], \"inputs\": {\"x\": {\"shape\": [1, 4]}}}"};
    for (size_t i = 0; i < COUNT(good); i++) {
        snprintf(config, sizeof config, "{\"name\": \"m\", \"path\": \"tests/models/identity_f32.onnx\", \"warmup\": %s}",
                 good[i]);
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        model = load_model(engine, config);
        CHECK_STATUS(blaze_infer(engine, simple_call(&call, model), PATIENCE, &event, NULL), OK);
        CHECK_FLOATS(floats(&event, 0), 1, 2, 3, 4); /* not what it was warmed up with */
        blaze_event_release(&event);
        blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
        CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
        CHECK_INT(metrics.requests_accepted, i + 1); /* warm-up runs are no requests */
        CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), OK);
    }
    CHECK_INT(used(engine), 0);
    blaze_engine_destroy(engine);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_load_tells_how_far_it_has_come_if_it_is_asked_to),
        TEST(progress_needs_no_room_and_what_was_not_looked_at_is_left_out),
        TEST(a_load_is_given_up_in_whichever_stage_it_is),
        TEST(who_asks_for_the_same_at_once_gets_the_same),
        TEST(of_two_who_ask_for_the_same_one_may_give_up),
        TEST(so_many_are_loaded_at_once),
        TEST(an_unload_gives_a_receipt),
        TEST(models_are_warmed_up_as_their_configuration_says),
    };
    return RUN_TESTS(tests, argc, argv);
}
