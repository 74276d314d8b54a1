/* Requests that run: whose memory is read and written when, batching, blaze_infer, and what an event says. */
#include "check.h"
#include <pthread.h>

static void a_copied_input_may_be_changed_right_after_submit(void) {
    struct rig rig = rig_up(NULL, HANGS(1), ALONE);
    blaze_ticket blocker = submit_blocker(&rig);
    float data[4] = {1, 2, 3, 4};
    struct call call;
    blaze_ticket ticket = submit(&rig, call_with(&call, rig.model, data, 1, 4));
    memset(data, 0xFF, sizeof data);
    memset(&call, 0xFF, sizeof call); /* the descriptors too */
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.ticket, ticket);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    blaze_event_release(&event);
    rig_down(&rig);
}

static void a_borrowed_input_is_read_where_it_is(void) {
    struct rig rig = rig_up(NULL, HANGS(1), ALONE);
    blaze_ticket blocker = submit_blocker(&rig);
    float data[4] = {0};
    struct call call;
    call_with(&call, rig.model, data, 1, 4)->flags = BLAZE_REQUEST_BORROW;
    blaze_ticket ticket = submit(&rig, &call.request);
    /* Against the rules, but it shows that nothing was copied. */
    memcpy(data, ones_to_four, sizeof data);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.ticket, ticket);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    memset(data, 0, sizeof data); /* the outputs are no view of the inputs */
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    blaze_event_release(&event);
    no_event(rig.queue);
    rig_down(&rig);
}

/* Some models have an input among their outputs, and ONNX Runtime gives the input's own memory out then. */
static void an_output_that_is_an_input_is_no_view_of_it(void) {
    static const char *const models[] = {"tests/models/passed_on.onnx", "tests/models/passed_on_any.onnx"};
    for (int m = 0; m < 2; m++) {
        for (uint32_t flags = 0; flags <= BLAZE_REQUEST_BORROW; flags++) {
            struct rig rig = rig_up(NULL, "", "");
            char json[200];
            blaze_error error;
            blaze_model model;
            struct call call;
            blaze_event event = BLAZE_EVENT_INIT;
            snprintf(json, sizeof json, "{\"name\": \"p\", \"path\": \"%s\", \"batching\": {\"max_rows\": 1}}", models[m]);
            REQUIRE(blaze_model_load(rig.engine, json, &model, &error) == BLAZE_STATUS_OK);
            float *data = malloc(3 * sizeof *data);
            data[0] = 1, data[1] = 0, data[2] = 3;
            call_with(&call, model, data, 1, 3)->flags = flags;
            if (m == 1) call.input.rank = 1, call.input.shape++;
            CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), OK);
            memset(data, 0xFF, 3 * sizeof *data);
            free(data);
            const float *x = floats(&event, 0);
            CHECK(x[0] == 1 && x[1] == 0 && x[2] == 3);
            blaze_event_release(&event);
            rig_down(&rig);
        }
    }
}

static void copied_inputs_are_in_the_ledger_and_borrowed_ones_are_not(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    blaze_health_info before = BLAZE_HEALTH_INFO_INIT, after = BLAZE_HEALTH_INFO_INIT;
    CHECK_STATUS(blaze_health(rig.engine, &before), OK);
    blaze_ticket copied = submit_simple(&rig, 0);
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_BORROW;
    blaze_ticket borrowed = submit(&rig, &call.request);
    CHECK_STATUS(blaze_health(rig.engine, &after), OK);
    /* A batch of one row, with room for its output: two blocks. */
    CHECK_INT(after.memory_bytes - before.memory_bytes, 2 * 64);
    CHECK_INT(after.in_flight, 2);
    CHECK_STATUS(blaze_cancel(rig.engine, borrowed), OK);
    CHECK_STATUS(blaze_cancel(rig.engine, copied), OK);
    rig_down(&rig);
}

/* A model with two inputs a, b and two outputs sum, product. */
static blaze_model load_two_in_two_out(blaze_engine *engine) {
    return load_model(engine, "{\"name\": \"two\", \"path\": \"tests/models/two_in_two_out.onnx\"}");
}

struct two_inputs {
    blaze_request request;
    blaze_tensor inputs[2];
    int64_t shape[2];
    float a[3], b[3];
};

static const char *const names_ab[] = {"a", "b"};

