/* Backends of the host's: their models are loaded, joined, run, evicted and unloaded as any, and what they break is theirs. */
#include "json.h"
#include <pthread.h>

/* A backend whose every step can be made to go wrong, and which counts what it is asked. */
struct backend {
    blaze_backend functions;
    const blaze_host *host;
    atomic_int loads, models, prepares, prepared, runs, closes;
    atomic_uint most_rows;
    const char *description; /* NULL: "x" and "y", f32 [batch, 4] */
    blaze_status fail_load, fail_prepare;
    atomic_int fail_run; /* a status for every run, until it is 0 again */
    const char *message;
    int sleeps;          /* until nobody wants the result */
    int forgets_output, makes_output;
    char options[256], path[256], name[64];
    char data[16];
    uint32_t lanes, max_rows, buckets;
};

static const char *const USUAL =
    "{\"inputs\": [{\"name\": \"x\", \"dtype\": \"f32\", \"shape\": [\"batch\", 4]}],"
    " \"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": [\"batch\", 4]}], \"rows_are_independent\": true}";

static blaze_status failure(struct backend *own, blaze_status status, blaze_error *err) {
    if (own->message) snprintf(err->message, sizeof err->message, "%s", own->message);
    return status;
}

static void open_backend(void *user, const blaze_host *host) {
    ((struct backend *)user)->host = host;
}

static blaze_status load(void *user, const blaze_backend_load *load, blaze_call *call, void **model, blaze_error *err) {
    struct backend *own = user;
    atomic_fetch_add(&own->loads, 1);
    if (own->host->is_cancelled(call)) return BLAZE_STATUS_CANCELLED;
    if (own->fail_load) return failure(own, own->fail_load, err);
    snprintf(own->options, sizeof own->options, "%s", load->options);
    snprintf(own->path, sizeof own->path, "%s", load->path ? load->path : "(none)");
    snprintf(own->name, sizeof own->name, "%s", load->name);
    if (load->data_bytes < sizeof own->data && load->data) memcpy(own->data, load->data, load->data_bytes);
    own->lanes = load->lanes, own->max_rows = load->max_rows, own->buckets = load->buckets_count;
    if (load->struct_size != sizeof *load) return BLAZE_STATUS_INTERNAL;
    atomic_fetch_add(&own->models, 1);
    *model = own;
    return BLAZE_STATUS_OK;
}

static blaze_status describe(void *user, void *model, char *buffer, size_t capacity, size_t *needed) {
    struct backend *own = user;
    const char *text = own->description ? own->description : USUAL;
    CHECK(model == user);
    *needed = strlen(text) + 1;
    if (*needed > capacity) return BLAZE_STATUS_BUFFER_TOO_SMALL;
    memcpy(buffer, text, *needed);
    return BLAZE_STATUS_OK;
}

static void unload(void *user, void *model) {
    struct backend *own = user;
    CHECK(model == user);
    CHECK_INT(atomic_load(&own->prepared), 0);
    atomic_fetch_sub(&own->models, 1);
}

static blaze_status prepare(void *user, void *model, const blaze_backend_batch *batch, blaze_call *call, void **out,
                            blaze_error *err) {
    struct backend *own = user;
    CHECK(model == user);
    if (own->fail_prepare) return failure(own, own->fail_prepare, err);
    CHECK_INT(batch->struct_size, sizeof *batch);
    CHECK_INT(batch->tensor_stride, sizeof(blaze_tensor));
    CHECK_INT(batch->inputs_count, 1);
    CHECK(!own->host->is_cancelled(call));
    if (batch->joined) {
        CHECK_INT(batch->outputs_count, 1);
        CHECK_INT(batch->inputs[0].shape[0], batch->max_rows);
        CHECK_INT(batch->inputs[0].size_bytes, batch->max_rows * 4 * sizeof(float));
        memset(batch->outputs[0].data, 0, batch->outputs[0].size_bytes); /* all of it is there */
    }
    blaze_backend_batch *kept = malloc(sizeof *kept);
    *kept = *batch;
    *out = kept;
    atomic_fetch_add(&own->prepares, 1);
    atomic_fetch_add(&own->prepared, 1);
    return BLAZE_STATUS_OK;
}

static void release(void *user, void *model, void *prepared) {
    struct backend *own = user;
    CHECK(model == user);
    free(prepared);
    atomic_fetch_sub(&own->prepared, 1);
}

static blaze_status run(void *user, void *model, void *prepared, const blaze_backend_run *run, blaze_call *call,
                        blaze_error *err) {
    struct backend *own = user;
    atomic_fetch_add(&own->runs, 1);
    CHECK(model == user);
    CHECK((prepared != NULL) == (own->functions.prepare != NULL));
    blaze_status status = atomic_load(&own->fail_run);
    if (status) return failure(own, status, err);
    if (own->sleeps) {
        uint64_t until = blaze_now_ns() + PATIENCE;
        while (!own->host->is_cancelled(call) && blaze_now_ns() < until) sleep_ns(MILLISECOND);
        return own->host->is_cancelled(call) ? BLAZE_STATUS_CANCELLED : BLAZE_STATUS_INTERNAL;
    }
    unsigned rows = run->rows, most = atomic_load(&own->most_rows);
    while (rows > most && !atomic_compare_exchange_weak(&own->most_rows, &most, rows)) continue;
    const blaze_tensor *x = run->inputs;
    CHECK_TEXT(x->name, "x");
    CHECK_INT(x->dtype, BLAZE_DTYPE_F32);
    if (!own->description) CHECK_INT(run->rows, x->shape[0]); /* joined or not */
    if (own->forgets_output) return BLAZE_STATUS_OK;
    float *y = run->outputs[0].data;
    if (!y || own->makes_output) {
        void *memory = NULL;
        CHECK_STATUS(own->host->output(call, 1, x->shape, x->rank, BLAZE_MEMORY_HOST, 0, &memory), INVALID_ARGUMENT);
        CHECK_STATUS(own->host->output(call, 0, NULL, 2, BLAZE_MEMORY_HOST, 0, &memory), INVALID_SHAPE);
        CHECK_STATUS(own->host->output(call, 0, x->shape, 1000, BLAZE_MEMORY_HOST, 0, &memory), INVALID_SHAPE);
        CHECK_STATUS(own->host->output(call, 0, (int64_t[]){-1}, 1, BLAZE_MEMORY_HOST, 0, &memory), INVALID_SHAPE);
        CHECK_STATUS(own->host->output(call, 0, x->shape, x->rank, BLAZE_MEMORY_CUDA, 0, &memory), INVALID_ARGUMENT);
        CHECK_STATUS(own->host->output(call, 0, x->shape, x->rank, BLAZE_MEMORY_HOST, 0, NULL), NULL_POINTER);
        CHECK_STATUS(own->host->output(NULL, 0, x->shape, x->rank, BLAZE_MEMORY_HOST, 0, &memory), NULL_POINTER);
        CHECK(!memory);
        CHECK_STATUS(own->host->output(call, 0, x->shape, x->rank, BLAZE_MEMORY_HOST, 0, &memory), OK);
        y = memory;
    }
    for (size_t i = 0; i < x->size_bytes / sizeof *y; i++) y[i] = 2 * ((const float *)x->data)[i] + 1;
    return BLAZE_STATUS_OK;
}

static void close_backend(void *user) {
    struct backend *own = user;
    CHECK_INT(atomic_load(&own->models), 0);
    CHECK_INT(atomic_load(&own->prepared), 0);
    atomic_fetch_add(&own->closes, 1);
}

static void make(struct backend *own) {
    *own = (struct backend){.functions = BLAZE_BACKEND_INIT};
    own->functions.name = "own", own->functions.user = own;
    own->functions.open = open_backend, own->functions.close = close_backend;
    own->functions.load = load, own->functions.describe = describe, own->functions.unload = unload;
    own->functions.prepare = prepare, own->functions.release = release, own->functions.run = run;
}

static void add(struct rig *rig, struct backend *own) {
    blaze_error error = {.status = 0};
    if (blaze_backend_register(rig->engine, &own->functions, &error)) FAIL("register: %s", error.message);
    REQUIRE(own->host);
}

#define MODEL(more) "{\"name\": \"m\", \"backend\": \"own\"" more "}"

static struct rig rig_of(struct backend *own, const char *engine, const char *model) {
    struct rig rig = {new_engine(engine), NULL, 0};
    rig.queue = new_queue(rig.engine, 1024);
    add(&rig, own);
    if (model) rig.model = load_model(rig.engine, model);
    return rig;
}

static void is_closed(struct rig *rig, struct backend *own) {
    CHECK_INT(atomic_load(&own->closes), 0);
    rig_down(rig);
    CHECK_INT(atomic_load(&own->closes), 1);
    CHECK_INT(atomic_load(&own->models), 0);
}

static void its_models_are_run_as_any(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"threads\": 1}", MODEL(", \"lanes\": 1, \"options\": {\"a\": [1, {\"b\": null}]},"
                                                            " \"batching\": {\"max_rows\": 16, \"buckets\": [4, 16]}"));
    CHECK_TEXT(own.options, "{\"a\":[1,{\"b\":null}]}");
    CHECK_TEXT(own.path, "(none)");
    CHECK_TEXT(own.name, "m:1");
    CHECK_INT(own.max_rows, 16);
    CHECK_INT(own.buckets, 2);
    CHECK_INT(own.lanes, 1);
    still_works(&rig);
    for (uint64_t i = 0; i < 300; i++) submit_simple(&rig, i);
    for (int i = 0; i < 300; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    CHECK(atomic_load(&own.most_rows) > 1);
    CHECK(atomic_load(&own.prepares) > 0);
    CHECK_JSON(health_text(rig.engine), "models[name=m].provider", "own");
    CHECK_JSON(health_text(rig.engine), "backends[name=own].report", "null");
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
    CHECK_INT(atomic_load(&own.models), 0);
    is_closed(&rig, &own);
}

/* Without `prepare`, and with outputs of the backend's own. */
static void more_rows_than_fit_are_run_alone(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", MODEL(", \"batching\": {\"max_rows\": 2}"));
    static const int64_t shape[] = {3, 4};
    static const float data[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    blaze_request request = BLAZE_REQUEST_INIT;
    blaze_event event = BLAZE_EVENT_INIT;
    input.dtype = BLAZE_DTYPE_F32, input.shape = shape, input.rank = 2;
    input.data = (void *)(uintptr_t)data, input.size_bytes = sizeof data;
    request.model = rig.model, request.inputs = &input, request.inputs_count = 1;
    CHECK_STATUS(blaze_infer(rig.engine, &request, PATIENCE, &event, NULL), OK);
    CHECK_FLOATS(floats(&event, 0) + 8, 19, 21, 23, 25);
    blaze_event_release(&event);
    CHECK_INT(atomic_load(&own.most_rows), 3);
    is_closed(&rig, &own);
}

