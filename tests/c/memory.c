/* The budget: who leaves memory, who stays, who comes back, and what requests see of it. */
#include "json.h"
#include <pthread.h>

#define MIB (UINT64_C(1) << 20)
/* Mocks that take 4 MiB each; in the budget of 10 there is room for two of them, and for what requests need. */
#define BIG "\"memory_bytes\": 4194304"
#define BUDGET "{\"memory\": {\"budget_bytes\": 10485760}}"
#define SLOW BIG ", \"load_latency_us\": 1500000"
#define SLOW_NS (3 * SECOND / 2)

static uint64_t used(blaze_engine *engine) {
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    CHECK_STATUS(blaze_health(engine, &health), OK);
    return health.memory_bytes;
}

static void answers(blaze_engine *engine, blaze_model model) {
    struct rig rig = {engine, NULL, model};
    still_works(&rig);
}

/* Until nobody has used what there is for a while, so that who is used next is the last one for sure. */
/* Longer where everything takes long: who leaves also depends on how long models took to load. */
static void a_while(void) {
    sleep_ns((getenv("BLAZE_SHORT") ? 1500 : 100) * MILLISECOND);
}

static void set_budget(blaze_engine *engine, uint64_t bytes) {
    CHECK_STATUS(blaze_engine_set_budget(engine, bytes), OK);
}