static blaze_request *two_inputs(struct two_inputs *call, blaze_model model, const blaze_tensor *outputs,
                                 uint32_t outputs_count) {
    *call = (struct two_inputs){BLAZE_REQUEST_INIT, {BLAZE_TENSOR_INIT, BLAZE_TENSOR_INIT}, {1, 3}, {1, 2, 3}, {4, 5, 6}};
    for (int i = 0; i < 2; i++) {
        call->inputs[i].dtype = BLAZE_DTYPE_F32;
        call->inputs[i].name = names_ab[i];
        call->inputs[i].shape = call->shape;
        call->inputs[i].rank = 2;
        call->inputs[i].data = i ? call->b : call->a;
        call->inputs[i].size_bytes = sizeof call->a;
    }
    call->request.model = model;
    call->request.inputs = call->inputs;
    call->request.inputs_count = 2;
    call->request.outputs = outputs;
    call->request.outputs_count = outputs_count;
    return &call->request;
}

static blaze_tensor output_buffer(const char *name, float *data, size_t count) {
    blaze_tensor output = BLAZE_TENSOR_INIT;
    output.dtype = BLAZE_DTYPE_F32;
    output.name = name;
    output.data = data;
    output.size_bytes = count * sizeof *data;
    return output;
}

static void outputs_go_to_the_callers_buffers_all_or_some_by_name_or_position(void) {
    struct rig rig = {new_engine(NULL), NULL, 0};
    rig.queue = new_queue(rig.engine, 4);
    rig.model = load_two_in_two_out(rig.engine);
    /* Which buffers are given, and how: the model's outputs are sum (0) and product (1). */
    const struct { const char *first, *second; uint32_t count; int sum_at, product_at; } cases[] = {
        {NULL, NULL, 0, -1, -1},    {NULL, NULL, 1, 0, -1},     {NULL, NULL, 2, 0, 1},    {"sum", "product", 2, 0, 1},
        {"product", "sum", 2, 1, 0}, {"product", NULL, 1, -1, 0}, {"sum", NULL, 1, 0, -1}, {"sum", NULL, 2, 0, 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        float buffers[2][4] = {{-1, -1, -1, -1}, {-1, -1, -1, -1}}; /* one more than needed: at least is enough */
        const blaze_tensor outputs[] = {output_buffer(cases[i].first, buffers[0], 4),
                                        output_buffer(cases[i].second, buffers[1], 4)};
        struct two_inputs call;
        submit(&rig, two_inputs(&call, rig.model, cases[i].count ? outputs : NULL, cases[i].count));
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK_INT(event.outputs_count, 2);
        CHECK_FLOATS(floats(&event, 0), 5, 7, 9);
        CHECK_FLOATS(floats(&event, 1), 4, 10, 18);
        CHECK(cases[i].sum_at < 0 || floats(&event, 0) == buffers[cases[i].sum_at]);
        CHECK(cases[i].product_at < 0 || floats(&event, 1) == buffers[cases[i].product_at]);
        for (int unused = 0; unused < 2; unused++) /* past the output, and buffers not given: untouched */
            for (int at = unused == cases[i].sum_at || unused == cases[i].product_at ? 3 : 0; at < 4; at++)
                CHECK_FLOATS(&buffers[unused][at], -1);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void inputs_go_by_name_in_any_order_or_by_position(void) {
    struct rig rig = {new_engine(NULL), NULL, 0};
    rig.queue = new_queue(rig.engine, 4);
    rig.model = load_model(rig.engine, "{\"name\": \"two\", \"backend\": \"mock\", \"mock\": {\"inputs\": ["
                                       "{\"name\": \"a\", \"shape\": [\"batch\", 3]}, {\"name\": \"b\", \"shape\": [\"batch\", 3]}]}}");
    for (int order = 0; order < 3; order++) {
        struct two_inputs call;
        two_inputs(&call, rig.model, NULL, 0);
        if (order == 1) { /* b first: still the mock doubles a, the model's first input */
            blaze_tensor a = call.inputs[0];
            call.inputs[0] = call.inputs[1];
            call.inputs[1] = a;
        }
        if (order == 2) call.inputs[0].name = call.inputs[1].name = NULL;
        submit(&rig, &call.request);
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void the_callers_buffers_are_filled_from_a_joined_batch_too(void) {
    enum { REQUESTS = 8 };
    struct rig rig = rig_up(NULL, HANGS(1), "\"batching\": {\"max_delay_us\": 0}");
    blaze_ticket blocker = submit_blocker(&rig);
    float buffers[REQUESTS][4] = {{0}};
    for (int i = 0; i < REQUESTS; i++) {
        const float data[4] = {(float)i, 0, 0, (float)-i};
        const blaze_tensor output = output_buffer("y", buffers[i], 4);
        struct call call;
        call_with(&call, rig.model, data, 1, 4)->user_data = (uint64_t)i;
        call.request.outputs = &output;
        call.request.outputs_count = 1;
        submit(&rig, &call.request);
    }
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    for (int i = 0; i < REQUESTS; i++) {
        blaze_event event = next_event(rig.queue);
        int mine = (int)event.user_data;
        CHECK_INT(event.timing.batch_rows, REQUESTS);
        CHECK(floats(&event, 0) == buffers[mine]);
        blaze_event_release(&event);
        CHECK_FLOATS(buffers[mine], 2 * (float)mine + 1, 1, 1, 1 - 2 * (float)mine); /* stays after the release */
    }
    rig_down(&rig);
}

static void requests_are_joined_and_each_gets_its_own_rows_back(void) {
    struct rig rig = rig_up(NULL, HANGS(1), "");
    blaze_ticket blocker = submit_blocker(&rig);
    float data[12];
    int64_t rows = 0;
    for (int i = 0; i < 9; i++) { /* 1, 2, 3, 1, 2, 3, ... rows */
        struct call call;
        int64_t count = 1 + i % 3;
        for (int at = 0; at < 12; at++) data[at] = (float)(100 * i + at);
        call_with(&call, rig.model, data, count, 4)->user_data = (uint64_t)i;
        submit(&rig, &call.request);
        rows += count;
    }
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    for (int i = 0; i < 9; i++) {
        blaze_event event = next_event(rig.queue);
        blaze_tensor view = BLAZE_TENSOR_INIT;
        CHECK_STATUS(event.status, OK);
        CHECK_INT(event.timing.batch_rows, rows);
        CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
        REQUIRE(view.data && view.rank == 2 && view.name);
        int64_t mine = (int64_t)event.user_data, count = 1 + mine % 3;
        CHECK(!strcmp(view.name, "y"));
        CHECK_INT(view.shape[0], count);
        CHECK_INT(view.shape[1], 4);
        CHECK_INT(view.size_bytes, count * 16);
        CHECK_INT(view.memory, BLAZE_MEMORY_HOST);
        for (int at = 0; at < 4 * count; at++) CHECK_FLOATS((float *)view.data + at, (float)(200 * mine + 2 * at + 1));
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void a_batch_never_has_more_than_max_rows_but_one_request_may(void) {
    struct rig rig = rig_up(NULL, HANGS(1), "\"batching\": {\"max_rows\": 4}");
    blaze_ticket blocker = submit_blocker(&rig);
    float data[4 * 10] = {0};
    const int64_t rows[] = {1, 3, 1, 2, 2, 3, 10, 1};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call call;
        call_with(&call, rig.model, data, rows[i], 4)->user_data = (uint64_t)rows[i];
        submit(&rig, &call.request);
    }
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    for (size_t i = 0; i < COUNT(rows); i++) {
        blaze_event event = next_event(rig.queue);
        blaze_tensor view = BLAZE_TENSOR_INIT;
        CHECK_STATUS(event.status, OK);
        if (event.user_data > 4) CHECK_INT(event.timing.batch_rows, event.user_data);
        else CHECK(event.timing.batch_rows <= 4);
        CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
        CHECK_INT(view.shape[0], event.user_data);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void an_event_says_whose_it_is_and_where_the_time_went(void) {
    struct rig rig = rig_up(NULL, HANGS(1) ", \"latency_us\": 20000", ALONE);
    blaze_ticket blocker = submit_blocker(&rig);
    blaze_ticket ticket = submit_simple(&rig, UINT64_MAX - 7);
    sleep_ns(30 * MILLISECOND);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.kind, BLAZE_EVENT_DONE);
    CHECK_INT(event.ticket, ticket);
    CHECK(event.user_data == UINT64_MAX - 7);
    CHECK_INT(event.model, rig.model);
    CHECK_INT(event.outputs_count, 1);
    CHECK_INT(event.timing.batch_rows, 1);
    CHECK(event.timing.queued_ns >= 30 * MILLISECOND);
    CHECK(event.timing.computed_ns >= 20 * MILLISECOND);
    CHECK(event.timing.queued_ns + event.timing.batched_ns + event.timing.computed_ns < PATIENCE);
    CHECK(event.text == NULL && event.text_bytes == 0);
    blaze_event_release(&event);
    rig_down(&rig);
}

static void infer_runs_a_request_and_returns_its_event(void) {
    struct rig rig = rig_up(NULL, "", "");
    for (uint32_t flags = 0; flags <= BLAZE_REQUEST_BORROW; flags++) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        simple_call(&call, rig.model)->flags = flags;
        call.request.user_data = 99;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, UINT64_MAX, &event, NULL), OK);
        CHECK_INT(event.kind, BLAZE_EVENT_DONE);
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        CHECK_INT(event.user_data, 99);
        CHECK_INT(event.model, rig.model);
        CHECK(event.ticket != 0);
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        CHECK_STATUS(blaze_cancel(rig.engine, event.ticket), NOT_FOUND);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

/* The time left when a call is over is generous here: 30 s for a hang that never ends. */
static void infer_gives_up_at_its_timeout_or_at_the_deadline(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    for (uint32_t flags = 0; flags <= BLAZE_REQUEST_BORROW; flags++) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        simple_call(&call, rig.model)->flags = flags;
        uint64_t started = blaze_now_ns();
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, 50 * MILLISECOND, &event, &error), TIMEOUT);
        CHECK(blaze_now_ns() - started >= 50 * MILLISECOND && blaze_now_ns() - started < 30 * SECOND);
        CHECK_STATUS(error.status, TIMEOUT);
        CHECK(event.internal == NULL && event.ticket == 0); /* outputs are written only on success */
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, 0, &event, NULL), TIMEOUT);
        call.request.deadline_ns = blaze_now_ns() + 50 * MILLISECOND;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, UINT64_MAX, &event, NULL), EXPIRED);
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, NULL), EXPIRED); /* past already */
        call.request.deadline_ns = blaze_now_ns() + PATIENCE;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, 50 * MILLISECOND, &event, NULL), TIMEOUT);
    }
    rig_down(&rig);
}

