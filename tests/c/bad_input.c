/* Calls that are wrong in every way: each is refused with its status, the message names the thing, and the engine works
 * on as before. Tensors are in bad_tensors.c, configurations and model files in bad_config.c. */
#include "check.h"

static struct rig rig;

static void set_up(void) {
    rig = rig_up(NULL, "", "");
}

/* Nothing was accepted, and what is right is still answered. */
static void tear_down(void) {
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    no_event(rig.queue);
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.requests_accepted, metrics.requests_ok);
    still_works(&rig);
    rig_down(&rig);
}

static void every_pointer_may_be_null_and_is_found_out(void) {
    set_up();
    struct call call;
    const blaze_request *request = simple_call(&call, rig.model);
    const char *mock = "{\"name\": \"n\", \"backend\": \"mock\"}";
    char text[64];
    blaze_engine *engine = NULL;
    blaze_queue *queue = NULL;
    blaze_model model = 0;
    blaze_ticket ticket = 0;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_tensor view = BLAZE_TENSOR_INIT;
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    uint32_t did = 0;
    size_t needed = 0;
    int fd = -1;
#define NULL_IN(call) CHECK_STATUS(call, NULL_POINTER)
    NULL_IN(blaze_engine_create(NULL, NULL, NULL));
    NULL_IN(blaze_engine_shutdown(NULL, 0));
    NULL_IN(blaze_pump(NULL, 0, &did));
    NULL_IN(blaze_model_load(NULL, mock, &model, NULL));
    NULL_IN(blaze_model_load(rig.engine, NULL, &model, NULL));
    NULL_IN(blaze_model_load(rig.engine, mock, NULL, NULL));
    NULL_IN(blaze_model_load_memory(NULL, mock, "x", 1, &model, NULL));
    NULL_IN(blaze_model_load_memory(rig.engine, NULL, "x", 1, &model, NULL));
    NULL_IN(blaze_model_load_memory(rig.engine, mock, NULL, 1, &model, NULL));
    NULL_IN(blaze_model_load_memory(rig.engine, mock, "x", 1, NULL, NULL));
    NULL_IN(blaze_model_load_async(NULL, mock, rig.queue, 0, &ticket, NULL));
    NULL_IN(blaze_model_load_async(rig.engine, NULL, rig.queue, 0, &ticket, NULL));
    NULL_IN(blaze_model_load_async(rig.engine, mock, NULL, 0, &ticket, NULL));
    NULL_IN(blaze_model_load_async(rig.engine, mock, rig.queue, 0, NULL, NULL));
    NULL_IN(blaze_model_find(NULL, "mock", &model));
    NULL_IN(blaze_model_find(rig.engine, NULL, &model));
    NULL_IN(blaze_model_find(rig.engine, "mock", NULL));
    NULL_IN(blaze_model_info(NULL, rig.model, text, sizeof text, &needed));
    NULL_IN(blaze_model_info(rig.engine, rig.model, NULL, 64, &needed));
    NULL_IN(blaze_model_unload(NULL, rig.model, rig.queue, &ticket));
    NULL_IN(blaze_event_output(NULL, 0, &view));
    NULL_IN(blaze_event_output(&event, 0, NULL));
    NULL_IN(blaze_submit(NULL, request, rig.queue, &ticket, NULL));
    NULL_IN(blaze_submit(rig.engine, NULL, rig.queue, &ticket, NULL));
    NULL_IN(blaze_submit(rig.engine, request, NULL, &ticket, NULL));
    NULL_IN(blaze_infer(NULL, request, 0, &event, NULL));
    NULL_IN(blaze_infer(rig.engine, NULL, 0, &event, NULL));
    NULL_IN(blaze_infer(rig.engine, request, 0, NULL, NULL));
    NULL_IN(blaze_cancel(NULL, 1));
    NULL_IN(blaze_queue_create(NULL, 8, &queue, NULL));
    NULL_IN(blaze_queue_create(rig.engine, 8, NULL, NULL));
    NULL_IN(blaze_queue_fd(NULL, &fd));
    NULL_IN(blaze_queue_fd(rig.queue, NULL));
    NULL_IN(blaze_health(NULL, &health));
    NULL_IN(blaze_health(rig.engine, NULL));
    NULL_IN(blaze_health_json(NULL, text, sizeof text, &needed));
    NULL_IN(blaze_health_json(rig.engine, NULL, 64, &needed));
    NULL_IN(blaze_metrics(NULL, &metrics));
    NULL_IN(blaze_metrics(rig.engine, NULL));
    NULL_IN(blaze_metrics_text(NULL, BLAZE_METRICS_JSON, text, sizeof text, &needed));
    NULL_IN(blaze_metrics_text(rig.engine, BLAZE_METRICS_JSON, NULL, 64, &needed));
    CHECK_INT(blaze_poll(NULL, &event, sizeof event, 1), 0);
    CHECK_INT(blaze_poll(rig.queue, NULL, sizeof event, 1), 0);
    CHECK_INT(blaze_poll(rig.queue, NULL, sizeof event, 0), 0);
    CHECK_INT(blaze_wait(NULL, &event, sizeof event, 1, PATIENCE), 0);
    CHECK_INT(blaze_wait(rig.queue, NULL, sizeof event, 1, PATIENCE), 0);
    blaze_engine_destroy(NULL);
    CHECK_STATUS(blaze_queue_destroy(NULL), OK);
    blaze_event_release(NULL);
    CHECK(!engine && !queue && !model && !ticket && fd == -1);
    tear_down();
}