/* Requests may go over the budget for the moment that it takes others to make room, which is done in the background. */
static int fits_soon(blaze_engine *engine, uint64_t budget) {
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (used(engine) > budget && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    return used(engine) <= budget;
}

/* Takes all models out of memory. A lane may still be at a model whose event is there already: then it goes later. */
static void evict_all(blaze_engine *engine) {
    uint64_t until = blaze_now_ns() + PATIENCE;
    set_budget(engine, 0);
    while (health_number(engine, "memory.models_bytes") > 0 && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    CHECK_INT(health_number(engine, "memory.models_bytes"), 0);
    set_budget(engine, BLAZE_BUDGET_UNLIMITED);
}

/* Nothing is left when all is given back. */
static void everything_is_released(struct rig *rig) {
    blaze_model model = 0;
    char name[300];
    while (json_count(health_text(rig->engine), "models") > 0) {
        snprintf(name, sizeof name, "%s", json_text(health_text(rig->engine), "models[0].name"));
        REQUIRE(blaze_model_find(rig->engine, name, &model) == BLAZE_STATUS_OK);
        CHECK_STATUS(blaze_model_unload(rig->engine, model, NULL, NULL), OK);
    }
    blaze_event event = BLAZE_EVENT_INIT;
    while (blaze_poll(rig->queue, &event, sizeof event, 1) == 1) blaze_event_release(&event);
    CHECK_STATUS(blaze_engine_trim(rig->engine), OK);
    const char *text = health_text(rig->engine);
    CHECK_INT(json_number(text, "memory.used_bytes"), 0);
    CHECK_INT(json_number(text, "memory.models_bytes"), 0);
    CHECK_INT(json_number(text, "memory.buffers_bytes"), 0);
    CHECK_INT(used(rig->engine), 0);
    rig_down(rig);
}

static void who_was_not_used_for_longest_leaves_and_comes_back_for_a_request(void) {
    struct rig rig = rig_up(BUDGET, BIG, "");
    blaze_model other = load_mock(rig.engine, "other", BIG, "");
    answers(rig.engine, other);
    a_while();
    still_works(&rig);
    CHECK(is_resident(rig.engine, "mock") && is_resident(rig.engine, "other"));
    CHECK_INT(health_number(rig.engine, "memory.evictions"), 0);
    CHECK(used(rig.engine) >= 8 * MIB && used(rig.engine) <= 10 * MIB);

    blaze_model third = load_mock(rig.engine, "third", BIG, "");
    CHECK_TEXT(residence(rig.engine, "other"), "evicted");
    CHECK(is_resident(rig.engine, "mock") && is_resident(rig.engine, "third"));
    const char *text = health_text(rig.engine);
    CHECK_INT(json_number(text, "memory.evictions"), 1);
    CHECK_INT(json_number(text, "memory.budget_bytes"), 10 * MIB);
    CHECK_INT(json_number(text, "memory.models_bytes"), 8 * MIB);
    CHECK_INT(json_number(text, "memory.used_bytes"),
              json_number(text, "memory.models_bytes") + json_number(text, "memory.buffers_bytes") +
                  json_number(text, "memory.caches_bytes"));
    CHECK_JSON(text, "recent[-1].what", "evicted");
    CHECK_JSON(text, "recent[-1].model", "other:1");
    CHECK_INT(json_number(text, "recent[-1].bytes"), 4 * MIB);
    CHECK_TEXT(json_text(text, "recent[-1].reason"), "third:1");
    CHECK_INT(json_number(text, "models[name=other].memory.evictions"), 1);
    CHECK_INT(json_number(text, "models[name=other].memory.bytes"), 4 * MIB);
    CHECK_TEXT(json_text(text, "models[name=other].memory.evicted_because"), "third:1");
    CHECK_JSON(text, "models[name=other].state", "ready");
    CHECK_JSON(text, "state", "ok");

    a_while();
    answers(rig.engine, third);
    answers(rig.engine, other); /* comes back */
    CHECK(is_resident(rig.engine, "other"));
    if (!getenv("BLAZE_SHORT")) CHECK_TEXT(residence(rig.engine, "mock"), "evicted"); /* or, if that loads slowly, the third */
    CHECK_INT(health_number(rig.engine, "models[name=other].memory.reloads"), 1);
    for (int i = 0; i < 3; i++) {
        still_works(&rig);
        answers(rig.engine, other);
        answers(rig.engine, third);
        CHECK(fits_soon(rig.engine, 10 * MIB));
    }
    blaze_model found = 0;
    CHECK_STATUS(blaze_model_find(rig.engine, "other", &found), OK);
    CHECK_INT(found, other); /* the same handle all the time */
    everything_is_released(&rig);
}

static void pinned_models_and_those_from_memory_stay(void) {
    struct rig rig = rig_up(BUDGET, BIG, "\"pinned\": true");
    static char bytes[65536];
    FILE *file = fopen("tests/models/tiny.onnx", "rb");
    REQUIRE(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    blaze_model from_memory = 0, other;
    REQUIRE(blaze_model_load_memory(rig.engine, "{\"name\": \"tiny\"}", bytes, size, &from_memory, NULL) == BLAZE_STATUS_OK);
    load_mock(rig.engine, "other", BIG, "");
    a_while();
    blaze_model third = load_mock(rig.engine, "third", BIG, "");
    CHECK(is_resident(rig.engine, "mock") && is_resident(rig.engine, "tiny") && is_resident(rig.engine, "third"));
    CHECK_TEXT(residence(rig.engine, "other"), "evicted");
    char text[4096];
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, text, sizeof text, NULL), OK);
    CHECK_JSON(text, "pinned", "true");
    CHECK_JSON(text, "evictable", "false");
    CHECK_STATUS(blaze_model_info(rig.engine, from_memory, text, sizeof text, NULL), OK);
    CHECK_JSON(text, "evictable", "false");
    CHECK_STATUS(blaze_model_info(rig.engine, third, text, sizeof text, NULL), OK);
    CHECK_JSON(text, "evictable", "true");

    set_budget(rig.engine, 0);
    CHECK(is_resident(rig.engine, "mock") && is_resident(rig.engine, "tiny"));
    CHECK_TEXT(residence(rig.engine, "third"), "evicted");
    CHECK(used(rig.engine) >= 4 * MIB); /* over the budget, and it tells */
    CHECK_INT(health_number(rig.engine, "memory.budget_bytes"), 0);
    set_budget(rig.engine, 6 * MIB);
    still_works(&rig);
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"x\", \"backend\": \"mock\", \"mock\": {" BIG "}}", &other, &error),
                 OVER_BUDGET); /* beside the pinned one there is no room, ever */
    CHECK_TEXT(error.message, "memory.budget_bytes");
    CHECK_TEXT(error.message, "x:1");
    struct call call;
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, third), PATIENCE, &(blaze_event)BLAZE_EVENT_INIT, &error),
                 OVER_BUDGET);
    CHECK_TEXT(error.message, "memory.budget_bytes");
    set_budget(rig.engine, BLAZE_BUDGET_UNLIMITED);
    CHECK_JSON(health_text(rig.engine), "memory.budget_bytes", "null");
    answers(rig.engine, third);
    everything_is_released(&rig);
}

static void a_request_for_an_evicted_model_is_answered_however_it_comes(void) {
    struct rig rig = rig_up(NULL, BIG, "");
    float data[8] = {1, 2, 3, 4, 5, 6, 7, 8}, answer[8];
    for (int way = 0; way < 8; way++) {
        struct call call;
        blaze_tensor output = BLAZE_TENSOR_INIT;
        call_with(&call, rig.model, data, 2, 4);
        if (way & 1) call.request.flags = BLAZE_REQUEST_BORROW;
        if (way & 2) {
            output.dtype = BLAZE_DTYPE_F32;
            output.data = answer;
            output.size_bytes = sizeof answer;
            call.request.outputs = &output;
            call.request.outputs_count = 1;
        }
        evict_all(rig.engine);
        CHECK_TEXT(residence(rig.engine, "mock"), "evicted");
        blaze_event event = BLAZE_EVENT_INIT;
        if (way & 4) {
            REQUIRE(blaze_infer(rig.engine, &call.request, PATIENCE, &event, NULL) == BLAZE_STATUS_OK);
        } else {
            blaze_ticket ticket = submit(&rig, &call.request);
            event = next_event(rig.queue);
            CHECK_INT(event.ticket, ticket);
            CHECK_STATUS(event.status, OK);
        }
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9, 11, 13, 15, 17);
        blaze_event_release(&event);
    }
    CHECK_INT(health_number(rig.engine, "models[name=mock].memory.reloads"), 8);
    CHECK_INT(health_number(rig.engine, "models[name=mock].memory.evictions"), 8);
    everything_is_released(&rig);
}

