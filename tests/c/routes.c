/* Routes, through the C ABI alone: who answers, what becomes of requests that a target fails, and what the host sees. */
#include "routes.h"
#include <pthread.h>
#include <unistd.h>

/* What tests need to switch faults on and off. */
static const char *directory;
static char switch_path[128];

static void switch_on(void) { write_file(switch_path, "", 0); }
static void switch_off(void) { CHECK_INT(unlink(switch_path), 0); }

/* The mock's "faults": this kind, while the switch is on. */
static const char *fault(const char *kind) {
    static char text[256];
    snprintf(text, sizeof text, "\"faults\": [{\"kind\": \"%s\", \"while_exists\": \"%s\"}]", kind, switch_path);
    return text;
}

enum { MODELS = 4 };
static const char *const names[MODELS] = {"a", "b", "c", "d"};
static blaze_model models[MODELS];

/* Models "a" to "d", of which the first is a mock like this, and a route "r" to the first `count` of them. */
static struct rig rig_route(const char *engine, const char *mock, int count, const char *more) {
    struct rig rig = {new_engine(engine), NULL, 0};
    char config[2048] = "{\"name\": \"r\", \"targets\": [";
    rig.queue = new_queue(rig.engine, 4096);
    for (int i = 0; i < MODELS; i++) models[i] = load_mock(rig.engine, names[i], i == 0 ? mock : "", "");
    for (int i = 0; i < count; i++)
        sprintf(config + strlen(config), "%s{\"model\": \"%s\"}", i ? ", " : "", names[i]);
    sprintf(config + strlen(config), "]%s%s}", *more ? ", " : "", more);
    rig.model = new_route(rig.engine, config);
    return rig;
}

/* Has one request answered, and well; the model that has. In turn by each way that there is to ask. */
static blaze_model ask_for(struct rig *rig, const blaze_request *request, int way) {
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    if (way % 2) {
        blaze_status status = blaze_infer(rig->engine, request, PATIENCE, &event, &error);
        if (status != BLAZE_STATUS_OK) {
            FAIL("infer: %s: %s", blaze_status_name(status), error.message);
            return 0;
        }
    } else {
        blaze_ticket ticket = submit(rig, request);
        event = next_event(rig->queue);
        CHECK_INT(event.ticket, ticket);
        CHECK_INT(event.kind, BLAZE_EVENT_DONE);
        if (event.status != BLAZE_STATUS_OK) {
            FAIL("%s: %s", blaze_status_name(event.status), event.text);
            blaze_event_release(&event);
            return 0;
        }
    }
    CHECK_INT(event.user_data, request->user_data);
    CHECK_INT(event.outputs_count, 1);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
    CHECK(event.text == NULL);
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    blaze_model model = event.model;
    blaze_event_release(&event);
    return model;
}

static blaze_model ask(struct rig *rig, int way) {
    struct call call;
    simple_call(&call, rig->model)->user_data = (uint64_t)way + 7;
    return ask_for(rig, &call.request, way);
}

static int index_of(blaze_model model) {
    for (int i = 0; i < MODELS; i++)
        if (models[i] == model) return i;
    FAIL("%llx is none of the models", (unsigned long long)model);
    return 0;
}

/* Asks so often; counts who answers. */
static void ask_many(struct rig *rig, int count, int by[MODELS]) {
    memset(by, 0, MODELS * sizeof *by);
    for (int i = 0; i < count; i++) by[index_of(ask(rig, i))]++;
}

#define CHECK_BY(a, b, c, d)                                                                                   \
    do {                                                                                                       \
        if (by[0] != (a) || by[1] != (b) || by[2] != (c) || by[3] != (d))                                      \
            FAIL("answered: %d, %d, %d, %d, not %d, %d, %d, %d", by[0], by[1], by[2], by[3], a, b, c, d);      \
    } while (0)

/* Making, finding, changing -------------------------------------------------------------------------------------- */

static void a_route_is_made_by_configuration_and_found_like_a_model(void) {
    struct rig rig = {new_engine("{\"models\": [{\"name\": \"a\", \"backend\": \"mock\"}, {\"name\": \"b\", \"backend\": \"mock\"},"
                                 " {\"name\": \"c\", \"backend\": \"mock\"}, {\"name\": \"d\", \"backend\": \"mock\"}],"
                                 " \"routes\": [{\"name\": \"r\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"b:1\"},"
                                 " {\"model\": \"later\"}]}]}"), NULL, 0};
    int by[MODELS];
    blaze_model again = 0;
    rig.queue = new_queue(rig.engine, 16);
    for (int i = 0; i < MODELS; i++) CHECK_STATUS(blaze_model_find(rig.engine, names[i], &models[i]), OK);
    CHECK_STATUS(blaze_model_find(rig.engine, "r", &rig.model), OK);
    CHECK(rig.model != 0);
    ask_many(&rig, 40, by);
    CHECK_BY(20, 20, 0, 0);
    CHECK_JSON(info(rig.engine, rig.model), "name", "r");
    CHECK_JSON(info(rig.engine, rig.model), "strategy", "round_robin");
    CHECK_JSON(info(rig.engine, rig.model), "targets[0].state", "ready");
    CHECK_JSON(info(rig.engine, rig.model), "targets[1].model", "b:1");
    CHECK_JSON(info(rig.engine, rig.model), "targets[2].state", "unbound");
    CHECK_JSON(info(rig.engine, rig.model), "inputs[0].name", "x");
    CHECK_JSON(info(rig.engine, rig.model), "inputs[0].dtype", "f32");
    CHECK_JSON(info(rig.engine, rig.model), "outputs[0].name", "y");
    CHECK_JSON(info(rig.engine, rig.model), "config.retry.attempts", "3");
    CHECK_INT(info_number(rig.engine, rig.model, "targets[0].succeeded"), 20);
    /* The same as a model's, by the same two calls. */
    char text[65536];
    size_t needed = 0;
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, NULL, 0, &needed), OK);
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, text, sizeof text, NULL), OK);
    CHECK_JSON(text, "targets[1].model", "b:1");
    at_rest(rig.engine, rig.model);
    blaze_model later = load_mock(rig.engine, "later", "", "");
    CHECK(later != 0);
    CHECK_JSON(info(rig.engine, rig.model), "targets[2].state", "ready");
    int seen = 0;
    for (int i = 0; i < 30; i++) seen += ask(&rig, i) == later;
    CHECK_INT(seen, 10);
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_route_create(rig.engine, "{\"name\": \"r\"}", &again, &error), ALREADY_EXISTS);
    CHECK_STATUS(blaze_route_create(rig.engine, "{\"name\": \"a\"}", &again, &error), ALREADY_EXISTS);
    CHECK_INT(again, 0);
    rig_down(&rig);
}

static void a_route_is_changed_and_destroyed(void) {
    struct rig rig = rig_route(NULL, "", 2, "");
    blaze_error error = {.status = 0};
    int by[MODELS];
    ask_many(&rig, 10, by);
    CHECK_BY(5, 5, 0, 0);
    CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, "{\"model\": \"c\", \"weight\": 2}", &error), OK);
    CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, "{\"model\": \"c\"}", &error), ALREADY_EXISTS);
    CHECK_TEXT(error.message, "\"c\"");
    ask_many(&rig, 12, by);
    CHECK_BY(4, 4, 4, 0);
    CHECK_STATUS(blaze_route_update(rig.engine, rig.model, "{\"name\": \"r\", \"strategy\": \"weighted_round_robin\","
                                    " \"targets\": [{\"model\": \"a\"}, {\"model\": \"b\", \"weight\": 3}]}", &error), OK);
    ask_many(&rig, 40, by);
    CHECK_BY(10, 30, 0, 0);
    CHECK_INT(info_number(rig.engine, rig.model, "targets[0].succeeded"), 5 + 4 + 10); /* "What is known ... is kept" */
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "b", 1), OK);
    CHECK_JSON(info(rig.engine, rig.model), "targets[1].state", "draining");
    ask_many(&rig, 10, by);
    CHECK_BY(10, 0, 0, 0);
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "b", 0), OK);
    ask_many(&rig, 8, by);
    CHECK_BY(2, 6, 0, 0);
    CHECK_STATUS(blaze_route_target_remove(rig.engine, rig.model, "a"), OK);
    CHECK_STATUS(blaze_route_target_remove(rig.engine, rig.model, "a"), NOT_FOUND);
    ask_many(&rig, 8, by);
    CHECK_BY(0, 8, 0, 0);
    /* A target that drains and has nothing in flight can be unloaded; then nobody is left. */
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "b", 1), OK);
    CHECK_INT(info_number(rig.engine, rig.model, "targets[0].in_flight"), 0);
    CHECK_STATUS(blaze_model_unload(rig.engine, models[1], NULL, NULL), OK);
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, rig.model), rig.queue, NULL, &error), NOT_FOUND);
    CHECK_TEXT(error.message, "r");
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, &error), NOT_FOUND);
    CHECK(info_number(rig.engine, rig.model, "no_target") >= 2);
    /* A route that is gone. */
    blaze_model found = 0;
    CHECK_STATUS(blaze_route_destroy(rig.engine, rig.model), OK);
    CHECK_STATUS(blaze_route_destroy(rig.engine, rig.model), NOT_FOUND);
    CHECK_STATUS(blaze_model_find(rig.engine, "r", &found), NOT_FOUND);
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, rig.model), rig.queue, NULL, &error), NOT_FOUND);
    blaze_model fresh = new_route(rig.engine, "{\"name\": \"r\", \"targets\": [{\"model\": \"d\"}]}");
    CHECK(fresh != rig.model);
    rig.model = fresh;
    ask_many(&rig, 4, by);
    CHECK_BY(0, 0, 0, 4);
    rig_down(&rig);
}

