/* Batches and axes that are padded: answers are those of the request alone, and nothing of the padding is seen. */
#include "json.h"

/* A mock that echoes [batch, sequence], or [batch, sequence, 2], of f32. */
#define ECHO(axes) \
    "\"compute\": \"echo\", \"inputs\": [{\"name\": \"x\", \"shape\": " axes "}], \"outputs\": [{\"name\": \"y\", \"shape\": " axes "}]"
#define AXES "\"batching\": {\"max_rows\": 8, \"buckets\": [2, 8], \"axes\": {\"sequence\": {\"buckets\": [4, 8]}}}"

static float numbers[4096];

static void echo(struct rig *rig, const int64_t *shape, uint32_t rank, int way) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    size_t count = 1;
    for (uint32_t axis = 0; axis < rank; axis++) count *= (size_t)shape[axis];
    call_with(&call, rig->model, numbers, 1, (int64_t)count);
    memcpy(call.shape, shape, rank * sizeof *shape);
    call.input.rank = rank;
    float buffer[512];
    blaze_tensor output = BLAZE_TENSOR_INIT;
    if (way & 1) call.request.flags = BLAZE_REQUEST_BORROW;
    if (way & 2) {
        for (size_t i = 0; i < COUNT(buffer); i++) buffer[i] = -7;
        output.dtype = BLAZE_DTYPE_F32;
        output.data = buffer;
        output.size_bytes = count * sizeof(float); /* exactly what the shape takes */
        call.request.outputs = &output;
        call.request.outputs_count = 1;
    }
    if (way & 4) {
        blaze_error error = {.status = 0};
        if (blaze_infer(rig->engine, &call.request, PATIENCE, &event, &error) != BLAZE_STATUS_OK) {
            FAIL("way %d: %s", way, error.message);
            return;
        }
    } else {
        submit(rig, &call.request);
        event = next_event(rig->queue);
        if (event.status != BLAZE_STATUS_OK) {
            FAIL("way %d: %s: %s", way, blaze_status_name(event.status), event.text);
            return;
        }
    }
    blaze_tensor view = BLAZE_TENSOR_INIT;
    CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
    CHECK_INT(view.rank, rank);
    for (uint32_t axis = 0; axis < rank && axis < view.rank; axis++)
        if (view.shape[axis] != shape[axis])
            FAIL("way %d: axis %u is %lld, not %lld", way, axis, (long long)view.shape[axis], (long long)shape[axis]);
    CHECK_INT(view.size_bytes, count * sizeof(float));
    if (view.size_bytes == count * sizeof(float) && memcmp(view.data, numbers, view.size_bytes) != 0)
        FAIL("way %d: wrong answer for [%lld, %lld]", way, (long long)shape[0], (long long)shape[1]);
    if (way & 2) {
        CHECK(view.data == buffer);
        CHECK_FLOATS(buffer + count, -7, -7); /* nothing past its end */
    }
    blaze_event_release(&event);
}

static void every_size_has_the_answer_that_it_has_alone(void) {
    struct rig rig = rig_up(NULL, ECHO("[\"batch\", \"sequence\"]"), AXES);
    for (int64_t rows = 1; rows <= 8; rows++)
        for (int64_t sequence = 1; sequence <= 8; sequence++)
            for (int way = 0; way < 8; way++) echo(&rig, (const int64_t[]){rows, sequence}, 2, way);
    rig_down(&rig);
    rig = rig_up(NULL, ECHO("[\"batch\", \"sequence\", 2]"), AXES); /* an inner axis beyond the padded one */
    for (int64_t sequence = 1; sequence <= 8; sequence++)
        for (int way = 0; way < 8; way++) echo(&rig, (const int64_t[]){3, sequence, 2}, 3, way);
    rig_down(&rig);
    rig = rig_up(NULL, ECHO("[\"batch\", \"sequence\"]"), "\"batching\": {\"max_rows\": 1, \"axes\": {\"sequence\":"
                                                            " {\"buckets\": [4, 8]}}}"); /* alone, and padded */
    for (int64_t sequence = 1; sequence <= 8; sequence++)
        for (int way = 0; way < 8; way++) echo(&rig, (const int64_t[]){2, sequence}, 2, way);
    rig_down(&rig);
}

/* Without padding, requests of 5 and of 7 are in batches of their own; with it they go together. */
static void requests_of_different_sizes_are_joined(void) {
    struct rig rig = rig_up(NULL, ECHO("[\"batch\", \"sequence\"]") ", " HANGS(1),
                            "\"batching\": {\"max_rows\": 8, \"max_delay_us\": 1000000, \"axes\": {\"sequence\": {\"buckets\":"
                            " [4, 8]}}}");
    struct call call;
    blaze_ticket blocker = submit(&rig, call_with(&call, rig.model, numbers, 8, 8));
    until_running(rig.engine);
    for (int64_t sequence = 5; sequence <= 8; sequence++) {
        call_with(&call, rig.model, numbers + sequence, 2, sequence)->user_data = (uint64_t)sequence;
        submit(&rig, &call.request);
    }
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    for (int i = 0; i < 4; i++) {
        blaze_event event = next_event(rig.queue);
        blaze_tensor view = BLAZE_TENSOR_INIT;
        CHECK_STATUS(event.status, OK);
        CHECK_INT(event.timing.batch_rows, 8); /* all four */
        CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
        CHECK_INT(view.shape[1], (int64_t)event.user_data);
        CHECK_INT(view.size_bytes, 2 * event.user_data * sizeof(float));
        CHECK(!memcmp(view.data, numbers + event.user_data, view.size_bytes));
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void a_size_beyond_the_largest_bucket_is_refused(void) {
    struct rig rig = rig_up(NULL, ECHO("[\"batch\", \"sequence\"]"), AXES);
    struct call call;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_submit(rig.engine, call_with(&call, rig.model, numbers, 1, 9), rig.queue, NULL, &error),
                 INVALID_SHAPE);
    CHECK_TEXT(error.message, "sequence");
    CHECK_TEXT(error.message, "8");
    echo(&rig, (const int64_t[]){1, 0}, 2, 0);
    echo(&rig, (const int64_t[]){20, 8}, 2, 0); /* "a larger request runs alone" */
    echo(&rig, (const int64_t[]){20, 3}, 2, 4);
    char text[4096];
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, text, sizeof text, NULL), OK);
    CHECK_JSON(text, "batching.buckets", "[2,8]");
    CHECK_JSON(text, "batching.axes.sequence.buckets", "[4,8]");
    rig_down(&rig);
}