static void many_requests_for_an_evicted_model_bring_it_back_once(void) {
    struct rig rig = rig_up(NULL, BIG ", \"load_latency_us\": 100000", "");
    evict_all(rig.engine);
    for (uint64_t i = 0; i < 100; i++) submit_simple(&rig, i);
    for (int i = 0; i < 100; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    CHECK_INT(health_number(rig.engine, "models[name=mock].memory.reloads"), 1);
    everything_is_released(&rig);
}

static void while_a_model_comes_back_deadlines_and_cancels_act_at_once(void) {
    struct rig rig = rig_up(NULL, SLOW, "");
    evict_all(rig.engine);
    uint64_t started = blaze_now_ns();
    struct call call;
    simple_call(&call, rig.model)->deadline_ns = started + 400 * MILLISECOND;
    blaze_ticket short_one = submit(&rig, &call.request);
    call.request.flags = BLAZE_REQUEST_BORROW;
    blaze_ticket borrowing = submit(&rig, &call.request);
    blaze_ticket cancelled = submit_simple(&rig, 0), patient = submit_simple(&rig, 1);
    CHECK_STATUS(blaze_cancel(rig.engine, cancelled), OK);
    EXPECT_EVENT(rig.queue, cancelled, CANCELLED);
    unsigned expired = 0, released = 0;
    while (expired < 2 || !released) {
        blaze_event event = next_event(rig.queue);
        CHECK(event.ticket == short_one || event.ticket == borrowing);
        if (event.kind == BLAZE_EVENT_DONE) {
            CHECK_STATUS(event.status, EXPIRED);
            expired++;
        }
        if (event.ticket == borrowing) released += !!(event.flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        blaze_event_release(&event);
    }
    CHECK(blaze_now_ns() - started >= 400 * MILLISECOND);
    blaze_error error = {.status = 0};
    call.request.flags = 0;
    call.request.deadline_ns = 0;
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, 20 * MILLISECOND, &(blaze_event)BLAZE_EVENT_INIT, &error), TIMEOUT);
    call.request.deadline_ns = blaze_now_ns() + 20 * MILLISECOND;
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &(blaze_event)BLAZE_EVENT_INIT, &error), EXPIRED);
    if (!getenv("BLAZE_SHORT")) CHECK(blaze_now_ns() - started < SLOW_NS); /* nobody waited for the model */
    CHECK_TEXT(residence(rig.engine, "mock"), "reloading");
    EXPECT_EVENT(rig.queue, patient, OK);
    CHECK(blaze_now_ns() - started >= SLOW_NS);
    still_works(&rig);
    everything_is_released(&rig);
}