static void health_and_metrics_tell_of_routes_and_targets(void) {
    struct rig rig = rig_route("{\"tenants\": {\"list\": [{\"id\": 5, \"class\": \"gold\"}]}}", fault("error"), 2, "");
    switch_on();
    for (int i = 0; i < 20; i++) ask(&rig, i);
    switch_off();
    at_rest(rig.engine, rig.model);
    const char *health = health_text(rig.engine);
    CHECK_JSON(health, "routes[name=r].targets[1].model", "b");
    CHECK(json_number(health, "routes[0].failovers") > 0);
    CHECK(json_number(health, "routes[0].targets[0].failed") >= 5);
    CHECK(json_number(health, "routes[0].targets[0].breaker.opened") >= 1);
    CHECK_JSON(health, "tenants.listed[0].class", "gold");
    static char text[262144];
    CHECK_STATUS(blaze_metrics_text(rig.engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK);
    CHECK_TEXT(text, "blaze_route_failovers_total{route=\"r\"}");
    CHECK_TEXT(text, "target=\"a\"");
    CHECK_TEXT(text, "target=\"b\"");
    CHECK_TEXT(text, "blaze_route_target_requests_total{");
    CHECK_TEXT(text, "blaze_route_target_state{");
    CHECK_TEXT(text, "blaze_route_target_duration_seconds");
    CHECK_STATUS(blaze_metrics_text(rig.engine, BLAZE_METRICS_JSON, text, sizeof text, NULL), OK);
    CHECK(json_is_valid(text));
    CHECK(json_at(text, "routes") != NULL);
    /* Failed attempts are no failed requests. */
    CHECK_JSON(text, "requests.outcomes.failed", "0");
    CHECK_JSON(text, "requests.outcomes.ok", "20");
    CHECK_JSON(text, "requests.in_flight", "0");
    rig_down(&rig);
}

/* Failing over ------------------------------------------------------------------------------------------------- */

static void a_failing_target_costs_no_request(void) {
    const char *const kinds[] = {"error", "panic", "out_of_memory", "device_lost"};
    for (size_t kind = 0; kind < COUNT(kinds); kind++)
        for (int threads = 0; threads < 2; threads++) {
            struct rig rig = rig_route(threads ? NULL : "{\"threads\": 0}", fault(kinds[kind]), 3, "");
            int by[MODELS];
            switch_on();
            ask_many(&rig, 60, by);
            CHECK_INT(by[0], 0);
            CHECK_INT(by[1] + by[2], 60);
            CHECK(info_number(rig.engine, rig.model, "failovers") > 0);
            CHECK(info_number(rig.engine, rig.model, "targets[0].failed") > 0);
            switch_off();
            at_rest(rig.engine, rig.model);
            uint64_t until = blaze_now_ns() + PATIENCE; /* it comes back by itself */
            do {
                ask_many(&rig, 6, by);
                sleep_ns(2 * MILLISECOND);
            } while (by[0] == 0 && blaze_now_ns() < until);
            CHECK(by[0] > 0);
            blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
            CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
            CHECK_INT(metrics.requests_failed, 0);
            CHECK_INT(metrics.in_flight, 0);
            rig_down(&rig);
        }
}

static void many_at_once_are_answered_in_spite_of_a_failing_target(void) {
    struct rig rig = rig_route(NULL, fault("error"), 3, "\"retry\": {\"budget\": 1.0, \"reserve\": 1000}");
    enum { REQUESTS = 600 };
    static unsigned char seen[REQUESTS];
    memset(seen, 0, sizeof seen);
    switch_on();
    for (int i = 0; i < REQUESTS; i++) submit_simple(&rig, (uint64_t)i);
    for (int i = 0; i < REQUESTS; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        if (event.status == BLAZE_STATUS_OK) CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        REQUIRE(event.user_data < REQUESTS);
        CHECK_INT(seen[event.user_data]++, 0);
        CHECK(event.model == models[1] || event.model == models[2]);
        blaze_event_release(&event);
    }
    no_event(rig.queue);
    switch_off();
    at_rest(rig.engine, rig.model);
    rig_down(&rig);
}

static void when_every_target_fails_the_reason_is_told(void) {
    struct rig rig = rig_route(NULL, "\"faults\": [{\"kind\": \"error\"}]", 1, "");
    struct call call;
    for (int i = 0; i < 5; i++) {
        submit_simple(&rig, 0);
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, BACKEND_FAILED);
        CHECK_TEXT(event.text, "injected fault in run");
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        CHECK_INT(event.outputs_count, 0);
        blaze_event_release(&event);
        blaze_error error = {.status = 0};
        event = (blaze_event)BLAZE_EVENT_INIT;
        CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, &error), BACKEND_FAILED);
        CHECK_TEXT(error.message, "injected fault in run");
    }
    /* The last attempt's text comes from another model, and stays after the engine. */
    blaze_model other = load_mock(rig.engine, "e", "\"faults\": [{\"kind\": \"out_of_memory\"}]", "");
    CHECK(other != 0);
    CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, "{\"model\": \"e\"}", NULL), OK);
    submit_simple(&rig, 0);
    blaze_event event = next_event(rig.queue);
    CHECK(event.status == BLAZE_STATUS_BACKEND_FAILED || event.status == BLAZE_STATUS_OUT_OF_MEMORY);
    CHECK_TEXT(event.text, "injected fault in run");
    at_rest(rig.engine, rig.model);
    rig_down(&rig);
    CHECK_TEXT(event.text, "injected fault in run");
    CHECK_INT(strlen(event.text), event.text_bytes);
    blaze_event_release(&event);
}