/* "threads": 1 lets one batch run at a time, and another model has that place: infer must not wait for it for longer
 * than it was told to. */
static void infer_keeps_its_timeout_while_another_model_computes(void) {
    struct rig rig = rig_up("{\"threads\": 1}", HANGS_ALWAYS, ALONE);
    blaze_model idle = load_mock(rig.engine, "idle", "", "");
    blaze_ticket blocker = submit_blocker(&rig);
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    /* Ends the hang should infer wait for it, so that the test fails rather than hangs. */
    struct call longer;
    simple_call(&longer, rig.model)->deadline_ns = blaze_now_ns() + 5 * SECOND;
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    blaze_ticket bounded = submit(&rig, &longer.request);
    until_running(rig.engine);
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, idle), 50 * MILLISECOND, &event, NULL), TIMEOUT);
    no_event(rig.queue); /* the other model's run has not ended: infer did not wait for it */
    CHECK_STATUS(blaze_cancel(rig.engine, bounded), OK);
    rig_down(&rig);
}

static void infer_returns_what_the_run_failed_with(void) {
    struct rig rig = rig_up(NULL, "\"faults\": [{\"kind\": \"error\", \"every\": 2}]", ALONE);
    for (uint32_t flags = 0; flags <= BLAZE_REQUEST_BORROW; flags++) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        simple_call(&call, rig.model)->flags = flags;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, UINT64_MAX, &event, &error), BACKEND_FAILED);
        CHECK_STATUS(error.status, BACKEND_FAILED);
        CHECK_TEXT(error.message, "injected fault");
        CHECK(event.internal == NULL);
        still_works(&rig);
    }
    rig_down(&rig);
}