/* The model's file is not what it was when it is to come back. */
static void a_reload_that_fails_says_why_to_those_who_wait_and_is_tried_again(void) {
    const char *directory = new_directory();
    char path[200], away[200], config[512];
    snprintf(path, sizeof path, "%s/tiny.onnx", directory);
    snprintf(away, sizeof away, "%s/away.onnx", directory);
    snprintf(config, sizeof config, "{\"name\": \"real\", \"path\": \"%s\"}", path);
    struct rig rig = rig_up(NULL, "", "");
    copy_file("tests/models/tiny.onnx", path);
    rig.model = load_model(rig.engine, config);
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    float right[2];
    REQUIRE(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, NULL) == BLAZE_STATUS_OK);
    memcpy(right, floats(&event, 0), sizeof right);
    blaze_event_release(&event);

    const struct { const char *replacement; blaze_status status; const char *text; } cases[] = {
        {NULL, BLAZE_STATUS_MODEL_NOT_FOUND, "tiny.onnx"},
        {"tests/models/README.md", BLAZE_STATUS_MODEL_INVALID, ""},
        {"tests/models/small.onnx", BLAZE_STATUS_MODEL_INVALID, "changed"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        evict_all(rig.engine);
        CHECK_TEXT(residence(rig.engine, "real"), "evicted");
        CHECK_INT(rename(path, away), 0);
        if (cases[i].replacement) copy_file(cases[i].replacement, path);
        for (uint64_t request = 0; request < 3; request++) submit_simple(&rig, request);
        for (int request = 0; request < 3; request++) {
            event = next_event(rig.queue);
            CHECK_INT(event.status, cases[i].status);
            CHECK_TEXT(event.text, cases[i].text);
            CHECK_TEXT(event.text, "real:1");
            blaze_event_release(&event);
        }
        blaze_error error = {.status = 0};
        CHECK_INT(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, &error), cases[i].status);
        CHECK_TEXT(error.message, cases[i].text);
        CHECK_TEXT(json_text(health_text(rig.engine), "models[name=real].memory.reload_error"), cases[i].text);
        if (!getenv("BLAZE_SHORT")) CHECK(used(rig.engine) < 4096); /* nothing stays of what failed */
        CHECK_INT(rename(away, path), 0); /* as if nothing had been */
        blaze_status status;
        uint64_t until = blaze_now_ns() + 20 * SECOND;
        while ((status = blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error)) != BLAZE_STATUS_OK &&
               blaze_now_ns() < until)
            sleep_ns(20 * MILLISECOND);
        if (status != BLAZE_STATUS_OK) {
            FAIL("case %zu: does not come back: %s", i, error.message);
        } else {
            CHECK_FLOATS(floats(&event, 0), right[0], right[1]);
            blaze_event_release(&event);
            CHECK_JSON(health_text(rig.engine), "models[name=real].memory.reload_error", "null");
        }
    }
    everything_is_released(&rig);
    remove_directory(directory);
}

static void a_model_that_is_away_can_be_unloaded(void) {
    struct rig rig = rig_up(NULL, SLOW, "");
    evict_all(rig.engine);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK); /* without bringing it back first */
    CHECK_INT(used(rig.engine), 0);
    const char *text = health_text(rig.engine);
    CHECK_JSON(text, "recent[-1].what", "unloaded");
    CHECK_JSON(text, "recent[-1].model", "mock:1");
    CHECK_INT(json_number(text, "recent[-1].bytes_before"), 0);
    CHECK_INT(json_number(text, "recent[-1].bytes_after"), 0);

    rig.model = load_mock(rig.engine, "mock", BIG ", \"load_latency_us\": 300000", "");
    for (int way = 0; way < 2; way++) {
        evict_all(rig.engine);
        blaze_ticket tickets[3], unload = 0;
        for (uint64_t i = 0; i < 3; i++) tickets[i] = submit_simple(&rig, i);
        if (way) { /* "requests that it has still end as usual" */
            CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &unload), OK);
        } else {
            CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
        }
        for (int i = 0; i < 3; i++) EXPECT_EVENT(rig.queue, tickets[i], OK);
        if (way) EXPECT_EVENT(rig.queue, unload, OK);
        no_event(rig.queue);
        CHECK_STATUS(blaze_model_find(rig.engine, "mock", &rig.model), NOT_FOUND);
        rig.model = load_mock(rig.engine, "mock", BIG ", \"load_latency_us\": 300000", "");
    }
    everything_is_released(&rig);
}

static void an_engine_ends_while_models_come_back(void) {
    for (int way = 0; way < 3; way++) {
        struct rig rig = rig_up(NULL, SLOW, "");
        evict_all(rig.engine);
        blaze_ticket tickets[3], unload = 0;
        for (uint64_t i = 0; i < 3; i++) tickets[i] = submit_simple(&rig, i);
        if (way == 2) CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &unload), OK);
        sleep_ns(10 * MILLISECOND);
        uint64_t started = blaze_now_ns();
        if (way == 0) CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
        blaze_engine_destroy(rig.engine);
        if (!getenv("BLAZE_SHORT")) CHECK(blaze_now_ns() - started < SLOW_NS / 2); /* the reload was told to stop */
        for (int i = 0; i < 3; i++) EXPECT_EVENT(rig.queue, tickets[i], SHUT_DOWN);
        if (way == 2) {
            blaze_event event = next_event(rig.queue);
            CHECK_INT(event.ticket, unload);
            blaze_event_release(&event);
        }
        CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    }
    /* With time to drain, those who wait are answered. */
    struct rig rig = rig_up(NULL, BIG ", \"load_latency_us\": 100000", "");
    evict_all(rig.engine);
    blaze_ticket ticket = submit_simple(&rig, 0);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, PATIENCE), OK);
    EXPECT_EVENT(rig.queue, ticket, OK);
    rig_down(&rig);
}

static atomic_uint stop;
static atomic_uint answered, refused;