static void what_is_null_is_named(void) {
    set_up();
    struct call call;
    blaze_error error = {.status = 0};
    blaze_event event = BLAZE_EVENT_INIT;
    simple_call(&call, rig.model);
#define NAMES(call, name)                        \
    do {                                         \
        error = (blaze_error){0, "", 0};            \
        CHECK_STATUS(call, NULL_POINTER);        \
        CHECK_STATUS(error.status, NULL_POINTER); \
        CHECK_TEXT(error.message, name);         \
    } while (0)
    NAMES(blaze_submit(NULL, &call.request, rig.queue, NULL, &error), "engine");
    NAMES(blaze_submit(rig.engine, NULL, rig.queue, NULL, &error), "request");
    NAMES(blaze_submit(rig.engine, &call.request, NULL, NULL, &error), "queue");
    NAMES(blaze_infer(rig.engine, &call.request, 0, NULL, &error), "out");
    NAMES(blaze_infer(rig.engine, NULL, 0, &event, &error), "request");
    NAMES(blaze_engine_create(NULL, NULL, &error), "out");
    NAMES(blaze_queue_create(rig.engine, 1, NULL, &error), "out");
    NAMES(blaze_model_load(rig.engine, NULL, &rig.model, &error), "model_json");
    NAMES(blaze_model_load_memory(rig.engine, "{\"name\": \"n\"}", NULL, 1, &rig.model, &error), "data");
    tear_down();
}

static void flags_of_1(struct call *c) { c->request.flags |= 4; }
static void flags_of_all(struct call *c) { c->request.flags = UINT32_MAX; }
static void reserved_set(struct call *c) { c->request.reserved = 1; }
static void priority_too_low(struct call *c) { c->request.priority = -2; }
static void priority_too_high(struct call *c) { c->request.priority = 3; }
static void priority_least(struct call *c) { c->request.priority = INT32_MIN; }
static void priority_most(struct call *c) { c->request.priority = INT32_MAX; }
static void model_none(struct call *c) { c->request.model = 0; }
static void model_garbage(struct call *c) { c->request.model = UINT64_MAX; }
static void model_near(struct call *c) { c->request.model++; }
static void model_older(struct call *c) { c->request.model -= UINT64_C(1) << 32; }
static void inputs_null(struct call *c) { c->request.inputs = NULL; }
static void inputs_none(struct call *c) { c->request.inputs_count = 0; }
static void inputs_billions(struct call *c) { c->request.inputs_count = UINT32_MAX; }
static void outputs_null(struct call *c) { c->request.outputs_count = 1; }