/* Own buffers and lent inputs, with everything that can become of the first attempt. */
static void buffers_of_the_callers_are_written_by_whoever_answers(void) {
    const char *const kinds[] = {"", "error", "hang", "out_of_memory"};
    for (size_t kind = 0; kind < COUNT(kinds); kind++)
        for (int way = 0; way < 8; way++) {
            int hangs = strcmp(kinds[kind], "hang") == 0; /* until the other one is asked, which has as long */
            struct rig rig = rig_route(NULL, *kinds[kind] ? fault(kinds[kind]) : "", 2,
                                       hangs ? "\"retry\": {\"attempt_timeout_ms\": 400, \"budget\": 1.0}"
                                             : "\"retry\": {\"attempt_timeout_ms\": 20000, \"budget\": 1.0}");
            switch_on();
            for (int round = 0; round < (hangs ? 2 : 6); round++) {
                struct call call;
                /* On the heap, so that sanitizers and valgrind see who writes there too late. */
                float *input = malloc(4 * sizeof *input), *output = malloc(5 * sizeof *output);
                REQUIRE(input && output);
                memcpy(input, ones_to_four, 4 * sizeof *input);
                for (int i = 0; i < 5; i++) output[i] = -7;
                blaze_tensor buffer = BLAZE_TENSOR_INIT;
                buffer.dtype = BLAZE_DTYPE_F32;
                buffer.data = output;
                buffer.size_bytes = 4 * sizeof *output;
                call_with(&call, rig.model, input, 1, 4);
                if (way & 1) call.request.flags = BLAZE_REQUEST_BORROW;
                if (way & 2) {
                    call.request.outputs = &buffer;
                    call.request.outputs_count = 1;
                }
                blaze_event event = BLAZE_EVENT_INIT;
                blaze_error error = {.status = 0};
                if (way & 4) {
                    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), OK);
                } else {
                    submit(&rig, &call.request);
                    event = next_event(rig.queue);
                    CHECK_STATUS(event.status, OK);
                    CHECK_INT(event.kind, BLAZE_EVENT_DONE);
                }
                int more = (event.flags & BLAZE_EVENT_FLAG_MORE) != 0;
                CHECK(more != ((event.flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED) != 0));
                const float *answer = floats(&event, 0);
                CHECK_FLOATS(answer, 3, 5, 7, 9);
                if (way & 2) {
                    CHECK(answer == output);
                    CHECK_FLOATS(output, 3, 5, 7, 9, -7);
                }
                if (!(way & 2)) CHECK_FLOATS(output, -7, -7, -7, -7, -7);
                blaze_event_release(&event);
                if (more) {
                    REQUIRE(!(way & 4)); /* infer waits for it */
                    event = next_event(rig.queue);
                    CHECK_INT(event.kind, BLAZE_EVENT_BUFFERS_RELEASED);
                    blaze_event_release(&event);
                }
                free(input);
                free(output);
            }
            no_event(rig.queue);
            switch_off();
            at_rest(rig.engine, rig.model);
            rig_down(&rig);
        }
}

static void a_buffer_that_is_too_small_is_told_by_whoever_answers(void) {
    struct rig rig = rig_route(NULL, fault("error"), 2, "\"retry\": {\"budget\": 1.0}");
    float output[4] = {-7, -7, -7, -7};
    blaze_tensor buffer = BLAZE_TENSOR_INIT;
    buffer.dtype = BLAZE_DTYPE_F32;
    buffer.data = output;
    buffer.size_bytes = 2 * sizeof *output;
    struct call call;
    switch_on();
    for (int round = 0; round < 4; round++) {
        simple_call(&call, rig.model);
        call.request.outputs = &buffer;
        call.request.outputs_count = 1;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error);
        if (status == BLAZE_STATUS_OK) {
            blaze_event event = next_event(rig.queue);
            status = event.status;
            blaze_event_release(&event);
        }
        CHECK_STATUS(status, BUFFER_TOO_SMALL);
        CHECK_FLOATS(output + 2, -7, -7);
    }
    switch_off();
    at_rest(rig.engine, rig.model);
    rig_down(&rig);
}

static void a_hanging_target_is_noticed(void) {
    for (int threads = 0; threads < 2; threads++) {
        if (!threads) continue; /* without threads nobody can interrupt a run */
        struct rig rig = rig_route(NULL, fault("hang"), 3, "\"retry\": {\"attempt_timeout_ms\": 200}");
        int by[MODELS];
        switch_on();
        ask_many(&rig, 60, by);
        CHECK_INT(by[0], 0);
        CHECK(info_number(rig.engine, rig.model, "timeouts") >= 1);
        switch_off();
        at_rest(rig.engine, rig.model);
        rig_down(&rig);
    }
}

static void a_request_whose_target_hangs_is_cancelled_and_expires(void) {
    struct rig rig = rig_route(NULL, HANGS_ALWAYS, 1, "\"retry\": {\"attempt_timeout_ms\": 0}");
    for (int round = 0; round < 10; round++) {
        blaze_ticket ticket = submit_simple(&rig, 0);
        if (round % 2) sleep_ns(3 * MILLISECOND);
        CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
        EXPECT_EVENT(rig.queue, ticket, CANCELLED);
        CHECK_STATUS(blaze_cancel(rig.engine, ticket), NOT_FOUND);
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        simple_call(&call, rig.model)->deadline_ns = blaze_now_ns() + 5 * MILLISECOND;
        EXPECT_EVENT(rig.queue, submit(&rig, &call.request), EXPIRED);
        call.request.deadline_ns = 0;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, 5 * MILLISECOND, &event, NULL), TIMEOUT);
        call.request.deadline_ns = blaze_now_ns() + 5 * MILLISECOND;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, NULL), EXPIRED);
    }
    no_event(rig.queue);
    at_rest(rig.engine, rig.model);
    rig_down(&rig);
    /* The first hangs, and so does the second, to which the request has gone on. */
    rig = rig_route(NULL, HANGS_ALWAYS, 1, "\"retry\": {\"attempt_timeout_ms\": 100, \"budget\": 1.0}");
    CHECK(load_mock(rig.engine, "e", HANGS_ALWAYS, "") != 0);
    CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, "{\"model\": \"e\"}", NULL), OK);
    for (int round = 0; round < 6; round++) {
        struct call call;
        simple_call(&call, rig.model);
        if (round % 3 == 0) call.request.deadline_ns = blaze_now_ns() + 150 * MILLISECOND;
        blaze_ticket ticket = submit(&rig, &call.request);
        blaze_status cancelled = BLAZE_STATUS_NOT_FOUND;
        if (round % 3 == 1) {
            sleep_ns(150 * MILLISECOND);
            cancelled = blaze_cancel(rig.engine, ticket);
        }
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.ticket, ticket);
        /* On a slow machine the second one has had its time too. */
        if (cancelled == BLAZE_STATUS_OK) CHECK_STATUS(event.status, CANCELLED);
        else if (round % 3 != 0 || event.status != BLAZE_STATUS_EXPIRED) CHECK_STATUS(event.status, TIMEOUT);
        blaze_event_release(&event);
    }
    no_event(rig.queue);
    at_rest(rig.engine, rig.model);
    CHECK(info_number(rig.engine, rig.model, "timeouts") >= 1);
    rig_down(&rig);
}

/* The end of an engine --------------------------------------------------------------------------------------------- */

/* Requests that run, that have gone on to another target, and that wait; `how`: 0 shut down, 1 destroy, 2 drain. */
static void end_with_requests(int how, int threads) {
    struct rig rig = rig_route(threads ? NULL : "{\"threads\": 0}",
                               "\"faults\": [{\"kind\": \"error\", \"share\": 0.5}], \"latency_us\": 200", 3,
                               "\"retry\": {\"budget\": 1.0, \"attempt_timeout_ms\": 5},"
                               " \"limits\": {\"concurrency\": 20, \"waiting\": 1000}");
    enum { REQUESTS = 200 };
    unsigned char seen[REQUESTS] = {0};
    if (threads) { /* on the heap of what runs: one that never ends */
        CHECK(load_mock(rig.engine, "e", HANGS_ALWAYS, "\"lanes\": 2") != 0);
        CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, "{\"model\": \"e\"}", NULL), OK);
    }
    for (int i = 0; i < REQUESTS; i++) submit_simple(&rig, (uint64_t)i);
    if (!threads) CHECK_STATUS(blaze_pump(rig.engine, MILLISECOND, NULL), OK);
    else sleep_ns(8 * MILLISECOND);
    if (how == 0) CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    if (how == 2) CHECK_STATUS(blaze_engine_shutdown(rig.engine, 50 * MILLISECOND), OK);
    if (how == 1) blaze_engine_destroy(rig.engine);
    blaze_event events[REQUESTS + 1];
    uint32_t count = 0, got;
    while ((got = blaze_wait(rig.queue, events + count, sizeof events[0], REQUESTS + 1 - count, 0)) > 0) count += got;
    CHECK_INT(count, REQUESTS);
    if (how == 0) blaze_engine_destroy(rig.engine); /* events live on */
    for (uint32_t i = 0; i < count; i++) {
        CHECK_INT(events[i].kind, BLAZE_EVENT_DONE);
        REQUIRE(events[i].user_data < REQUESTS);
        CHECK_INT(seen[events[i].user_data]++, 0);
        if (events[i].status == BLAZE_STATUS_OK) CHECK_FLOATS(floats(&events[i], 0), 3, 5, 7, 9);
        else if (events[i].status != BLAZE_STATUS_SHUT_DOWN && events[i].status != BLAZE_STATUS_BACKEND_FAILED &&
                 events[i].status != BLAZE_STATUS_TIMEOUT)
            FAIL("request %u: %s: %s", (unsigned)events[i].user_data, blaze_status_name(events[i].status), events[i].text);
        blaze_event_release(&events[i]);
    }
    if (how == 2) {
        blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
        CHECK_STATUS(blaze_health(rig.engine, &health), OK);
        CHECK_INT(health.in_flight, 0);
        struct call call;
        CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, rig.model), rig.queue, NULL, NULL), SHUT_DOWN);
        blaze_model route = 0;
        CHECK_STATUS(blaze_route_create(rig.engine, "{\"name\": \"s\"}", &route, NULL), SHUT_DOWN);
        blaze_engine_destroy(rig.engine);
    }
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
}