static void *infer_on_and_on(void *argument) {
    const struct rig *rig = argument;
    while (!atomic_load(&stop)) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_infer(rig->engine, simple_call(&call, rig->model), PATIENCE, &event, &error);
        if (status == BLAZE_STATUS_OK) {
            CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            blaze_event_release(&event);
            atomic_fetch_add(&answered, 1);
        } else {
            CHECK_STATUS(status, OVER_BUDGET);
            atomic_fetch_add(&refused, 1);
        }
    }
    return NULL;
}

static void the_budget_changes_while_requests_run(void) {
    struct rig rig = rig_up(NULL, BIG, "");
    struct rig rigs[3] = {rig, rig, rig};
    rigs[1].model = load_mock(rig.engine, "b", BIG, "");
    rigs[2].model = load_mock(rig.engine, "c", BIG, ALONE);
    pthread_t threads[3];
    atomic_store(&stop, 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        REQUIRE(pthread_create(&threads[i], NULL, infer_on_and_on, &rigs[i]) == 0);
    const uint64_t budgets[] = {0, 10 * MIB, BLAZE_BUDGET_UNLIMITED, 5 * MIB, 1, 13 * MIB, UINT64_MAX - 1};
    for (int round = 0; round < 60; round++) {
        set_budget(rig.engine, budgets[(size_t)round % COUNT(budgets)]);
        sleep_ns(5 * MILLISECOND);
    }
    set_budget(rig.engine, BLAZE_BUDGET_UNLIMITED);
    atomic_store(&stop, 1);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    printf("  %u answered, %u refused, %lld evictions\n", atomic_load(&answered), atomic_load(&refused),
           health_number(rig.engine, "memory.evictions"));
    for (size_t i = 0; i < COUNT(rigs); i++) answers(rig.engine, rigs[i].model);
    everything_is_released(&rig);
}

/* Room for one of three, and all three wanted all the time: everyone is answered, nobody starves. */
static void more_models_than_fit_are_served_in_turn(void) {
    struct rig rig = rig_up("{\"memory\": {\"budget_bytes\": 6291456}}", BIG, ALONE);
    struct rig rigs[3] = {rig, rig, rig};
    rigs[1].model = load_mock(rig.engine, "b", BIG, ALONE);
    rigs[2].model = load_mock(rig.engine, "c", BIG, ALONE);
    for (int round = 0; round < 10; round++) {
        for (uint64_t i = 0; i < 30; i++) submit_simple(&rigs[i % 3], i);
        for (int i = 0; i < 30; i++) {
            blaze_event event = next_event(rig.queue);
            CHECK_STATUS(event.status, OK);
            if (event.status == BLAZE_STATUS_OK) CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            else printf("  %s\n", event.text ? event.text : "");
            blaze_event_release(&event);
        }
        CHECK(fits_soon(rig.engine, 6 * MIB));
    }
    everything_is_released(&rig);
}

static void a_model_that_never_fits_is_refused_and_nobody_leaves_for_it(void) {
    struct rig rig = rig_up(BUDGET, BIG, "");
    load_mock(rig.engine, "other", BIG, "");
    still_works(&rig);
    const char *huge[] = {
        "{\"name\": \"huge\", \"backend\": \"mock\", \"mock\": {\"memory_bytes\": 10485761}}",
        "{\"name\": \"huge\", \"backend\": \"mock\", \"mock\": {\"memory_bytes\": 18446744073709551615}}",
    };
    for (size_t i = 0; i < COUNT(huge); i++) {
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_model_load(rig.engine, huge[i], &model, &error), OVER_BUDGET);
        CHECK_TEXT(error.message, "memory.budget_bytes");
        CHECK_TEXT(error.message, "10485760");
        CHECK_TEXT(error.message, "huge:1");
        blaze_ticket ticket = 0;
        CHECK_STATUS(blaze_model_load_async(rig.engine, huge[i], rig.queue, 0, &ticket, &error), OK);
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OVER_BUDGET);
        CHECK_TEXT(event.text, "memory.budget_bytes");
        blaze_event_release(&event);
    }
    CHECK(is_resident(rig.engine, "mock") && is_resident(rig.engine, "other"));
    CHECK_INT(health_number(rig.engine, "memory.evictions"), 0);
    blaze_engine *engine = NULL;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_engine_create("{\"memory\": {\"budget_bytes\": 100}, \"models\": [{\"name\": \"m\", \"backend\":"
                                     " \"mock\", \"mock\": {\"memory_bytes\": 101}}]}", &engine, &error), OVER_BUDGET);
    CHECK_TEXT(error.message, "models[0]");
    CHECK(!engine);
    everything_is_released(&rig);
}