static void a_request_with_garbage_in_it_is_refused(void) {
    const struct wrong cases[] = {
        {BLAZE_STATUS_INVALID_ARGUMENT, "flags", flags_of_1},
        {BLAZE_STATUS_INVALID_ARGUMENT, "flags", flags_of_all},
        {BLAZE_STATUS_INVALID_ARGUMENT, "reserved", reserved_set},
        {BLAZE_STATUS_INVALID_ARGUMENT, "priority", priority_too_low},
        {BLAZE_STATUS_INVALID_ARGUMENT, "priority", priority_too_high},
        {BLAZE_STATUS_INVALID_ARGUMENT, "priority", priority_least},
        {BLAZE_STATUS_INVALID_ARGUMENT, "priority", priority_most},
        {BLAZE_STATUS_NOT_FOUND, "model", model_none},
        {BLAZE_STATUS_NOT_FOUND, "model", model_garbage},
        {BLAZE_STATUS_NOT_FOUND, "model", model_near},
        {BLAZE_STATUS_NOT_FOUND, "model", model_older},
        {BLAZE_STATUS_NULL_POINTER, "inputs", inputs_null},
        {BLAZE_STATUS_INVALID_NAME, "\"x\" is missing", inputs_none},
        {BLAZE_STATUS_INVALID_ARGUMENT, "inputs_count", inputs_billions},
        {BLAZE_STATUS_NULL_POINTER, "outputs", outputs_null},
    };
    set_up();
    expect_refused(&rig, cases, COUNT(cases), 0);
    expect_refused(&rig, cases, COUNT(cases), BLAZE_REQUEST_BORROW);
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.requests_rejected, 4 * COUNT(cases)); /* "Submits that were refused." */
    CHECK_INT(metrics.requests_accepted, 0);
    tear_down();
}

static void stale_and_garbage_handles_are_not_found(void) {
    set_up();
    blaze_model stale = load_mock(rig.engine, "stale", "", ""), found = 0;
    CHECK_STATUS(blaze_model_unload(rig.engine, stale, NULL, NULL), OK);
    blaze_model newer = load_mock(rig.engine, "newer", "", ""); /* in the same place of the table */
    const blaze_model models[] = {0, 1, stale, UINT64_MAX, newer + 1, newer ^ (UINT64_C(1) << 40), newer & UINT32_MAX};
    struct call call;
    size_t needed = 0;
    for (size_t i = 0; i < COUNT(models); i++) {
        CHECK_STATUS(blaze_model_info(rig.engine, models[i], NULL, 0, &needed), NOT_FOUND);
        CHECK_STATUS(blaze_model_unload(rig.engine, models[i], NULL, NULL), NOT_FOUND);
        CHECK_STATUS(blaze_model_unload(rig.engine, models[i], rig.queue, NULL), NOT_FOUND);
        CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, models[i]), rig.queue, NULL, NULL), NOT_FOUND);
    }
    blaze_ticket done = submit_simple(&rig, 0);
    EXPECT_EVENT(rig.queue, done, OK);
    const blaze_ticket tickets[] = {0, 1, done, done + 1, UINT64_MAX, rig.model, done & UINT32_MAX, UINT64_C(1) << 63};
    for (size_t i = 0; i < COUNT(tickets); i++) CHECK_STATUS(blaze_cancel(rig.engine, tickets[i]), NOT_FOUND);
    CHECK_STATUS(blaze_model_find(rig.engine, "stale", &found), NOT_FOUND);
    CHECK_STATUS(blaze_model_find(rig.engine, "m\xff", &found), INVALID_ARGUMENT);
    tear_down();
}