static void an_engine_ends_with_requests_of_every_kind_under_way(void) {
    for (int round = 0; round < 3; round++)
        for (int how = 0; how < 3; how++)
            for (int threads = 0; threads < 2; threads++) end_with_requests(how, threads);
}

static void events_outlive_the_engine_whoever_has_answered(void) {
    enum { EVENTS = 40 };
    blaze_event events[EVENTS];
    struct rig rig = rig_route(NULL, "\"faults\": [{\"kind\": \"error\"}]", 2,
                               "\"retry\": {\"budget\": 1.0}, \"breaker\": {\"enabled\": false}");
    for (uint64_t i = 0; i < EVENTS; i++) submit_simple(&rig, i);
    for (int i = 0; i < EVENTS; i++) {
        events[i] = next_event(rig.queue);
        CHECK_STATUS(events[i].status, OK);
        CHECK(events[i].model == models[1]);
    }
    CHECK(info_number(rig.engine, rig.model, "failovers") >= 1); /* the failing one is left alone before long */
    /* Half of them outlive the model, and the route, and all of the other half the engine. */
    for (int i = 0; i < EVENTS; i += 2) blaze_event_release(&events[i]);
    CHECK_STATUS(blaze_route_destroy(rig.engine, rig.model), OK);
    CHECK_STATUS(blaze_model_unload(rig.engine, models[1], NULL, NULL), OK);
    for (int i = 1; i < EVENTS; i += 2) CHECK_FLOATS(floats(&events[i], 0), 3, 5, 7, 9);
    blaze_engine_destroy(rig.engine);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    for (int i = 1; i < EVENTS; i += 2) {
        CHECK_FLOATS(floats(&events[i], 0), 3, 5, 7, 9);
        blaze_event_release(&events[i]);
        blaze_event_release(&events[i]);
    }
}

/* Real models ------------------------------------------------------------------------------------------------------ */

/* Loads a model under the name "good", and beside it, as "bad", a copy of its file, which is then evicted, and its file
 * gone: who asks for it finds that it cannot be loaded. Returns a route to the bad one, and the good one if it fails. */
static blaze_model route_past_a_broken_copy(struct rig *rig, const char *file, const char *more, blaze_model *good,
                                            blaze_model *bad) {
    char config[1024], from[256], to[256];
    snprintf(from, sizeof from, "tests/models/%s", file);
    snprintf(to, sizeof to, "%s/%s", directory, file);
    copy_file(from, to);
    snprintf(config, sizeof config, "{\"name\": \"bad\", \"path\": \"%s\"%s}", to, more);
    *bad = load_model(rig->engine, config);
    CHECK_STATUS(blaze_engine_set_budget(rig->engine, 1), OK);
    until_residence(rig->engine, "bad", "evicted");
    CHECK_STATUS(blaze_engine_set_budget(rig->engine, BLAZE_BUDGET_UNLIMITED), OK);
    CHECK_INT(unlink(to), 0);
    snprintf(config, sizeof config, "{\"name\": \"good\", \"path\": \"%s\"%s}", from, more);
    *good = load_model(rig->engine, config);
    return new_route(rig->engine, "{\"name\": \"real\", \"targets\": [{\"model\": \"bad\"}, {\"model\": \"good\", \"tier\": 1}],"
                                  " \"breaker\": {\"enabled\": false}, \"retry\": {\"budget\": 1.0}}");
}

static blaze_event answer(struct rig *rig, blaze_request *request, blaze_model model, int way) {
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    request->model = model;
    if (way % 2) {
        if (blaze_infer(rig->engine, request, PATIENCE, &event, &error) != BLAZE_STATUS_OK) FAIL("%s", error.message);
    } else {
        submit(rig, request);
        event = next_event(rig->queue);
        if (event.status != BLAZE_STATUS_OK) FAIL("%s: %s", blaze_status_name(event.status), event.text);
    }
    REQUIRE(event.status == BLAZE_STATUS_OK);
    return event;
}

/* Two events have the same outputs, to the bit. */
static void same_outputs(const blaze_event *one, const blaze_event *other) {
    CHECK_INT(one->outputs_count, other->outputs_count);
    for (uint32_t i = 0; i < one->outputs_count; i++) {
        blaze_tensor a = BLAZE_TENSOR_INIT, b = BLAZE_TENSOR_INIT;
        CHECK_STATUS(blaze_event_output(one, i, &a), OK);
        CHECK_STATUS(blaze_event_output(other, i, &b), OK);
        CHECK_INT(a.dtype, b.dtype);
        CHECK_INT(a.rank, b.rank);
        CHECK_INT(a.size_bytes, b.size_bytes);
        CHECK(!strcmp(a.name, b.name));
        if (a.rank != b.rank || a.size_bytes != b.size_bytes) return;
        for (uint32_t axis = 0; axis < a.rank; axis++) CHECK_INT(a.shape[axis], b.shape[axis]);
        if (a.dtype != BLAZE_DTYPE_STRING) {
            CHECK(!memcmp(a.data, b.data, a.size_bytes));
            continue;
        }
        const blaze_string *these = a.data, *those = b.data;
        for (size_t at = 0; at < a.size_bytes / sizeof *these; at++) {
            CHECK_INT(these[at].size_bytes, those[at].size_bytes);
            CHECK(these[at].size_bytes == those[at].size_bytes &&
                  !memcmp(these[at].data, those[at].data, these[at].size_bytes));
        }
    }
}

static void strings_go_on_to_another_target(void) {
    struct rig rig = {new_engine(NULL), NULL, 0};
    blaze_model good = 0, bad = 0;
    rig.queue = new_queue(rig.engine, 16);
    blaze_model route = route_past_a_broken_copy(&rig, "strings_concat.onnx", "", &good, &bad);
    for (int way = 0; way < 4; way++) {
        /* Gone as soon as it is submitted. */
        blaze_string *texts = malloc(6 * sizeof *texts);
        char *bytes = malloc(64);
        REQUIRE(texts && bytes);
        const char *const words[] = {"bla", "", "one thing and another, and a third", "ze", "\xc3\xa4", "!"};
        for (size_t i = 0, at = 0; i < 6; i++) {
            texts[i] = (blaze_string){bytes + at, strlen(words[i])};
            memcpy(bytes + at, words[i], strlen(words[i]));
            at += strlen(words[i]);
        }
        const int64_t shape[] = {3};
        blaze_tensor inputs[2] = {BLAZE_TENSOR_INIT, BLAZE_TENSOR_INIT};
        for (int i = 0; i < 2; i++) {
            inputs[i].dtype = BLAZE_DTYPE_STRING;
            inputs[i].shape = shape;
            inputs[i].rank = 1;
            inputs[i].data = texts + 3 * i;
            inputs[i].size_bytes = 3 * sizeof *texts;
        }
        blaze_request request = BLAZE_REQUEST_INIT;
        request.inputs = inputs;
        request.inputs_count = 2;
        blaze_event direct = answer(&rig, &request, good, way), routed = BLAZE_EVENT_INIT;
        if (way % 2) {
            routed = answer(&rig, &request, route, way);
        } else {
            request.model = route;
            submit(&rig, &request);
        }
        memset(bytes, 'x', 64);
        free(bytes);
        free(texts);
        if (way % 2 == 0) {
            routed = next_event(rig.queue);
            if (routed.status != BLAZE_STATUS_OK) FAIL("%s: %s", blaze_status_name(routed.status), routed.text);
            REQUIRE(routed.status == BLAZE_STATUS_OK);
        }
        CHECK(routed.model == good);
        same_outputs(&direct, &routed);
        blaze_event_release(&direct);
        blaze_event_release(&routed);
    }
    CHECK_INT(info_number(rig.engine, route, "targets[0].succeeded"), 0);
    CHECK(info_number(rig.engine, route, "failovers") >= 1);
    at_rest(rig.engine, route);
    rig_down(&rig);
}