static void *infer_many(void *argument) {
    struct rig *rig = argument;
    for (int i = 0; i < 200; i++) still_works(rig);
    return NULL;
}

static void infer_may_be_called_from_many_threads(void) {
    struct rig rig = rig_up(NULL, "", "");
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++) REQUIRE(pthread_create(&threads[i], NULL, infer_many, &rig) == 0);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_copied_input_may_be_changed_right_after_submit),
        TEST(a_borrowed_input_is_read_where_it_is),
        TEST(an_output_that_is_an_input_is_no_view_of_it),
        TEST(copied_inputs_are_in_the_ledger_and_borrowed_ones_are_not),
        TEST(inputs_go_by_name_in_any_order_or_by_position),
        TEST(outputs_go_to_the_callers_buffers_all_or_some_by_name_or_position),
        TEST(the_callers_buffers_are_filled_from_a_joined_batch_too),
        TEST(requests_are_joined_and_each_gets_its_own_rows_back),
        TEST(a_batch_never_has_more_than_max_rows_but_one_request_may),
        TEST(an_event_says_whose_it_is_and_where_the_time_went),
        TEST(infer_runs_a_request_and_returns_its_event),
        TEST(infer_gives_up_at_its_timeout_or_at_the_deadline),
        TEST(infer_keeps_its_timeout_while_another_model_computes),
        TEST(infer_returns_what_the_run_failed_with),
        TEST(infer_may_be_called_from_many_threads),
    };
    return RUN_TESTS(tests, argc, argv);
}
