/* Tensors that are wrong in every way: each is refused with its status, the message names the thing, and the engine works
 * on as before. */
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

static const int64_t huge_shape[40] = {1, 4};
static const int64_t overflow[] = {INT64_MAX, 4};
static const float unaligned_room[8] = {0};

static void name_unknown(struct call *c) { c->input.name = "no-such"; }
static void name_empty(struct call *c) { c->input.name = ""; }
static void name_not_utf8(struct call *c) { c->input.name = "x\xff"; }
static void dtype_none(struct call *c) { c->input.dtype = 0; }
static void dtype_past(struct call *c) { c->input.dtype = BLAZE_DTYPE_I2 + 1; }
static void dtype_garbage(struct call *c) { c->input.dtype = UINT32_MAX; }
static void dtype_other(struct call *c) { c->input.dtype = BLAZE_DTYPE_I32; }
static void memory_cuda(struct call *c) { c->input.memory = BLAZE_MEMORY_CUDA; }
static void memory_garbage(struct call *c) { c->input.memory = UINT32_MAX; }
static void tensor_reserved(struct call *c) { c->input.reserved = 5; }
static void rank_zero(struct call *c) { c->input.rank = 0; }
static void rank_one(struct call *c) { c->input.rank = 1; }
static void rank_three(struct call *c) { c->input.rank = 3; c->shape[2] = 1; }
static void rank_33(struct call *c) { c->input.rank = 33; c->input.shape = huge_shape; }
static void rank_garbage(struct call *c) { c->input.rank = UINT32_MAX; }
static void shape_null(struct call *c) { c->input.shape = NULL; }
static void shape_wrong(struct call *c) { c->shape[1] = 5; c->input.size_bytes = 20; }
static void shape_negative(struct call *c) { c->shape[0] = -1; }
static void shape_least(struct call *c) { c->shape[0] = INT64_MIN; }
static void shape_no_rows(struct call *c) { c->shape[0] = 0; c->input.size_bytes = 0; }
static void shape_overflows(struct call *c) { c->input.shape = overflow; }
static void shape_overflows_bytes(struct call *c) { c->shape[0] = INT64_C(1) << 60; } /* 2^64 bytes: 0, if careless */
static void bytes_short(struct call *c) { c->input.size_bytes = 15; }
static void bytes_long(struct call *c) { c->input.size_bytes = 17; }
static void bytes_none(struct call *c) { c->input.size_bytes = 0; }
static void bytes_garbage(struct call *c) { c->input.size_bytes = SIZE_MAX; }
static void data_null(struct call *c) { c->input.data = NULL; }
static void data_null_and_empty(struct call *c) { c->input.data = NULL; c->input.size_bytes = 0; }
static void string_for_float(struct call *c) { c->input.dtype = BLAZE_DTYPE_STRING; c->input.size_bytes = 0; }
static void string_half(struct call *c) { c->input.dtype = BLAZE_DTYPE_STRING; c->input.size_bytes = 8; }