static void a_load_that_finds_no_memory_is_tried_again_after_others_have_left(void) {
    struct rig rig = rig_up(NULL, BIG, "");
    load_mock(rig.engine, "pinned", BIG, "\"pinned\": true");
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"x\", \"backend\": \"mock\", \"mock\": {\"faults\":"
                                  " [{\"kind\": \"load_out_of_memory\"}]}}", &model, &error), OUT_OF_MEMORY);
    CHECK_TEXT(error.message, "x:1");
    CHECK_TEXT(residence(rig.engine, "mock"), "evicted"); /* all that could be done */
    CHECK_TEXT(json_text(health_text(rig.engine), "recent[-1].reason"), "x:1");
    CHECK(is_resident(rig.engine, "pinned"));
    still_works(&rig);
    everything_is_released(&rig);
}

static void outputs_outlive_the_eviction_of_their_model(void) {
    struct rig rig = rig_up(NULL, "", "");
    const char *const models[] = {"tests/models/tiny.onnx", "tests/models/identity_f32.onnx"};
    for (size_t i = 0; i < COUNT(models); i++) {
        char config[256];
        snprintf(config, sizeof config, "{\"name\": \"m%zu\", \"path\": \"%s\"}", i, models[i]);
        rig.model = load_model(rig.engine, config);
        struct call call;
        blaze_event before = BLAZE_EVENT_INIT, after = BLAZE_EVENT_INIT;
        REQUIRE(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &before, NULL) == BLAZE_STATUS_OK);
        float copy[2];
        memcpy(copy, floats(&before, 0), sizeof copy);
        evict_all(rig.engine);
        snprintf(config, sizeof config, "m%zu", i);
        CHECK_TEXT(residence(rig.engine, config), "evicted");
        CHECK_FLOATS(floats(&before, 0), copy[0], copy[1]);
        REQUIRE(blaze_infer(rig.engine, &call.request, PATIENCE, &after, NULL) == BLAZE_STATUS_OK);
        CHECK_FLOATS(floats(&before, 0), copy[0], copy[1]);
        CHECK_FLOATS(floats(&after, 0), copy[0], copy[1]);
        blaze_event_release(&before);
        blaze_event_release(&after);
    }
    everything_is_released(&rig);
}

static const blaze_request *real_call(struct call *call, blaze_model model, int64_t columns) {
    static float data[64];
    for (size_t i = 0; i < COUNT(data); i++) data[i] = (float)i / 16;
    call_with(call, model, data, 1, columns < 0 ? 64 : columns);
    if (columns < 0) { /* an image */
        const int64_t shape[] = {1, 1, 8, 8};
        memcpy(call->shape, shape, sizeof shape);
        call->input.rank = 4;
    }
    return &call->request;
}

/* Whatever the budget: a run that needs more than there is fails, and says so. */
static void a_run_that_needs_more_than_the_budget_fails(void) {
    struct rig rig = rig_up(NULL, "", "");
    const char *const pinned = "{\"name\": \"small\", \"path\": \"tests/models/small.onnx\", \"pinned\": true}";
    rig.model = load_model(rig.engine, pinned);
    CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    static float data[512 * 64];
    uint64_t least = used(rig.engine);
    unsigned ok = 0, over = 0;
    for (uint64_t more = 0; more < 3 * MIB; more += getenv("BLAZE_SHORT") ? MIB / 4 : MIB / 32) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        set_budget(rig.engine, least + more);
        call_with(&call, rig.model, data, 512, 64)->flags = BLAZE_REQUEST_BORROW;
        blaze_status status = blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error);
        if (status == BLAZE_STATUS_OK) {
            ok++;
            blaze_event_release(&event);
        } else {
            CHECK_STATUS(status, OVER_BUDGET);
            CHECK_TEXT(error.message, "memory.budget_bytes");
            over++;
        }
        CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    }
    printf("  %u over the budget, %u within\n", over, ok);
    CHECK(ok > 0 && over > 0);
    everything_is_released(&rig);
}