static void what_is_optional_may_be_missing(void) {
    for (int makes = 0; makes < 2; makes++) {
        struct backend own;
        make(&own);
        own.functions.prepare = NULL, own.functions.release = NULL, own.functions.open = open_backend;
        own.makes_output = makes;
        own.description = makes ? "{\"inputs\": [{\"name\": \"x\", \"dtype\": \"f32\", \"shape\": [1, 4]}],"
                                  " \"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": [\"n\", 4]}]}"
                                : NULL;
        struct rig rig = rig_of(&own, "{}", MODEL(""));
        still_works(&rig);
        is_closed(&rig, &own);
    }
}

static void one_that_is_incomplete_is_refused(void) {
    struct rig rig = {new_engine("{}"), NULL, 0};
    rig.queue = new_queue(rig.engine, 8);
    struct backend own;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_backend_register(rig.engine, NULL, &error), NULL_POINTER);
    make(&own);
    CHECK_STATUS(blaze_backend_register(NULL, &own.functions, NULL), NULL_POINTER);
#define REFUSED(status, text)                                                             \
    do {                                                                                  \
        CHECK_STATUS(blaze_backend_register(rig.engine, &own.functions, &error), status); \
        CHECK_TEXT(error.message, text);                                                  \
        CHECK_INT(atomic_load(&own.closes), 0);                                           \
        make(&own);                                                                       \
    } while (0)
    own.functions.load = NULL;
    REFUSED(NULL_POINTER, "backend.load");
    own.functions.describe = NULL;
    REFUSED(NULL_POINTER, "backend.describe");
    own.functions.unload = NULL;
    REFUSED(NULL_POINTER, "backend.unload");
    own.functions.run = NULL;
    REFUSED(NULL_POINTER, "backend.run");
    own.functions.release = NULL;
    REFUSED(NULL_POINTER, "backend.release");
    own.functions.name = NULL;
    REFUSED(NULL_POINTER, "backend.name");
    own.functions.name = "two words";
    REFUSED(INVALID_ARGUMENT, "backend.name");
    own.functions.name = "";
    REFUSED(INVALID_ARGUMENT, "backend.name");
    own.functions.name = "onnx";
    REFUSED(ALREADY_EXISTS, "onnx");
    own.functions.abi = 77;
    REFUSED(INVALID_STRUCT, "77");
    own.functions.struct_size = 3;
    REFUSED(INVALID_STRUCT, "struct_size");
    add(&rig, &own);
    REFUSED(ALREADY_EXISTS, "own");
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    own.functions.name = "late";
    REFUSED(SHUT_DOWN, "shut down");
    is_closed(&rig, &own); /* once: as the one that was taken */
}