static void what_belongs_to_another_engine_is_refused(void) {
    set_up();
    struct rig other = rig_up(NULL, HANGS_ALWAYS, ALONE);
    struct call call;
    blaze_error error = {.status = 0};
    blaze_ticket ticket = submit_blocker(&other), out = 0;
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), NOT_FOUND);
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, other.model), rig.queue, NULL, &error), NOT_FOUND);
    CHECK_STATUS(blaze_model_info(rig.engine, other.model, NULL, 0, &(size_t){0}), NOT_FOUND);
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, rig.model), other.queue, NULL, &error), INVALID_ARGUMENT);
    CHECK_TEXT(error.message, "another engine");
    CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"n\", \"backend\": \"mock\"}", other.queue, 0, &out, &error),
                 INVALID_ARGUMENT);
    CHECK_TEXT(error.message, "queue");
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, other.queue, &out), INVALID_ARGUMENT);
    no_event(other.queue);
    CHECK_INT(out, 0);
    CHECK_STATUS(blaze_cancel(other.engine, ticket), OK); /* still there */
    rig_down(&other);
    tear_down();
}

static void buffers_for_text_must_be_large_enough(void) {
    set_up();
    for (int which = 0; which < 4; which++) {
        static char text[1 << 18];
        size_t needed = 0;
#define ASK(buffer, capacity, needed_)                                                              \
    (which == 0   ? blaze_model_info(rig.engine, rig.model, buffer, capacity, needed_)              \
     : which == 1 ? blaze_health_json(rig.engine, buffer, capacity, needed_)                        \
     : which == 2 ? blaze_metrics_text(rig.engine, BLAZE_METRICS_JSON, buffer, capacity, needed_)   \
                  : blaze_metrics_text(rig.engine, BLAZE_METRICS_PROMETHEUS, buffer, capacity, needed_))
        CHECK_STATUS(ASK(NULL, 0, &needed), OK);
        CHECK(needed > 2 && needed < sizeof text);
        memset(text, 'z', sizeof text);
        CHECK_STATUS(ASK(text, needed - 1, &(size_t){0}), BUFFER_TOO_SMALL);
        CHECK_STATUS(ASK(text, 0, NULL), BUFFER_TOO_SMALL);
        CHECK(text[0] == 'z'); /* written on success only */
        blaze_status status;
        do { /* it may have grown by the next call */
            CHECK_STATUS(ASK(NULL, 0, &needed), OK);
            memset(text, 'z', sizeof text);
            status = ASK(text, needed, NULL);
        } while (status == BLAZE_STATUS_BUFFER_TOO_SMALL);
        CHECK_STATUS(status, OK);
        CHECK(strlen(text) + 1 <= needed);
        CHECK(text[needed] == 'z');
        CHECK_STATUS(ASK(NULL, 0, NULL), NULL_POINTER); /* nothing to do for it */
    }
    const blaze_metrics_format formats[] = {0, 4, UINT32_MAX};
    for (size_t i = 0; i < COUNT(formats); i++)
        CHECK_STATUS(blaze_metrics_text(rig.engine, formats[i], NULL, 0, &(size_t){0}), INVALID_ARGUMENT);
    tear_down();
}

static void a_queues_capacity_has_its_bounds(void) {
    set_up();
    const uint32_t capacities[] = {0, 16777217, UINT32_MAX};
    blaze_queue *queue = NULL;
    blaze_error error = {.status = 0};
    for (size_t i = 0; i < COUNT(capacities); i++) {
        CHECK_STATUS(blaze_queue_create(rig.engine, capacities[i], &queue, &error), INVALID_ARGUMENT);
        CHECK_TEXT(error.message, "capacity");
    }
    CHECK(!queue);
    CHECK_STATUS(blaze_queue_destroy(new_queue(rig.engine, 16777216)), OK);
    tear_down();
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(every_pointer_may_be_null_and_is_found_out),
        TEST(what_is_null_is_named),
        TEST(a_request_with_garbage_in_it_is_refused),
        TEST(stale_and_garbage_handles_are_not_found),
        TEST(what_belongs_to_another_engine_is_refused),
        TEST(buffers_for_text_must_be_large_enough),
        TEST(a_queues_capacity_has_its_bounds),
    };
    return RUN_TESTS(tests, argc, argv);
}