/* y is x summed over the sequence: zeros do not change it, and there is nothing to cut off. */
static void a_real_model_with_a_padded_axis(void) {
    struct rig rig = {new_engine(NULL), NULL, 0};
    rig.queue = new_queue(rig.engine, 16);
    rig.model = load_model(rig.engine, "{\"name\": \"sum\", \"path\": \"tests/models/sequence_sum.onnx\", \"batching\":"
                           " {\"max_rows\": 4, \"buckets\": [1, 4], \"axes\": {\"sequence\": {\"buckets\": [2, 16]}}}}");
    char text[4096];
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, text, sizeof text, NULL), OK);
    uint32_t rank = (uint32_t)json_count(text, "inputs[0].shape");
    long last = rank == 3 ? strtol(json_text(text, "inputs[0].shape[2]"), NULL, 10) : 1;
    REQUIRE((rank == 2 || rank == 3) && last > 0);
    for (int64_t rows = 1; rows <= 4; rows++)
        for (int64_t sequence = 1; sequence <= 16; sequence++) {
            struct call call;
            blaze_event event = BLAZE_EVENT_INIT;
            call_with(&call, rig.model, numbers, rows, sequence * last);
            call.shape[1] = sequence;
            call.shape[2] = last;
            call.input.rank = rank;
            REQUIRE(blaze_infer(rig.engine, &call.request, PATIENCE, &event, NULL) == BLAZE_STATUS_OK);
            const float *sums = floats(&event, 0);
            for (int64_t row = 0; row < rows; row++) {
                float sum = 0; /* of whole numbers: exact */
                for (int64_t at = 0; at < sequence; at++) sum += numbers[(row * sequence + at) * last];
                CHECK_FLOATS(sums + row * last, sum);
            }
            blaze_event_release(&event);
        }
    rig_down(&rig);
}

static void what_cannot_be_padded_is_refused_with_its_path(void) {
    blaze_engine *engine = new_engine(NULL);
    const struct { const char *batching, *path; } cases[] = {
        {"\"buckets\": [4]", "batching.buckets"}, /* the last one must be max_rows */
        {"\"buckets\": [8, 4]", "batching.buckets"},
        {"\"buckets\": [0, 8]", "batching.buckets"},
        {"\"buckets\": [4, 4, 8]", "batching.buckets"},
        {"\"buckets\": 8", "batching.buckets"},
        {"\"buckets\": [\"8\"]", "batching.buckets"},
        {"\"axes\": []", "batching.axes"},
        {"\"axes\": {\"sequence\": [4]}", "batching.axes.sequence"},
        {"\"axes\": {\"sequence\": {}}", "batching.axes.sequence"},
        {"\"axes\": {\"sequence\": {\"buckets\": []}}", "batching.axes.sequence.buckets"},
        {"\"axes\": {\"sequence\": {\"buckets\": [8, 4]}}", "batching.axes.sequence.buckets"},
        {"\"axes\": {\"sequence\": {\"buckets\": [0]}}", "batching.axes.sequence.buckets"},
        {"\"axes\": {\"sequence\": {\"buckets\": [4], \"more\": 1}}", "batching.axes.sequence.more"},
        {"\"axes\": {\"batch\": {\"buckets\": [4]}}", "batching.axes.batch"}, /* the first axis has buckets of its own */
        {"\"axes\": {\"other\": {\"buckets\": [4]}}", "batching.axes.other"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char config[1024];
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        snprintf(config, sizeof config, "{\"name\": \"m\", \"backend\": \"mock\", \"mock\": {%s}, \"batching\": {\"max_rows\": 8,"
                 " %s}}", ECHO("[\"batch\", \"sequence\"]"), cases[i].batching);
        CHECK_STATUS(blaze_model_load(engine, config, &model, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, cases[i].path);
    }
    blaze_engine_destroy(engine);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(every_size_has_the_answer_that_it_has_alone),
        TEST(requests_of_different_sizes_are_joined),
        TEST(a_size_beyond_the_largest_bucket_is_refused),
        TEST(a_real_model_with_a_padded_axis),
        TEST(what_cannot_be_padded_is_refused_with_its_path),
    };
    for (size_t i = 0; i < COUNT(numbers); i++) numbers[i] = (float)(i + 1);
    return RUN_TESTS(tests, argc, argv);
}