static void real_models_answer_the_same_by_way_of_a_failed_target(void) {
    const struct { const char *file, *more; uint32_t rank; int64_t last; } cases[] = {
        {"tiny.onnx", "", 2, 4},
        {"small.onnx", "", 2, 64},
        {"fixed_output.onnx", "", 2, 0},
        {"nonzero.onnx", "", 0, 0},
        {"sequence_sum.onnx", "", 3, 2},
        {"sequence_sum.onnx", ", \"batching\": {\"max_rows\": 4, \"buckets\": [1, 4], \"axes\": {\"sequence\": {\"buckets\":"
                              " [2, 16]}}}", 3, 2},
    };
    float numbers[3 * 64 * 2];
    for (size_t i = 0; i < COUNT(numbers); i++) numbers[i] = (float)(i % 7) - 2.5f;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct rig rig = {new_engine(NULL), NULL, 0};
        blaze_model good = 0, bad = 0;
        rig.queue = new_queue(rig.engine, 16);
        blaze_model route = route_past_a_broken_copy(&rig, cases[i].file, cases[i].more, &good, &bad);
        char text[8192];
        CHECK_STATUS(blaze_model_info(rig.engine, good, text, sizeof text, NULL), OK);
        uint32_t rank = (uint32_t)json_count(text, "inputs[0].shape");
        for (int way = 0; way < 6; way++) {
            struct call call;
            int64_t rows = 1 + way % 3, columns = 1;
            call_with(&call, good, numbers, rows, 1);
            call.input.rank = rank;
            for (uint32_t axis = 0; axis < rank; axis++) {
                char path[64];
                snprintf(path, sizeof path, "inputs[0].shape[%u]", axis);
                long fixed = strtol(json_text(text, path), NULL, 10);
                call.shape[axis] = fixed > 0 ? fixed : axis == 0 ? rows : 3 + way;
                columns *= call.shape[axis];
            }
            REQUIRE((size_t)columns <= COUNT(numbers));
            call.input.size_bytes = (size_t)columns * sizeof *numbers;
            if (way >= 4) call.request.flags = BLAZE_REQUEST_BORROW;
            blaze_event direct = answer(&rig, &call.request, good, way);
            while (direct.flags & BLAZE_EVENT_FLAG_MORE) REQUIRE(0);
            blaze_event routed = answer(&rig, &call.request, route, way);
            CHECK(routed.model == good);
            same_outputs(&direct, &routed);
            blaze_event_release(&direct);
            blaze_event_release(&routed);
        }
        CHECK_INT(info_number(rig.engine, route, "targets[0].succeeded"), 0);
        CHECK(info_number(rig.engine, route, "failovers") >= 1);
        at_rest(rig.engine, route);
        rig_down(&rig);
    }
}

/* Who is asked --------------------------------------------------------------------------------------------------- */

struct picker {
    atomic_uint calls, wrong;
    atomic_uint pick;
    atomic_ullong session, tenant, key;
};

static uint32_t pick(void *user, const blaze_route_choice *choice) {
    struct picker *picker = user;
    atomic_fetch_add(&picker->calls, 1);
    int good = choice->struct_size == sizeof *choice && choice->target_stride >= sizeof(blaze_route_target) &&
               choice->targets_count >= 1 && choice->targets_count <= MODELS && choice->reserved == 0 && choice->now_ns > 0;
    const unsigned char *at = (const unsigned char *)choice->targets;
    for (uint32_t i = 0; good && i < choice->targets_count; i++, at += choice->target_stride) {
        const blaze_route_target *target = (const blaze_route_target *)(const void *)at;
        good = target->model && strlen(target->model) == 1 && target->weight == 1 && target->failing_share >= 0 &&
               target->failing_share <= 1 && target->load >= 0;
    }
    if (!good) atomic_fetch_add(&picker->wrong, 1);
    atomic_store(&picker->session, choice->session_id);
    atomic_store(&picker->tenant, choice->tenant_id);
    atomic_store(&picker->key, choice->route_key);
    return atomic_load(&picker->pick);
}

static void a_strategy_of_the_hosts_picks(void) {
    struct picker picker = {0};
    struct rig rig = rig_route(NULL, fault("error"), 1, "");
    blaze_error error = {.status = 0};
    int by[MODELS];
    blaze_model route = 0;
    const char *json = "{\"name\": \"own\", \"strategy\": \"mine\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"b\"},"
                       " {\"model\": \"c\"}], \"breaker\": {\"enabled\": false}, \"retry\": {\"budget\": 1.0}}";
    CHECK_STATUS(blaze_route_create(rig.engine, json, &route, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "mine");
    CHECK_TEXT(error.message, "round_robin"); /* what there is */
    CHECK_STATUS(blaze_strategy_register(rig.engine, "mine", pick, &picker, &error), OK);
    CHECK_STATUS(blaze_strategy_register(rig.engine, "mine", pick, &picker, &error), ALREADY_EXISTS);
    CHECK_STATUS(blaze_strategy_register(rig.engine, "adaptive", pick, &picker, &error), ALREADY_EXISTS);
    rig.model = new_route(rig.engine, json);
    for (unsigned place = 0; place < 3; place++) {
        atomic_store(&picker.pick, place);
        ask_many(&rig, 10, by);
        CHECK_INT(by[place], 10);
    }
    CHECK_INT(atomic_load(&picker.calls), 30);
    const unsigned out_of_range[] = {3, 4, 63, 64, 1000, UINT32_MAX};
    for (size_t i = 0; i < COUNT(out_of_range); i++) {
        atomic_store(&picker.pick, out_of_range[i]);
        ask_many(&rig, 4, by);
        CHECK_BY(4, 0, 0, 0);
    }
    struct call call;
    simple_call(&call, rig.model);
    call.request.session_id = 11;
    call.request.tenant_id = UINT64_MAX;
    call.request.route_key = 13;
    ask_for(&rig, &call.request, 0);
    CHECK(atomic_load(&picker.session) == 11 && atomic_load(&picker.tenant) == UINT64_MAX && atomic_load(&picker.key) == 13);
    /* It is asked for further attempts too, without what was tried. */
    atomic_store(&picker.pick, 0);
    switch_on();
    ask_many(&rig, 10, by);
    CHECK_BY(0, 10, 0, 0);
    switch_off();
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "a", 1), OK);
    atomic_store(&picker.pick, 1);
    ask_many(&rig, 10, by);
    CHECK_BY(0, 0, 10, 0);
    CHECK_INT(atomic_load(&picker.wrong), 0);
    CHECK_JSON(info(rig.engine, rig.model), "strategy", "mine");
    rig_down(&rig);
}

static blaze_model ask_as(struct rig *rig, uint64_t session, uint64_t tenant, uint64_t key, int way) {
    struct call call;
    simple_call(&call, rig->model);
    call.request.session_id = session;
    call.request.tenant_id = tenant;
    call.request.route_key = key;
    return ask_for(rig, &call.request, way);
}

static void sessions_stick_and_keys_always_go_the_same_way(void) {
    const struct { const char *more; int session, tenant, key; } cases[] = {
        {"\"sticky\": {\"enabled\": true}", 1, 0, 0},
        {"\"strategy\": \"consistent_hash\", \"hash_on\": \"key\"", 0, 0, 1},
        {"\"strategy\": \"consistent_hash\", \"hash_on\": \"session\"", 1, 0, 0},
        {"\"strategy\": {\"name\": \"consistent_hash\", \"load_factor\": 100}, \"hash_on\": \"tenant\"", 0, 1, 0},
        {"\"strategy\": \"client_hash\"", 0, 1, 0},
    };
    enum { KEYS = 40 };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct rig rig = rig_route(NULL, fault("error"), MODELS, cases[i].more);
        blaze_model homes[KEYS];
        int by[MODELS] = {0}, elsewhere = 0;
        for (uint64_t key = 0; key < 3 * KEYS; key++) {
            uint64_t value = key % KEYS + 1;
            blaze_model home = ask_as(&rig, cases[i].session ? value : 0, cases[i].tenant ? value : 0,
                                      cases[i].key ? value : 0, (int)key);
            if (key < KEYS) homes[key] = home;
            else elsewhere += home != homes[key % KEYS];
            by[index_of(home)]++;
        }
        if (elsewhere) FAIL("%s: %d requests went elsewhere", cases[i].more, elsewhere);
        for (int at = 0; at < MODELS; at++)
            if (by[at] == 0) FAIL("%s: nothing went to %s", cases[i].more, names[at]);
        /* With one target gone, only what was there goes elsewhere. */
        CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "a", 1), OK);
        for (uint64_t key = 0; key < KEYS; key++) {
            uint64_t value = key + 1;
            blaze_model home = ask_as(&rig, cases[i].session ? value : 0, cases[i].tenant ? value : 0,
                                      cases[i].key ? value : 0, (int)key);
            CHECK(homes[key] == models[0] ? home != models[0] : home == homes[key]);
        }
        if (i == 0) CHECK_INT(info_number(rig.engine, rig.model, "sessions"), KEYS);
        rig_down(&rig);
    }
}