static void a_tensor_with_garbage_in_it_is_refused(void) {
    const struct wrong cases[] = {
        {BLAZE_STATUS_INVALID_NAME, "no-such", name_unknown},
        {BLAZE_STATUS_INVALID_NAME, "\"\"", name_empty},
        {BLAZE_STATUS_INVALID_ARGUMENT, "name", name_not_utf8},
        {BLAZE_STATUS_INVALID_DTYPE, "dtype", dtype_none},
        {BLAZE_STATUS_INVALID_DTYPE, "dtype", dtype_past},
        {BLAZE_STATUS_INVALID_DTYPE, "dtype", dtype_garbage},
        {BLAZE_STATUS_INVALID_DTYPE, "i32", dtype_other},
        {BLAZE_STATUS_INVALID_ARGUMENT, "memory", memory_cuda},
        {BLAZE_STATUS_UNSUPPORTED, "memory", memory_garbage},
        {BLAZE_STATUS_INVALID_ARGUMENT, "reserved", tensor_reserved},
        {BLAZE_STATUS_INVALID_SHAPE, "rank", rank_zero},
        {BLAZE_STATUS_INVALID_SHAPE, "rank", rank_one},
        {BLAZE_STATUS_INVALID_SHAPE, "rank", rank_three},
        {BLAZE_STATUS_INVALID_SHAPE, "rank", rank_33},
        {BLAZE_STATUS_INVALID_SHAPE, "rank", rank_garbage},
        {BLAZE_STATUS_NULL_POINTER, "shape", shape_null},
        {BLAZE_STATUS_INVALID_SHAPE, "[batch, 4]", shape_wrong},
        {BLAZE_STATUS_INVALID_SHAPE, "-1", shape_negative},
        {BLAZE_STATUS_INVALID_SHAPE, "negative", shape_least},
        {BLAZE_STATUS_INVALID_SHAPE, "size 0", shape_no_rows},
        {BLAZE_STATUS_INVALID_SHAPE, "overflow", shape_overflows},
        {BLAZE_STATUS_INVALID_SHAPE, "overflow", shape_overflows_bytes},
        {BLAZE_STATUS_INVALID_SIZE, "15", bytes_short},
        {BLAZE_STATUS_INVALID_SIZE, "17", bytes_long},
        {BLAZE_STATUS_INVALID_SIZE, "16", bytes_none},
        {BLAZE_STATUS_INVALID_SIZE, "", bytes_garbage},
        {BLAZE_STATUS_NULL_POINTER, "data", data_null},
        {BLAZE_STATUS_INVALID_SIZE, "16", data_null_and_empty},
        {BLAZE_STATUS_INVALID_DTYPE, "string", string_for_float},
        {BLAZE_STATUS_INVALID_SIZE, "size_bytes", string_half},
    };
    set_up();
    expect_refused(&rig, cases, COUNT(cases), 0);
    expect_refused(&rig, cases, COUNT(cases), BLAZE_REQUEST_BORROW);
    tear_down();
}

static void unaligned(struct call *c) {
    c->input.data = (char *)(uintptr_t)unaligned_room + 1;
}

static void only_borrowed_data_must_be_aligned(void) {
    const struct wrong borrowed = {BLAZE_STATUS_INVALID_ARGUMENT, "aligned", unaligned};
    set_up();
    expect_refused(&rig, &borrowed, 1, BLAZE_REQUEST_BORROW);
    struct call call;
    char room[17] = {0};
    memcpy(room + 1, ones_to_four, 16);
    simple_call(&call, rig.model);
    call.input.data = room + 1;
    submit(&rig, &call.request);
    blaze_event event = next_event(rig.queue);
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    blaze_event_release(&event);
    tear_down();
}

static void inputs_must_be_known_given_once_and_all_there(void) {
    rig = rig_up(NULL, "\"inputs\": [{\"name\": \"a\", \"shape\": [\"n\", 4]}, {\"name\": \"b\", \"shape\": [\"n\", 4]}]", "");
    struct call call;
    simple_call(&call, rig.model);
    blaze_tensor in[3] = {call.input, call.input, call.input};
    const int64_t two_rows[] = {2, 4};
    static const float eight[8] = {0};
    const struct { const char *names[3]; uint32_t count; blaze_status status; const char *text; } cases[] = {
        {{"a"}, 1, BLAZE_STATUS_INVALID_NAME, "\"b\" is missing"},
        {{"b"}, 1, BLAZE_STATUS_INVALID_NAME, "\"a\" is missing"},
        {{"a", "a"}, 2, BLAZE_STATUS_INVALID_NAME, "inputs[1]"},
        {{NULL, "a"}, 2, BLAZE_STATUS_INVALID_NAME, "\"a\" is given twice"},
        {{"b", NULL}, 2, BLAZE_STATUS_INVALID_NAME, "\"b\" is given twice"},
        {{"a", "b", "c"}, 3, BLAZE_STATUS_INVALID_NAME, "inputs[2]"},
        {{NULL, NULL, NULL}, 3, BLAZE_STATUS_INVALID_NAME, "inputs[2]"},
        {{"a", "A"}, 2, BLAZE_STATUS_INVALID_NAME, "\"A\""},
    };
    call.request.inputs = in;
    blaze_error error = {.status = 0};
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (int at = 0; at < 3; at++) in[at].name = cases[i].names[at];
        call.request.inputs_count = cases[i].count;
        CHECK_INT(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), cases[i].status);
        CHECK_TEXT(error.message, cases[i].text);
    }
    in[0].name = in[1].name = NULL;
    in[1].shape = two_rows; /* all inputs of a request have the same rows */
    in[1].data = (void *)(uintptr_t)eight;
    in[1].size_bytes = sizeof eight;
    call.request.inputs_count = 2;
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), INVALID_SHAPE);
    CHECK_TEXT(error.message, "rows");
    in[1] = in[0];
    submit(&rig, &call.request);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, OK);
    blaze_event_release(&event);
    rig_down(&rig);
}