/* Real models with a budget for some of them: their answers stay what they are without one. */
static void real_models_come_and_go_and_answer_the_same(void) {
    /* No rest, in which buffers would go that the budget is to have room for. */
    struct rig rig = rig_up("{\"memory\": {\"idle_ms\": 3600000}}", "", "");
    const struct { const char *path; int64_t columns; } real[] = {
        {"tests/models/tiny.onnx", 4}, {"tests/models/small.onnx", 64}, {"models/digits/digits.onnx", -1},
        {"tests/models/identity_f32.onnx", 4}};
    blaze_model models[COUNT(real)];
    float right[COUNT(real)][2];
    for (size_t i = 0; i < COUNT(real); i++) {
        char config[256];
        snprintf(config, sizeof config, "{\"name\": \"m%zu\", \"path\": \"%s\", \"batching\": {\"max_rows\": 4}}", i, real[i].path);
        models[i] = load_model(rig.engine, config);
    }
    uint64_t budget = used(rig.engine) * 3 / 4;
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < COUNT(real); i++) {
            struct call call;
            blaze_event event = BLAZE_EVENT_INIT;
            blaze_error error = {.status = 0};
            blaze_status status = blaze_infer(rig.engine, real_call(&call, models[i], real[i].columns), PATIENCE, &event,
                                              &error);
            if (status != BLAZE_STATUS_OK) {
                FAIL("m%zu: %s: %s", i, blaze_status_name(status), error.message);
                continue;
            }
            if (round == 0) memcpy(right[i], floats(&event, 0), sizeof right[i]);
            else CHECK_FLOATS(floats(&event, 0), right[i][0], right[i][1]);
            blaze_event_release(&event);
        }
        if (round > 0) CHECK(fits_soon(rig.engine, budget));
        if (round == 0) set_budget(rig.engine, budget);
    }
    printf("  %lld evictions with %" PRIu64 " bytes\n", health_number(rig.engine, "memory.evictions"), budget);
#ifndef __SANITIZE_ADDRESS__ /* under which nobody knows what sessions take besides their weights */
    if (!getenv("BLAZE_SHORT")) CHECK(health_number(rig.engine, "memory.evictions") > 0);
#endif
    everything_is_released(&rig);
}

/* The settings of ONNX Runtime's memory, each with the others as they are: the answer is the same. */
static void however_memory_is_arranged_the_answer_is_the_same(void) {
    static const char *const engines[] = {
        "{}", "{\"onnxruntime\": {\"arena\": true}}", "{\"onnxruntime\": {\"memory_pattern\": false}}",
        "{\"onnxruntime\": {\"arena\": true, \"memory_pattern\": false}}"};
    static const char *const files[] = {"tests/models/external_data.onnx", "tests/models/small.onnx"};
    float right[COUNT(files)][2] = {{0}};
    for (size_t i = 0; i < COUNT(engines); i++) {
        struct rig rig = {new_engine(engines[i]), NULL, 0};
        for (size_t f = 0; f < COUNT(files); f++) {
            for (int prepack = 1; prepack >= 0; prepack--) {
                char config[256];
                snprintf(config, sizeof config, "{\"name\": \"m%zu%d\", \"path\": \"%s\", \"prepack\": %s}", f, prepack, files[f],
                         prepack ? "true" : "false");
                blaze_model model = load_model(rig.engine, config);
                struct call call;
                blaze_event event = BLAZE_EVENT_INIT;
                const blaze_request *request = real_call(&call, model, f ? 64 : 4);
                REQUIRE(blaze_infer(rig.engine, request, PATIENCE, &event, NULL) == BLAZE_STATUS_OK);
                const float *got = floats(&event, 0);
                if (i == 0 && prepack) memcpy(right[f], got, sizeof right[f]);
                for (int k = 0; k < 2; k++) {
                    float off = got[k] - right[f][k]; /* kernels sum in different orders */
                    CHECK(off < 1e-5f && off > -1e-5f);
                }
                blaze_event_release(&event);
                CHECK(used(rig.engine) > 0);
            }
        }
        blaze_engine_destroy(rig.engine);
    }
}

static void trim_gives_idle_buffers_back_and_models_stay(void) {
    struct rig rig = rig_up("{\"memory\": {\"idle_ms\": 60000}}", BIG, "");
    blaze_model other = load_mock(rig.engine, "other", BIG, ALONE);
    for (int i = 0; i < 5; i++) {
        still_works(&rig);
        answers(rig.engine, other);
    }
    CHECK(used(rig.engine) > 8 * MIB);
    CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    CHECK_INT(health_number(rig.engine, "memory.idle_buffers_bytes"), 0);
    CHECK_INT(used(rig.engine), 8 * MIB);
    CHECK(is_resident(rig.engine, "mock") && is_resident(rig.engine, "other"));
    still_works(&rig);
    CHECK_STATUS(blaze_engine_trim(NULL), NULL_POINTER);
    CHECK_STATUS(blaze_engine_set_budget(NULL, 0), NULL_POINTER);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    set_budget(rig.engine, 5);
    rig_down(&rig);
}

/* "the engine does it by itself after memory.idle_ms without work"; a few batches stay for the next request. */
static void an_engine_at_rest_gives_idle_buffers_back_by_itself(void) {
    struct rig rig = rig_up("{\"memory\": {\"idle_ms\": 20}}", BIG, "");
    enum { ROWS = 200000 };
    float *data = calloc(ROWS, 4 * sizeof *data);
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    REQUIRE(data);
    call_with(&call, rig.model, data, ROWS, 4); /* alone, in buffers of megabytes */
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), OK);
    CHECK(used(rig.engine) >= 6 * MIB);
    blaze_event_release(&event);
    CHECK(fits_soon(rig.engine, 5 * MIB));
    CHECK_INT(health_number(rig.engine, "memory.idle_buffers_bytes"), 0);
    free(data);
    rig_down(&rig);
}