static void a_higher_tier_is_asked_only_when_no_lower_one_can(void) {
    struct rig rig = rig_route(NULL, fault("error"), 1, "");
    int by[MODELS];
    CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, "{\"model\": \"b\", \"tier\": 1}", NULL), OK);
    CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, "{\"model\": \"c\", \"tier\": 2}", NULL), OK);
    ask_many(&rig, 20, by);
    CHECK_BY(20, 0, 0, 0);
    switch_on();
    ask_many(&rig, 20, by);
    CHECK_BY(0, 20, 0, 0);
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "b", 1), OK);
    ask_many(&rig, 20, by);
    CHECK_BY(0, 0, 20, 0);
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "b", 0), OK);
    switch_off();
    uint64_t until = blaze_now_ns() + PATIENCE;
    do {
        sleep_ns(5 * MILLISECOND);
        ask_many(&rig, 4, by);
    } while (by[0] < 4 && blaze_now_ns() < until);
    CHECK_BY(4, 0, 0, 0);
    CHECK_INT(info_number(rig.engine, rig.model, "targets[1].tier"), 1);
    rig_down(&rig);
}

static void an_engine_without_threads_routes_in_the_pump(void) {
    struct rig rig = rig_route("{\"threads\": 0}", fault("error"), 3, "\"retry\": {\"budget\": 1.0}, \"health\":"
                               " {\"interval_ms\": 5}");
    enum { REQUESTS = 30 };
    switch_on();
    for (uint64_t i = 0; i < REQUESTS; i++) submit_simple(&rig, i);
    no_event(rig.queue); /* nobody has worked yet */
    uint64_t until = blaze_now_ns() + PATIENCE;
    uint32_t got = 0;
    while (got < REQUESTS && blaze_now_ns() < until) {
        blaze_event event = BLAZE_EVENT_INIT;
        CHECK_STATUS(blaze_pump(rig.engine, MILLISECOND, NULL), OK);
        while (blaze_poll(rig.queue, &event, sizeof event, 1) == 1) {
            CHECK_STATUS(event.status, OK);
            CHECK(event.model != models[0]);
            if (event.status == BLAZE_STATUS_OK) CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            blaze_event_release(&event);
            got++;
        }
    }
    CHECK_INT(got, REQUESTS);
    switch_off();
    for (int i = 0; i < 20; i++) { /* checks go on in the pump */
        CHECK_STATUS(blaze_pump(rig.engine, MILLISECOND, NULL), OK);
        sleep_ns(MILLISECOND);
    }
    for (int i = 0; i < 12; i++) ask(&rig, i);
    rig_down(&rig);
}

/* Synthetic requests find out who is ill, before anybody's request does. */
static void checks_find_out_who_is_ill(void) {
    struct rig rig = rig_route(NULL, fault("error"), 2, "\"health\": {\"interval_ms\": 5, \"timeout_ms\": 20000}");
    int by[MODELS];
    uint64_t until = blaze_now_ns() + PATIENCE;
    switch_on();
    while (strcmp(json_text(info(rig.engine, rig.model), "targets[0].state"), "failed") && blaze_now_ns() < until)
        sleep_ns(MILLISECOND);
    CHECK_JSON(info(rig.engine, rig.model), "targets[0].state", "failed");
    ask_many(&rig, 4, by);
    CHECK_INT(by[0], 0);
    switch_off();
    until = blaze_now_ns() + PATIENCE;
    do {
        sleep_ns(5 * MILLISECOND);
        ask_many(&rig, 4, by);
    } while (by[0] == 0 && blaze_now_ns() < until);
    CHECK(by[0] > 0);
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.requests_failed, 0); /* those of nobody are not counted */
    rig_down(&rig);
}

static void a_hedge_answers_for_a_slow_target(void) {
    struct rig rig = rig_route(NULL, "\"faults\": [{\"kind\": \"slow\", \"after\": 40, \"latency_us\": 20000000}]", 2,
                               "\"hedge\": {\"quantile\": 0.9, \"budget\": 1.0}, \"retry\": {\"attempt_timeout_ms\": 0},"
                               " \"breaker\": {\"enabled\": false}");
    int by[MODELS];
    for (int i = 0; i < 70; i++) ask(&rig, i);
    sleep_ns(60 * MILLISECOND); /* what is slow is worked out now and then */
    ask_many(&rig, 40, by);
    CHECK(by[1] > by[0]);
    CHECK(info_number(rig.engine, rig.model, "hedges_won") >= 1);
    at_rest(rig.engine, rig.model);
    rig_down(&rig);
}

/* Wrong calls -------------------------------------------------------------------------------------------------- */

static void every_pointer_may_be_null(void) {
    struct rig rig = rig_route(NULL, "", 2, "");
    const char *json = "{\"name\": \"n\"}";
    blaze_model out = 0;
    blaze_error error = {.status = 0};
    char text[16];
    size_t needed = 0;
#define NAMES(call, name)                         \
    do {                                          \
        error = (blaze_error){0, "", 0};          \
        CHECK_STATUS(call, NULL_POINTER);         \
        CHECK_STATUS(error.status, NULL_POINTER); \
        CHECK_TEXT(error.message, name);          \
    } while (0)
    NAMES(blaze_route_create(NULL, json, &out, &error), "engine");
    NAMES(blaze_route_create(rig.engine, NULL, &out, &error), "route_json");
    NAMES(blaze_route_create(rig.engine, json, NULL, &error), "out");
    NAMES(blaze_route_update(NULL, rig.model, json, &error), "engine");
    NAMES(blaze_route_update(rig.engine, rig.model, NULL, &error), "route_json");
    NAMES(blaze_route_target_add(NULL, rig.model, json, &error), "engine");
    NAMES(blaze_route_target_add(rig.engine, rig.model, NULL, &error), "target_json");
    NAMES(blaze_tenant_set(NULL, json, &error), "engine");
    NAMES(blaze_tenant_set(rig.engine, NULL, &error), "tenant_json");
    NAMES(blaze_strategy_register(NULL, "s", pick, NULL, &error), "engine");
    NAMES(blaze_strategy_register(rig.engine, NULL, pick, NULL, &error), "name");
    NAMES(blaze_strategy_register(rig.engine, "s", NULL, NULL, &error), "pick");
    CHECK_STATUS(blaze_route_create(rig.engine, NULL, &out, NULL), NULL_POINTER); /* nobody wants the reason */
    CHECK_STATUS(blaze_route_destroy(NULL, rig.model), NULL_POINTER);
    CHECK_STATUS(blaze_route_target_remove(NULL, rig.model, "a"), NULL_POINTER);
    CHECK_STATUS(blaze_route_target_remove(rig.engine, rig.model, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_route_target_drain(NULL, rig.model, "a", 1), NULL_POINTER);
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, NULL, 1), NULL_POINTER);
    CHECK_STATUS(blaze_route_info(NULL, rig.model, text, sizeof text, &needed), NULL_POINTER);
    CHECK_STATUS(blaze_route_info(rig.engine, rig.model, NULL, 16, &needed), NULL_POINTER);
    CHECK_STATUS(blaze_route_info(rig.engine, rig.model, NULL, 0, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_route_info(rig.engine, rig.model, NULL, 0, &needed), OK);
    CHECK(needed > sizeof text);
    memset(text, 'z', sizeof text);
    CHECK_STATUS(blaze_route_info(rig.engine, rig.model, text, sizeof text, &needed), BUFFER_TOO_SMALL);
    CHECK(text[0] == 'z');
    CHECK_INT(out, 0);
    for (int i = 0; i < 4; i++) ask(&rig, i);
    rig_down(&rig);
}