static void output_buffers_must_fit(void) {
    set_up();
    float buffer[4] = {-1, -1, -1, -1};
    struct call call;
    blaze_tensor outputs[2] = {BLAZE_TENSOR_INIT, BLAZE_TENSOR_INIT};
    const struct { const char *name; blaze_dtype dtype; uint32_t count, memory; void *data; size_t size; blaze_status status;
                   const char *text; } cases[] = {
        {"z", BLAZE_DTYPE_F32, 1, 0, buffer, 16, BLAZE_STATUS_INVALID_NAME, "\"z\""},
        {"x", BLAZE_DTYPE_F32, 1, 0, buffer, 16, BLAZE_STATUS_INVALID_NAME, "\"x\""}, /* an input */
        {NULL, BLAZE_DTYPE_F32, 2, 0, buffer, 16, BLAZE_STATUS_INVALID_NAME, "outputs[1]"},
        {"y", BLAZE_DTYPE_F32, 2, 0, buffer, 16, BLAZE_STATUS_INVALID_NAME, "twice"},
        {"y", BLAZE_DTYPE_F64, 1, 0, buffer, 16, BLAZE_STATUS_INVALID_DTYPE, "f64"},
        {"y", 99, 1, 0, buffer, 16, BLAZE_STATUS_INVALID_DTYPE, "99"},
        {"y", BLAZE_DTYPE_F32, 1, 2, buffer, 16, BLAZE_STATUS_INVALID_ARGUMENT, "memory"},
        {"y", BLAZE_DTYPE_F32, 1, 0, NULL, 16, BLAZE_STATUS_NULL_POINTER, "data"},
        {"y", BLAZE_DTYPE_F32, 1, 0, buffer, SIZE_MAX, BLAZE_STATUS_INVALID_SIZE, "size_bytes"},
    };
    simple_call(&call, rig.model)->outputs = outputs;
    for (size_t i = 0; i < COUNT(cases); i++) {
        blaze_error error = {.status = 0};
        for (int at = 0; at < 2; at++) {
            outputs[at].name = cases[i].name;
            outputs[at].dtype = cases[i].dtype;
            outputs[at].memory = cases[i].memory;
            outputs[at].data = cases[i].data;
            outputs[at].size_bytes = cases[i].size;
        }
        call.request.outputs_count = cases[i].count;
        CHECK_INT(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), cases[i].status);
        CHECK_TEXT(error.message, cases[i].text);
    }
    /* How large an output is shows only when it is there. */
    outputs[0].memory = 0;
    for (size_t size = 0; size < 16; size += 15) {
        outputs[0].data = size ? buffer : NULL;
        outputs[0].size_bytes = size;
        call.request.outputs_count = 1;
        blaze_ticket ticket = submit(&rig, &call.request);
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.ticket, ticket);
        CHECK_STATUS(event.status, BUFFER_TOO_SMALL);
        CHECK_TEXT(event.text, "\"y\"");
        CHECK_INT(event.outputs_count, 0);
        CHECK_FLOATS(buffer, -1, -1, -1, -1);
        blaze_event_release(&event);
    }
    still_works(&rig);
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_tensor_with_garbage_in_it_is_refused),
        TEST(only_borrowed_data_must_be_aligned),
        TEST(inputs_must_be_known_given_once_and_all_there),
        TEST(output_buffers_must_fit),
    };
    return RUN_TESTS(tests, argc, argv);
}