/* What a model's configuration may and may not say. */
static void an_unknown_backend_is_told_of(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", NULL);
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"m\", \"backend\": \"nobody\"}", &model, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "\"nobody\" is unknown; this engine has \"onnx\", \"mock\", \"own\"");
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"m\", \"backend\": \"mock\", \"options\": {\"a\": 1}}", &model, &error),
                 INVALID_CONFIG);
    CHECK_TEXT(error.message, "options");
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL(", \"options\": 3"), &model, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "options");
    is_closed(&rig, &own);
}

static void a_file_and_memory_are_passed_on(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"model_directory\": \"tests/models\"}", MODEL(", \"path\": \"tiny.onnx\""));
    CHECK_TEXT(own.path, "tests/models/tiny.onnx");
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load_memory(rig.engine, "{\"name\": \"n\", \"backend\": \"own\"}", "bytes", 5, &model, &error), OK);
    CHECK_TEXT(own.data, "bytes");
    is_closed(&rig, &own);
}

static void what_it_says_wrongly_fails_its_model(void) {
    static const struct {
        const char *description, *text;
    } cases[] = {
        {"{", "description"},
        {"[]", "description"},
        {"{\"inputs\": [], \"outputs\": []}", "outputs"},
        {"{\"inputs\": [{\"name\": \"x\", \"dtype\": \"f31\", \"shape\": []}], \"outputs\": []}", "inputs[0].dtype"},
        {"{\"inputs\": [], \"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": [1.5]}]}", "outputs[0].shape[0]"},
        {"{\"inputs\": [], \"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": []}], \"taste\": 1}", "taste"},
        {"{\"inputs\": [], \"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": []}], \"memory_bytes\": 18446744073709551615}",
         "memory_bytes"},
        {"{\"inputs\": [], \"outputs\": [{\"name\": \"\xff\", \"dtype\": \"f32\", \"shape\": []}]}", "UTF-8"},
    };
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", NULL);
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    for (size_t i = 0; i < COUNT(cases); i++) {
        own.description = cases[i].description;
        CHECK_STATUS(blaze_model_load(rig.engine, MODEL(""), &model, &error), BACKEND_FAILED);
        CHECK_TEXT(error.message, cases[i].text);
        CHECK_INT(atomic_load(&own.models), 0);
    }
    char *large = malloc(70000);
    REQUIRE(large);
    snprintf(large, 70000, "%s%*s", USUAL, 60000, " "); /* longer than any first guess */
    own.description = large;
    rig.model = load_model(rig.engine, MODEL(""));
    still_works(&rig);
    is_closed(&rig, &own);
    free(large);
}