static void handles_that_are_stale_garbage_or_of_another_kind_are_refused(void) {
    struct rig rig = rig_route(NULL, "", 2, "");
    struct rig other = rig_route(NULL, "", 2, "");
    for (int i = 0; i < MODELS; i++) CHECK_STATUS(blaze_model_find(rig.engine, names[i], &models[i]), OK);
    blaze_model stale = new_route(rig.engine, "{\"name\": \"stale\"}");
    CHECK_STATUS(blaze_route_destroy(rig.engine, stale), OK);
    blaze_model newer = new_route(rig.engine, "{\"name\": \"newer\"}"); /* in the same place of the table */
    const blaze_model garbage[] = {0, 1, stale, UINT64_MAX, newer + 1, newer ^ (UINT64_C(1) << 40), newer & UINT32_MAX,
                                   models[0], UINT64_C(1) << 31, UINT64_C(0xffffffff), other.model ^ (UINT64_C(1) << 50)};
    for (size_t i = 0; i < COUNT(garbage); i++) {
        blaze_error error = {.status = 0};
        size_t needed = 0;
        blaze_model handle = garbage[i];
        CHECK_STATUS(blaze_route_update(rig.engine, handle, "{\"name\": \"newer\"}", &error), NOT_FOUND);
        CHECK_TEXT(error.message, "route");
        CHECK_STATUS(blaze_route_destroy(rig.engine, handle), NOT_FOUND);
        CHECK_STATUS(blaze_route_target_add(rig.engine, handle, "{\"model\": \"d\"}", &error), NOT_FOUND);
        CHECK_STATUS(blaze_route_target_remove(rig.engine, handle, "a"), NOT_FOUND);
        CHECK_STATUS(blaze_route_target_drain(rig.engine, handle, "a", 1), NOT_FOUND);
        CHECK_STATUS(blaze_route_info(rig.engine, handle, NULL, 0, &needed), NOT_FOUND);
        if (handle == models[0]) continue;
        struct call call;
        CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, handle), rig.queue, NULL, &error), NOT_FOUND);
        CHECK_STATUS(blaze_model_info(rig.engine, handle, NULL, 0, &needed), NOT_FOUND);
        blaze_status status = blaze_model_unload(rig.engine, handle, NULL, NULL);
        CHECK(status == BLAZE_STATUS_NOT_FOUND || status == BLAZE_STATUS_INVALID_ARGUMENT);
    }
    blaze_ticket ticket = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), INVALID_ARGUMENT); /* a route is no model */
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, rig.queue, &ticket), INVALID_ARGUMENT);
    CHECK_INT(ticket, 0);
    CHECK_STATUS(blaze_route_target_remove(rig.engine, rig.model, "none"), NOT_FOUND);
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "none", 1), NOT_FOUND);
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "a", 2), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "a", UINT32_MAX), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_route_target_drain(rig.engine, rig.model, "\xff", 1), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_route_target_remove(rig.engine, rig.model, "\xff"), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_strategy_register(rig.engine, "", pick, NULL, &error), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_strategy_register(rig.engine, "\xff", pick, NULL, &error), INVALID_ARGUMENT);
    blaze_model out = 0;
    CHECK_STATUS(blaze_route_create(rig.engine, "{\"name\": \"\xff\"}", &out, &error), INVALID_ARGUMENT);
    CHECK_TEXT(error.message, "route_json");
    CHECK_STATUS(blaze_tenant_set(rig.engine, "\xff", &error), INVALID_ARGUMENT);
    /* A model of a route's name, and a route as a target. */
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"r\", \"backend\": \"mock\"}", &out, &error), ALREADY_EXISTS);
    CHECK_INT(out, 0);
    for (int i = 0; i < 4; i++) ask(&rig, i);
    rig_down(&rig);
    rig_down(&other);
}

struct bad {
    const char *json;
    const char *text;
};

static const struct bad bad_routes[] = {
    {"", "EOF"},
    {"[]", ""},
    {"{}", "name"},
    {"{\"name\": \"\"}", "name: "},
    {"{\"name\": \"a:1\"}", "name: "},
    {"{\"name\": \"n\", \"colour\": 1}", "colour"},
    {"{\"name\": \"n\", \"targets\": {}}", "targets: "},
    {"{\"name\": \"n\", \"targets\": [5]}", "targets[0]: "},
    {"{\"name\": \"n\", \"targets\": [{}]}", "targets[0]"},
    {"{\"name\": \"n\", \"targets\": [{\"model\": \"\"}]}", "targets[0].model: "},
    {"{\"name\": \"n\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"b\", \"weight\": 0}]}", "targets[1].weight: "},
    {"{\"name\": \"n\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"b\", \"weight\": \"5\"}]}", "targets[1].weight: "},
    {"{\"name\": \"n\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"b\", \"weight\": 1001}]}", "targets[1].weight: "},
    {"{\"name\": \"n\", \"targets\": [{\"model\": \"a\", \"tier\": -1}]}", "targets[0].tier: "},
    {"{\"name\": \"n\", \"targets\": [{\"model\": \"a\", \"concurrency\": 0}]}", "targets[0].concurrency: "},
    {"{\"name\": \"n\", \"targets\": [{\"model\": \"a\", \"size\": 0}]}", "targets[0].size: "},
    {"{\"name\": \"n\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"a\"}]}", "targets[1].model: "},
    {"{\"name\": \"n\", \"strategy\": \"best\"}", "\"best\""},
    {"{\"name\": \"n\", \"strategy\": 5}", "strategy"},
    {"{\"name\": \"n\", \"strategy\": {}}", "strategy"},
    {"{\"name\": \"n\", \"strategy\": {\"name\": \"adaptive\", \"explore\": 2}}", "strategy.explore: "},
    {"{\"name\": \"n\", \"strategy\": {\"name\": \"consistent_hash\", \"load_factor\": 0.5}}", "strategy.load_factor: "},
    {"{\"name\": \"n\", \"strategy\": {\"name\": \"adaptive\", \"memory_ms\": 0}}", "strategy.memory_ms: "},
    {"{\"name\": \"n\", \"strategy\": {\"name\": \"adaptive\", \"more\": 0}}", "strategy.more"},
    {"{\"name\": \"n\", \"hash_on\": \"input\"}", "hash_on: "},
    {"{\"name\": \"n\", \"sticky\": true}", "sticky: "},
    {"{\"name\": \"n\", \"sticky\": {\"ttl_ms\": 0}}", "sticky.ttl_ms: "},
    {"{\"name\": \"n\", \"sticky\": {\"capacity\": 0}}", "sticky.capacity: "},
    {"{\"name\": \"n\", \"breaker\": {\"error_rate\": 0}}", "breaker.error_rate: "},
    {"{\"name\": \"n\", \"breaker\": {\"slow_factor\": 0.5}}", "breaker.slow_factor: "},
    {"{\"name\": \"n\", \"breaker\": {\"window_ms\": 1}}", "breaker.window_ms: "},
    {"{\"name\": \"n\", \"breaker\": {\"backoff_ms\": 1000}}", "breaker.backoff_max_ms: "},
    {"{\"name\": \"n\", \"breaker\": {\"jitter\": 2}}", "breaker.jitter: "},
    {"{\"name\": \"n\", \"breaker\": {\"probes\": 0}}", "breaker.probes: "},
    {"{\"name\": \"n\", \"breaker\": {\"on\": 0}}", "breaker.on: "},
    {"{\"name\": \"n\", \"retry\": {\"attempts\": 5}}", "retry.attempts: "},
    {"{\"name\": \"n\", \"retry\": {\"attempts\": 0}}", "retry.attempts: "},
    {"{\"name\": \"n\", \"retry\": {\"budget\": -1}}", "retry.budget: "},
    {"{\"name\": \"n\", \"hedge\": {\"quantile\": 1}}", "hedge.quantile: "},
    {"{\"name\": \"n\", \"hedge\": {\"minimum_ms\": -1}}", "hedge.minimum_ms: "},
    {"{\"name\": \"n\", \"health\": {\"interval_ms\": 0}}", "health.interval_ms: "},
    {"{\"name\": \"n\", \"health\": {\"every\": 0}}", "health.every: "},
    {"{\"name\": \"n\", \"limits\": {\"requests_per_second\": 0}}", "limits.requests_per_second: "},
    {"{\"name\": \"n\", \"limits\": {\"burst\": 5}}", "limits.burst: "},
    {"{\"name\": \"n\", \"limits\": {\"rows_per_second\": 1e10}}", "limits.rows_per_second: "},
    {"{\"name\": \"n\", \"limits\": {\"concurrency\": 0}}", "limits.concurrency: "},
    {"{\"name\": \"n\", \"limits\": {\"waiting\": 5}}", "limits.waiting: "},
    {"{\"name\": \"n\", \"limits\": {\"waiting\": -1, \"concurrency\": 1}}", "limits.waiting: "},
};