static void the_same_without_threads(void) {
    struct rig rig = rig_up("{\"threads\": 0, \"memory\": {\"budget_bytes\": 10485760}}", BIG, "");
    blaze_model other = load_mock(rig.engine, "other", BIG, ""), third = load_mock(rig.engine, "third", BIG, "");
    CHECK_TEXT(residence(rig.engine, "mock"), "evicted");
    still_works(&rig); /* infer works by itself */
    evict_all(rig.engine);
    blaze_ticket ticket = submit_simple(&rig, 0);
    sleep_ns(20 * MILLISECOND);
    no_event(rig.queue);
    CHECK(!is_resident(rig.engine, "mock"));
    uint32_t did = 0;
    CHECK_STATUS(blaze_pump(rig.engine, PATIENCE, &did), OK);
    CHECK(did >= 2); /* the reload and the run */
    EXPECT_EVENT(rig.queue, ticket, OK);

    evict_all(rig.engine);
    EXPECT_EVENT(rig.queue, submit_simple(&rig, 0), OK); /* so does wait */
    evict_all(rig.engine);
    struct call call;
    simple_call(&call, rig.model)->deadline_ns = blaze_now_ns() + MILLISECOND;
    ticket = submit(&rig, &call.request);
    blaze_ticket cancelled = submit_simple(&rig, 0);
    CHECK_STATUS(blaze_cancel(rig.engine, cancelled), OK);
    EXPECT_EVENT(rig.queue, cancelled, CANCELLED);
    sleep_ns(5 * MILLISECOND);
    EXPECT_EVENT(rig.queue, ticket, EXPIRED);
    still_works(&rig);

    evict_all(rig.engine); /* unloads, with requests that wait */
    blaze_ticket unload = 0, first = submit_simple(&rig, 0);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
    EXPECT_EVENT(rig.queue, first, OK);
    rig.model = other;
    first = submit_simple(&rig, 0);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &unload), OK);
    CHECK_STATUS(blaze_pump(rig.engine, PATIENCE, &did), OK);
    EXPECT_EVENT(rig.queue, first, OK);
    EXPECT_EVENT(rig.queue, unload, OK);
    rig.model = third;
    set_budget(rig.engine, 0);
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, third), rig.queue, NULL, NULL), OVER_BUDGET);
    set_budget(rig.engine, 5 * MIB);
    still_works(&rig);
    evict_all(rig.engine);
    first = submit_simple(&rig, 0);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, PATIENCE), OK);
    EXPECT_EVENT(rig.queue, first, OK);
    rig_down(&rig);

    rig = rig_up("{\"threads\": 0}", BIG, ""); /* ends with a reload that was never pumped */
    evict_all(rig.engine);
    first = submit_simple(&rig, 0);
    blaze_engine_destroy(rig.engine);
    EXPECT_EVENT(rig.queue, first, SHUT_DOWN);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);

    rig = rig_up("{\"threads\": 0}", BIG, "");
    still_works(&rig);
    everything_is_released(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(who_was_not_used_for_longest_leaves_and_comes_back_for_a_request),
        TEST(pinned_models_and_those_from_memory_stay),
        TEST(a_request_for_an_evicted_model_is_answered_however_it_comes),
        TEST(many_requests_for_an_evicted_model_bring_it_back_once),
        TEST(while_a_model_comes_back_deadlines_and_cancels_act_at_once),
        TEST(a_reload_that_fails_says_why_to_those_who_wait_and_is_tried_again),
        TEST(a_model_that_is_away_can_be_unloaded),
        TEST(an_engine_ends_while_models_come_back),
        TEST(the_budget_changes_while_requests_run),
        TEST(more_models_than_fit_are_served_in_turn),
        TEST(a_model_that_never_fits_is_refused_and_nobody_leaves_for_it),
        TEST(a_load_that_finds_no_memory_is_tried_again_after_others_have_left),
        TEST(outputs_outlive_the_eviction_of_their_model),
        TEST(real_models_come_and_go_and_answer_the_same),
        TEST(however_memory_is_arranged_the_answer_is_the_same),
        TEST(a_run_that_needs_more_than_the_budget_fails),
        TEST(trim_gives_idle_buffers_back_and_models_stay),
        TEST(an_engine_at_rest_gives_idle_buffers_back_by_itself),
        TEST(the_same_without_threads),
    };
    return RUN_TESTS(tests, argc, argv);
}