static blaze_status never_enough(void *user, void *model, char *buffer, size_t capacity, size_t *needed) {
    (void)user, (void)model, (void)buffer;
    *needed = capacity + 1;
    return BLAZE_STATUS_BUFFER_TOO_SMALL;
}

static blaze_status without_end(void *user, void *model, char *buffer, size_t capacity, size_t *needed) {
    (void)user, (void)model;
    memset(buffer, 'x', capacity);
    *needed = capacity;
    return BLAZE_STATUS_OK;
}

static void texts_without_end_are_given_up(void) {
    blaze_status (*const broken[])(void *, void *, char *, size_t, size_t *) = {never_enough, without_end};
    for (size_t i = 0; i < COUNT(broken); i++) {
        struct backend own;
        make(&own);
        own.functions.describe = broken[i];
        struct rig rig = rig_of(&own, "{}", NULL);
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_model_load(rig.engine, MODEL(""), &model, &error), BACKEND_FAILED);
        CHECK_TEXT(error.message, "describe");
        is_closed(&rig, &own);
    }
}

static void its_failures_are_told(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", NULL);
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    own.message = "the dog ate it", own.fail_load = BLAZE_STATUS_MODEL_INVALID;
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL(""), &model, &error), MODEL_INVALID);
    CHECK_TEXT(error.message, "backend \"own\": the dog ate it");
    own.fail_load = 4711; /* no status */
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL(""), &model, &error), BACKEND_FAILED);
    CHECK_TEXT(error.message, "status 4711");
    own.message = NULL, own.fail_load = BLAZE_STATUS_QUEUE_FULL; /* not for a load to say */
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL(""), &model, &error), BACKEND_FAILED);
    CHECK_TEXT(error.message, "QUEUE_FULL");
    own.fail_load = 0;
    rig.model = load_model(rig.engine, MODEL(", \"recovery\": false, \"warmup\": false"));
    own.message = "no more";
    const struct {
        blaze_status says, told;
    } cases[] = {{BLAZE_STATUS_BACKEND_FAILED, BLAZE_STATUS_BACKEND_FAILED},
                 {BLAZE_STATUS_OUT_OF_MEMORY, BLAZE_STATUS_OUT_OF_MEMORY},
                 {BLAZE_STATUS_DEVICE_LOST, BLAZE_STATUS_DEVICE_LOST},
                 {BLAZE_STATUS_NOT_FOUND, BLAZE_STATUS_BACKEND_FAILED},
                 {-5, BLAZE_STATUS_BACKEND_FAILED}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        atomic_store(&own.fail_run, cases[i].says);
        CHECK_INT(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, &error), cases[i].told);
        CHECK_TEXT(error.message, "no more");
    }
    atomic_store(&own.fail_run, 0);
    still_works(&rig);
    own.forgets_output = 1;
    is_closed(&rig, &own);
}