static void a_bad_configuration_is_refused_and_the_message_names_the_path(void) {
    struct rig rig = rig_route(NULL, "", 2, "");
    for (size_t i = 0; i < COUNT(bad_routes); i++) {
        blaze_model out = 0;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_route_create(rig.engine, bad_routes[i].json, &out, &error);
        if (status != BLAZE_STATUS_INVALID_CONFIG || error.status != status || !error.message[0] ||
            !strstr(error.message, bad_routes[i].text))
            FAIL("%s: %s: %s (without %s)", bad_routes[i].json, blaze_status_name(status), error.message, bad_routes[i].text);
        CHECK_STATUS(blaze_route_update(rig.engine, rig.model, bad_routes[i].json, &error), INVALID_CONFIG);
        CHECK_INT(out, 0);
        /* In the engine's configuration the path begins with the route's place. */
        char config[1024], path[256];
        blaze_engine *engine = NULL;
        if (!bad_routes[i].json[0]) continue;
        snprintf(config, sizeof config, "{\"routes\": [%s]}", bad_routes[i].json);
        snprintf(path, sizeof path, "routes[0]");
        status = blaze_engine_create(config, &engine, &error);
        if (status != BLAZE_STATUS_INVALID_CONFIG || !strstr(error.message, bad_routes[i].text) ||
            (!strstr(error.message, path) && bad_routes[i].text[0] != '"'))
            FAIL("%s: %s: %s (without %s)", config, blaze_status_name(status), error.message, bad_routes[i].text);
        blaze_engine_destroy(engine);
    }
    const struct bad targets[] = {
        {"", "EOF"}, {"{}", "model"}, {"{\"model\": 5}", "model: "}, {"{\"model\": \"c\", \"weight\": 0}", "weight: "},
        {"{\"model\": \"c\", \"more\": 0}", "more"}, {"\"c\"", ""}};
    for (size_t i = 0; i < COUNT(targets); i++) {
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, targets[i].json, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, targets[i].text);
    }
    const struct bad tenants[] = {
        {"", "EOF"}, {"{}", "id"}, {"{\"id\": 0}", "id: "}, {"{\"id\": -1}", "id: "}, {"{\"id\": 1, \"weight\": 0}", "weight: "},
        {"{\"id\": 1, \"class\": \"\"}", "class: "}, {"{\"id\": 1, \"class\": \"a\\nb\"}", "class: "},
        {"{\"id\": 1, \"limits\": {\"waiting\": 1, \"concurrency\": 1}}", "limits.waiting: "},
        {"{\"id\": 1, \"limits\": {\"concurrency\": 0}}", "limits.concurrency: "},
        {"{\"id\": 1, \"limits\": {\"per_second\": 5}}", "limits.per_second: "}, {"{\"id\": 1, \"name\": 5}", "name"}};
    for (size_t i = 0; i < COUNT(tenants); i++) {
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_tenant_set(rig.engine, tenants[i].json, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, tenants[i].text);
        char config[512];
        blaze_engine *engine = NULL;
        if (!tenants[i].json[0]) continue;
        snprintf(config, sizeof config, "{\"tenants\": {\"list\": [%s]}}", tenants[i].json);
        CHECK_STATUS(blaze_engine_create(config, &engine, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, "tenants.list[0]");
        CHECK_TEXT(error.message, tenants[i].text);
        blaze_engine_destroy(engine);
    }
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_route_update(rig.engine, rig.model, "{\"name\": \"s\"}", &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "name: ");
    for (int i = 0; i < 4; i++) ask(&rig, i); /* as before */
    CHECK_JSON(info(rig.engine, rig.model), "targets[1].model", "b");
    rig_down(&rig);
}

static void models_that_differ_cannot_stand_for_one_another(void) {
    struct rig rig = rig_route(NULL, "", 1, "");
    blaze_error error = {.status = 0};
    blaze_model out = 0;
    const struct { const char *name, *mock, *text; } others[] = {
        {"wide", "\"inputs\": [{\"name\": \"x\", \"shape\": [\"batch\", 5]}]", "\"x\""},
        {"byte", "\"inputs\": [{\"name\": \"x\", \"dtype\": \"u8\", \"shape\": [\"batch\", 4]}], \"outputs\": [{\"name\": \"y\","
                 " \"dtype\": \"u8\", \"shape\": [\"batch\", 4]}], \"compute\": \"echo\"", "u8"},
        {"named", "\"inputs\": [{\"name\": \"z\", \"shape\": [\"batch\", 4]}]", "\"z\""},
        {"two", "\"inputs\": [{\"name\": \"x\", \"shape\": [\"batch\", 4]}, {\"name\": \"w\", \"shape\": [\"batch\", 4]}]", "2 inputs"},
    };
    for (size_t i = 0; i < COUNT(others); i++) {
        char json[256];
        load_mock(rig.engine, others[i].name, others[i].mock, "");
        snprintf(json, sizeof json, "{\"name\": \"n\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"%s\"}]}", others[i].name);
        error = (blaze_error){0, "", 0};
        CHECK_STATUS(blaze_route_create(rig.engine, json, &out, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, "targets");
        CHECK_TEXT(error.message, others[i].name);
        CHECK_TEXT(error.message, " a:");
        CHECK_TEXT(error.message, others[i].text);
        snprintf(json, sizeof json, "{\"model\": \"%s\"}", others[i].name);
        CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, json, &error), INVALID_CONFIG);
        CHECK_INT(json_count(info(rig.engine, rig.model), "targets"), 1);
        for (int way = 0; way < 4; way++) CHECK(ask(&rig, way) == models[0]);
    }
    /* One that is loaded later is not asked, and says why. */
    CHECK_STATUS(blaze_route_target_add(rig.engine, rig.model, "{\"model\": \"late\"}", &error), OK);
    load_mock(rig.engine, "late", others[0].mock, "");
    for (int way = 0; way < 4; way++) CHECK(ask(&rig, way) == models[0]);
    CHECK_JSON(info(rig.engine, rig.model), "targets[1].state", "unbound");
    CHECK_TEXT(json_text(info(rig.engine, rig.model), "targets[1].problem"), "late");
    CHECK_INT(out, 0);
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_route_is_made_by_configuration_and_found_like_a_model),
        TEST(a_route_is_changed_and_destroyed),
        TEST(health_and_metrics_tell_of_routes_and_targets),
        TEST(a_failing_target_costs_no_request),
        TEST(many_at_once_are_answered_in_spite_of_a_failing_target),
        TEST(when_every_target_fails_the_reason_is_told),
        TEST(buffers_of_the_callers_are_written_by_whoever_answers),
        TEST(a_buffer_that_is_too_small_is_told_by_whoever_answers),
        TEST(a_hanging_target_is_noticed),
        TEST(a_request_whose_target_hangs_is_cancelled_and_expires),
        TEST(an_engine_ends_with_requests_of_every_kind_under_way),
        TEST(events_outlive_the_engine_whoever_has_answered),
        TEST(strings_go_on_to_another_target),
        TEST(real_models_answer_the_same_by_way_of_a_failed_target),
        TEST(a_strategy_of_the_hosts_picks),
        TEST(sessions_stick_and_keys_always_go_the_same_way),
        TEST(a_higher_tier_is_asked_only_when_no_lower_one_can),
        TEST(an_engine_without_threads_routes_in_the_pump),
        TEST(checks_find_out_who_is_ill),
        TEST(a_hedge_answers_for_a_slow_target),
        TEST(every_pointer_may_be_null),
        TEST(handles_that_are_stale_garbage_or_of_another_kind_are_refused),
        TEST(a_bad_configuration_is_refused_and_the_message_names_the_path),
        TEST(models_that_differ_cannot_stand_for_one_another),
    };
    directory = new_directory();
    snprintf(switch_path, sizeof switch_path, "%s/on", directory);
    int result = RUN_TESTS(tests, argc, argv);
    remove_directory(directory);
    return result;
}