static void an_output_that_is_not_made_is_noticed(void) {
    struct backend own;
    make(&own);
    own.description = "{\"inputs\": [{\"name\": \"x\", \"dtype\": \"f32\", \"shape\": [1, 4]}],"
                      " \"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": [\"n\", 4]}]}";
    struct rig rig = rig_of(&own, "{}", MODEL(", \"warmup\": false"));
    own.forgets_output = 1;
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, &error), BACKEND_FAILED);
    CHECK_TEXT(error.message, "output \"y\"");
    own.forgets_output = 0;
    still_works(&rig);
    is_closed(&rig, &own);
}

static void a_run_hears_that_nobody_waits(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"threads\": 1}", MODEL(", \"warmup\": false"));
    own.sleeps = 1;
    blaze_ticket ticket = submit_blocker(&rig);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    is_closed(&rig, &own); /* which would wait for ever */
}

/* Taken out of memory for another one, and loaded again for a request. */
static void its_models_come_and_go(void) {
    struct backend own;
    make(&own);
    own.description = "{\"inputs\": [{\"name\": \"x\", \"dtype\": \"f32\", \"shape\": [\"batch\", 4]}],"
                      " \"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": [\"batch\", 4]}],"
                      " \"rows_are_independent\": true, \"memory_bytes\": 6291456}";
    struct rig rig = rig_of(&own, "{\"memory\": {\"budget_bytes\": 10485760}}", MODEL(""));
    struct rig other = rig;
    other.model = load_model(rig.engine, "{\"name\": \"other\", \"backend\": \"own\"}");
    for (int i = 0; i < 5; i++) {
        still_works(&rig);
        still_works(&other);
    }
    CHECK(atomic_load(&own.loads) >= 10);
    CHECK(atomic_load(&own.models) <= 1);
    is_closed(&rig, &own);
}

static void it_is_pumped_without_threads(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"threads\": 0}", MODEL(""));
    for (uint64_t i = 0; i < 20; i++) submit_simple(&rig, i);
    CHECK_STATUS(blaze_pump(rig.engine, PATIENCE, NULL), OK);
    for (int i = 0; i < 20; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    is_closed(&rig, &own);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(its_models_are_run_as_any),
        TEST(more_rows_than_fit_are_run_alone),
        TEST(what_is_optional_may_be_missing),
        TEST(one_that_is_incomplete_is_refused),
        TEST(an_unknown_backend_is_told_of),
        TEST(a_file_and_memory_are_passed_on),
        TEST(what_it_says_wrongly_fails_its_model),
        TEST(texts_without_end_are_given_up),
        TEST(its_failures_are_told),
        TEST(an_output_that_is_not_made_is_noticed),
        TEST(a_run_hears_that_nobody_waits),
        TEST(its_models_come_and_go),
        TEST(it_is_pumped_without_threads),
    };
    return RUN_TESTS(tests, argc, argv);
}
