/* Execution providers: what is not there is passed over or fails, wrong options are named, and what ran is told.
 *
 * With BLAZE_TEST_OPENVINO set, ONNX Runtime is to have OpenVINO, and models run on it: `make test-openvino`.
 */
#include "check.h"
#include "json.h"
#include <math.h>
#include <pthread.h>

static char *info(blaze_engine *engine, blaze_model model) {
    static _Thread_local char text[16384];
    if (blaze_model_info(engine, model, text, sizeof text, NULL) != BLAZE_STATUS_OK) strcpy(text, "null");
    return text;
}

/* Loads a test model with a list of providers. */
static blaze_status load(blaze_engine *engine, const char *name, const char *file, const char *providers,
                         blaze_model *model, blaze_error *error) {
    char config[1024];
    snprintf(config, sizeof config, "{\"name\": \"%s\", \"path\": \"tests/models/%s.onnx\", \"providers\": [%s]}", name,
             file, providers);
    *model = 0;
    *error = (blaze_error){.status = 0};
    return blaze_model_load(engine, config, model, error);
}

static blaze_model load_on(blaze_engine *engine, const char *name, const char *file, const char *providers) {
    blaze_model model;
    blaze_error error;
    if (load(engine, name, file, providers, &model, &error) != BLAZE_STATUS_OK) FAIL("%s: %s", file, error.message);
    REQUIRE(model);
    return model;
}

/* Loading fails so, with these words. */
static void expect_failure(blaze_engine *engine, const char *file, const char *providers, blaze_status status,
                           const char *first, const char *second) {
    blaze_model model;
    blaze_error error;
    blaze_status got = load(engine, "wrong", file, providers, &model, &error);
    if (got != status || !strstr(error.message, first) || !strstr(error.message, second))
        FAIL("%s on %s: %s: \"%s\", not %s with \"%s\" and \"%s\"", file, providers, blaze_status_name(got), error.message,
             blaze_status_name(status), first, second);
    CHECK_INT(model, 0);
}

/* Numbers from -1 to 1, always the same. */
static void fill(float *data, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
}

/* One run of a model with one f32 input [rows, columns]; returns how many numbers the first output has. */
static size_t run(blaze_engine *engine, blaze_model model, const float *data, int64_t rows, int64_t columns, float *result,
                  size_t room) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    if (blaze_infer(engine, call_with(&call, model, data, rows, columns), PATIENCE, &event, &error) != BLAZE_STATUS_OK) {
        FAIL("run: %s", error.message);
        return 0;
    }
    blaze_tensor view = BLAZE_TENSOR_INIT;
    CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
    size_t count = view.size_bytes / sizeof *result;
    if (count > room) FAIL("%zu numbers", count);
    else if (count) memcpy(result, view.data, view.size_bytes);
    blaze_event_release(&event);
    return count;
}

/* Every library -------------------------------------------------------------------------------------------------- */

/* No ONNX Runtime of any Linux has this one. */
#define ABSENT "coreml"

static void a_provider_that_the_library_lacks_is_passed_over_and_told_of(void) {
    blaze_engine *engine = new_engine(NULL);
    blaze_model model = load_on(engine, "m", "tiny", "{\"name\": \"" ABSENT "\", \"options\": {\"a\": 1}}, \"cpu\"");
    blaze_model plain = load_on(engine, "plain", "tiny", "\"cpu\"");
    char *text = info(engine, model);
    CHECK_JSON(text, "provider", "cpu");
    CHECK_JSON(text, "providers.[0].name", ABSENT); /* what was asked for */
    CHECK_JSON(text, "providers.[0].options.a", "1");
    CHECK_JSON(text, "providers.[1]", "cpu");
    CHECK_JSON(text, "providers_rejected.[0].provider", ABSENT);
    CHECK_TEXT(json_text(text, "providers_rejected.[0].reason"), "it has "); /* which ones there are */
    CHECK_TEXT(json_text(text, "providers_rejected.[0].reason"), "cpu");
    CHECK(json_number(text, "provider_operators.cpu") > 0);
    const char *health = health_text(engine);
    CHECK_JSON(health, "models[name=m].provider", "cpu");
    CHECK_JSON(health, "models[name=m].providers_rejected.[0].provider", ABSENT);
    CHECK(json_number(health, "models[name=m].provider_operators.cpu") > 0);
    float data[8], results[2][8];
    fill(data, COUNT(data), 1);
    CHECK_INT(run(engine, model, data, 2, 4, results[0], 8), 4);
    CHECK_INT(run(engine, plain, data, 2, 4, results[1], 8), 4);
    CHECK(!memcmp(results[0], results[1], 4 * sizeof(float)));
    blaze_engine_destroy(engine);
}

static void a_required_provider_fails_the_load(void) {
    blaze_engine *engine = new_engine(NULL);
    const char *required = "{\"name\": \"" ABSENT "\", \"required\": true}";
    char providers[256];
    snprintf(providers, sizeof providers, "%s, \"cpu\"", required);
    expect_failure(engine, "tiny", providers, BLAZE_STATUS_PROVIDER_UNAVAILABLE, "providers[0]: " ABSENT " is required", "it has ");
    expect_failure(engine, "tiny", required, BLAZE_STATUS_PROVIDER_UNAVAILABLE, ABSENT " is required", "it has ");
    /* Not to be used, either. */
    snprintf(providers, sizeof providers, "\"directml\", %s, \"cpu\"", required);
    expect_failure(engine, "tiny", providers, BLAZE_STATUS_PROVIDER_UNAVAILABLE, "providers[1]: ", "it has ");
    expect_failure(engine, "tiny", "\"" ABSENT "\", \"directml\"", BLAZE_STATUS_PROVIDER_UNAVAILABLE, ABSENT ": ", "directml: ");
    /* The engine is as before. */
    blaze_model model = load_on(engine, "m", "tiny", "\"cpu\"");
    CHECK_JSON(info(engine, model), "provider", "cpu");
    blaze_engine_destroy(engine);
}

static void wrong_entries_are_refused_by_their_path(void) {
    static const struct { const char *providers, *path, *what; } cases[] = {
        {"\"gpu\"", "providers[0]: ", "\"gpu\""},
        {"{\"name\": \"gpu\"}", "providers[0]: ", "known are cpu, cuda"},
        {"{\"required\": true}", "providers[0]: ", "name"},
        {"\"cpu\", {\"name\": \"cuda\", \"requird\": true}", "providers[1].requird: ", "unknown field"},
        {"\"cpu\", {\"name\": \"cuda\", \"required\": \"yes\"}", "providers[1].required: ", "boolean"},
        {"{\"name\": \"cuda\", \"options\": []}", "providers[0].options: ", "map"},
        {"{\"name\": \"cuda\", \"options\": {\"device_id\": null}}", "providers[0].options.device_id: ", "a string, a number"},
        {"{\"name\": \"cuda\", \"options\": {\"device_id\": [0]}}", "providers[0].options.device_id: ", "a string, a number"},
        {"{\"name\": \"cuda\", \"options\": {\"a\": \"b\\u0000\"}}", "providers[0].options.a: ", "NUL"},
        {"{\"name\": \"cpu\", \"options\": {\"a\": 1}}", "providers[0].options: ", "none"},
        {"{\"name\": \"cuda\", \"options\": {\"user_compute_stream\": 4096}}", "providers[0].options.user_compute_stream: ", "address"},
        {"{\"name\": \"cuda\", \"options\": {\"gpu_external_alloc\": \"8\"}}", "providers[0].options.gpu_external_alloc: ", "address"},
        {"{\"name\": \"cuda\", \"options\": {\"enable_cuda_graph\": true}}", "providers[0].options.enable_cuda_graph: ", "graphs"},
        {"\"cpu\", {\"name\": \"cuda\", \"required\": true}", "providers[1].required: ", "behind cpu"},
        {"\"cuda\", \"cpu\", \"cuda\"", "providers[2]: ", "already"},
        {"\"cpu\", \"cpu\"", "providers[1]: ", "already"},
    };
    blaze_engine *engine = new_engine(NULL);
    for (size_t i = 0; i < COUNT(cases); i++)
        expect_failure(engine, "tiny", cases[i].providers, BLAZE_STATUS_INVALID_CONFIG, cases[i].path, cases[i].what);
    blaze_engine_destroy(engine);
}

/* What the log has of the topic `onnx`. */
struct heard {
    atomic_uint lines;
    char message[4096];
};

static void hear(void *user, const blaze_log_record *record) {
    struct heard *heard = user;
    if (strcmp(record->module, "onnx") != 0) return;
    atomic_fetch_add(&heard->lines, 1);
    snprintf(heard->message, sizeof heard->message, "%u: %s %s", record->level, record->message, record->fields);
}

static void one_line_of_the_log_says_what_became_of_a_list(void) {
    struct heard heard = {.lines = 0};
    blaze_engine *engine = new_engine("{\"log\": {\"target\": \"callback\", \"level\": \"info\"}}");
    CHECK_STATUS(blaze_log_set_callback(engine, hear, &heard, NULL), OK);
    load_on(engine, "m", "tiny", "\"" ABSENT "\", \"directml\", \"cpu\"");
    CHECK_INT(heard.lines, 1);
    CHECK_TEXT(heard.message, "2: runs on cpu (4 operators); " ABSENT " is not used: ");
    CHECK_TEXT(heard.message, "; directml is not used: ");
    CHECK_TEXT(heard.message, "\"model\":\"m:1\"");
    /* Where nothing was asked for there is nothing to say. */
    load_on(engine, "plain", "tiny", "\"cpu\"");
    CHECK_INT(heard.lines, 1);
    blaze_engine_destroy(engine);
}

static blaze_engine *shared;

static void *come_and_go(void *argument) {
    size_t number = (size_t)(uintptr_t)argument;
    static const char *const providers[] = {
        "\"cpu\"", "\"" ABSENT "\", \"cpu\"", "{\"name\": \"directml\", \"options\": {\"a\": 1}}, \"" ABSENT "\", \"cpu\"",
        "{\"name\": \"" ABSENT "\", \"required\": true}, \"cpu\"",
    };
    char name[16];
    snprintf(name, sizeof name, "m%zu", number);
    float data[4], result[4];
    for (unsigned i = 0; i < 20; i++) {
        size_t which = (number + i) % COUNT(providers);
        blaze_model model;
        blaze_error error;
        blaze_status status = load(shared, name, "tiny", providers[which], &model, &error);
        if (which == 3) {
            CHECK_STATUS(status, PROVIDER_UNAVAILABLE);
            continue;
        }
        CHECK_STATUS(status, OK);
        fill(data, 4, i);
        CHECK_INT(run(shared, model, data, 1, 4, result, 4), 2);
        CHECK_JSON(info(shared, model), "provider", "cpu");
        CHECK_STATUS(blaze_model_unload(shared, model, NULL, NULL), OK);
    }
    return NULL;
}

static void lists_are_tried_by_many_threads_at_once(void) {
    pthread_t threads[6];
    shared = new_engine(NULL);
    for (size_t i = 0; i < COUNT(threads); i++)
        REQUIRE(!pthread_create(&threads[i], NULL, come_and_go, (void *)(uintptr_t)i));
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    CHECK_INT(health_number(shared, "memory.models_bytes"), 0);
    blaze_engine_destroy(shared);
}

/* OpenVINO ------------------------------------------------------------------------------------------------------- */

#define OPENVINO "{\"name\": \"openvino\", \"required\": true, \"options\": {\"device_type\": \"CPU\"}}"
#define OPENVINO_WITH(options) \
    "{\"name\": \"openvino\", \"required\": true, \"options\": {\"device_type\": \"CPU\", " options "}}"

/* Near enough, for kernels that add in another order. */
static void check_near(const char *what, const float *actual, const float *expected, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float most = 1e-4f * (fabsf(expected[i]) > 1 ? fabsf(expected[i]) : 1);
        if (!(fabsf(actual[i] - expected[i]) <= most)) {
            FAIL("%s: number %zu is %g, not %g", what, i, (double)actual[i], (double)expected[i]);
            return;
        }
    }
}

static void openvino_runs_models_and_agrees_with_the_cpu(void) {
    static const struct { const char *file; int64_t columns; } models[] = {
        {"tiny", 4}, {"small", 64}, {"rows_interact", 2}, {"fixed_output", 3}, {"double_first", 2}, {"axis_named_batch", 5},
    };
    blaze_engine *engine = new_engine(NULL);
    static float data[64 * 64], results[2][2 * 64 * 64];
    for (size_t i = 0; i < COUNT(models); i++) {
        blaze_model there = load_on(engine, "there", models[i].file, OPENVINO);
        blaze_model here = load_on(engine, "here", models[i].file, "\"cpu\"");
        char *text = info(engine, there);
        CHECK_JSON(text, "provider", "openvino");
        CHECK(json_number(text, "provider_operators.openvino") > 0);
        CHECK_JSON(text, "provider_operators.cpu", "(none)");
        CHECK_JSON(text, "providers_rejected", "[]");
        CHECK_JSON(health_text(engine), "models[name=there].provider", "openvino");
        int64_t columns = models[i].columns;
        const char *width = json_text(text, "inputs.[0].shape.[1]");
        if (*width >= '0' && *width <= '9') columns = strtoll(width, NULL, 10);
        for (int64_t rows = 1; rows <= 64; rows = rows * 3 + 1) {
            fill(data, (size_t)(rows * columns), (uint32_t)rows);
            size_t count = run(engine, here, data, rows, columns, results[0], COUNT(results[0]));
            CHECK(count > 0);
            CHECK_INT(run(engine, there, data, rows, columns, results[1], COUNT(results[1])), count);
            check_near(models[i].file, results[1], results[0], count);
        }
        CHECK_STATUS(blaze_model_unload(engine, here, NULL, NULL), OK);
        CHECK_STATUS(blaze_model_unload(engine, there, NULL, NULL), OK);
    }
    blaze_engine_destroy(engine);
}

struct user {
    blaze_model model;
    const float *data, *expected;
    size_t first;
};

enum { USERS = 4, ROWS = 200, COLUMNS = 64, RESULTS = 8 };

static void *use(void *argument) {
    struct user *user = argument;
    float result[RESULTS];
    for (size_t i = 0; i < ROWS; i++) {
        size_t row = (user->first + i) % ROWS;
        CHECK_INT(run(shared, user->model, user->data + row * COLUMNS, 1, COLUMNS, result, RESULTS), RESULTS);
        check_near("small", result, user->expected + row * RESULTS, RESULTS);
    }
    return NULL;
}

static void requests_of_many_threads_are_joined_on_openvino(void) {
    static float data[ROWS * COLUMNS], expected[ROWS * RESULTS];
    fill(data, COUNT(data), 7);
    shared = new_engine(NULL);
    blaze_model here = load_on(shared, "here", "small", "\"cpu\"");
    char config[512];
    snprintf(config, sizeof config, "{\"name\": \"there\", \"path\": \"tests/models/small.onnx\", \"lanes\": 2, \"providers\": [%s]}",
             OPENVINO_WITH("\"num_of_threads\": 1"));
    blaze_model there = load_model(shared, config);
    CHECK_JSON(info(shared, there), "batching.enabled", "true");
    for (size_t row = 0; row < ROWS; row++)
        CHECK_INT(run(shared, here, data + row * COLUMNS, 1, COLUMNS, expected + row * RESULTS, RESULTS), RESULTS);
    struct user users[USERS];
    pthread_t threads[USERS];
    for (size_t i = 0; i < USERS; i++) {
        users[i] = (struct user){there, data, expected, i * ROWS / USERS};
        REQUIRE(!pthread_create(&threads[i], NULL, use, &users[i]));
    }
    for (size_t i = 0; i < USERS; i++) pthread_join(threads[i], NULL);
    blaze_engine_destroy(shared);
}

static void wrong_options_of_openvino_are_named(void) {
    blaze_engine *engine = new_engine(NULL);
    static const struct { const char *options, *key, *what; } cases[] = {
        {"\"no_such_key\": 5", "no_such_key: openvino does not take \"5\": ", "no_such_key"},
        {"\"num_of_threads\": -5", "num_of_threads: openvino does not take \"-5\": ", "number"},
        {"\"precision\": \"FP77\"", "precision: openvino does not take \"FP77\": ", "recision"},
        /* The wrong one of two. */
        {"\"num_of_threads\": 1, \"zzz\": true", "zzz: openvino does not take \"true\": ", "zzz"},
        {"\"aaa\": 0.5, \"num_of_threads\": 1", "aaa: openvino does not take \"0.5\": ", "aaa"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char providers[512], path[256];
        snprintf(path, sizeof path, "providers[0].options.%s", cases[i].key);
        /* Whether it is required or not: it would be wrong everywhere. */
        for (int required = 0; required < 2; required++) {
            snprintf(providers, sizeof providers,
                     "{\"name\": \"openvino\", \"required\": %s, \"options\": {\"device_type\": \"CPU\", %s}}, \"cpu\"",
                     required ? "true" : "false", cases[i].options);
            expect_failure(engine, "tiny", providers, BLAZE_STATUS_INVALID_CONFIG, path, cases[i].what);
        }
    }
    /* Two wrong ones: either. */
    expect_failure(engine, "tiny", OPENVINO_WITH("\"aaa\": 1, \"zzz\": 2"), BLAZE_STATUS_INVALID_CONFIG, "providers[0].options.", "openvino does not take");
    load_on(engine, "m", "tiny", OPENVINO_WITH("\"num_of_threads\": 1, \"num_streams\": 1, \"disable_dynamic_shapes\": false"));
    blaze_engine_destroy(engine);
}

static void a_device_that_is_not_there_is_passed_over(void) {
    blaze_engine *engine = new_engine(NULL);
    /* The plugin for these is not among the files that the test fetches. */
    const char *npu = "{\"name\": \"openvino\", \"options\": {\"device_type\": \"NPU\"}}, \"cpu\"";
    blaze_model model = load_on(engine, "m", "tiny", npu);
    char *text = info(engine, model);
    CHECK_JSON(text, "provider", "cpu");
    CHECK_JSON(text, "providers_rejected.[0].provider", "openvino");
    CHECK_TEXT(json_text(text, "providers_rejected.[0].reason"), "NPU");
    expect_failure(engine, "tiny", "{\"name\": \"openvino\", \"required\": true, \"options\": {\"device_type\": \"NPU\"}}, \"cpu\"",
                   BLAZE_STATUS_PROVIDER_UNAVAILABLE, "openvino is required", "NPU");
    blaze_engine_destroy(engine);
}

static void a_model_that_openvino_cannot_run_runs_on_the_cpu_or_not_at_all(void) {
    blaze_engine *engine = new_engine(NULL);
    static const char *const files[] = {"strings_concat", "cast_i4", "passed_on", "constant_output"};
    for (size_t i = 0; i < COUNT(files); i++) {
        blaze_model model = load_on(engine, "m", files[i], "\"openvino\", \"cpu\"");
        char *text = info(engine, model);
        CHECK_JSON(text, "provider", "cpu");
        CHECK(json_number(text, "provider_operators.cpu") > 0);
        CHECK_JSON(text, "providers_rejected.[0].provider", "openvino");
        CHECK(strlen(json_text(text, "providers_rejected.[0].reason")) > 10);
        CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), OK);
        expect_failure(engine, files[i], OPENVINO ", \"cpu\"", BLAZE_STATUS_PROVIDER_UNAVAILABLE, "openvino is required", "");
        expect_failure(engine, files[i], "\"openvino\"", BLAZE_STATUS_PROVIDER_UNAVAILABLE, "openvino: ", "");
    }
    /* It was registered, and did nothing. */
    blaze_model model = load_on(engine, "m", "strings_concat", "\"openvino\", \"cpu\"");
    CHECK_TEXT(json_text(info(engine, model), "providers_rejected.[0].reason"), "none of the model's operators");
    /* What is wrong with the model is no provider's fault. */
    expect_failure(engine, "no_such_model", OPENVINO, BLAZE_STATUS_MODEL_NOT_FOUND, "no_such_model", "");
    blaze_engine_destroy(engine);
}

/* This ONNX Runtime is older than profiles of single runs. */
static void a_profile_goes_without_operators_where_there_are_none(void) {
    blaze_engine *engine = new_engine("{\"profile\": {\"level\": \"detailed\"}}");
    blaze_model there = load_on(engine, "there", "tiny", OPENVINO);
    blaze_model here = load_on(engine, "here", "tiny", "\"cpu\"");
    float data[4], results[2][2];
    fill(data, 4, 9);
    for (int i = 0; i < 50; i++) {
        CHECK_INT(run(engine, there, data, 1, 4, results[0], 2), 2);
        CHECK_INT(run(engine, here, data, 1, 4, results[1], 2), 2);
        check_near("tiny", results[0], results[1], 2);
    }
    static char text[1 << 20];
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_profile_report(engine, BLAZE_REPORT_JSON, text, sizeof text, NULL, &error), OK);
    CHECK(json_is_valid(text));
    CHECK_TEXT(text, "\"there:1\"");
    blaze_engine_destroy(engine);
}

static void models_on_openvino_come_and_go(void) {
    blaze_engine *engine = new_engine(NULL);
    float data[4], results[2][2];
    fill(data, 4, 3);
    for (int i = 0; i < 20; i++) {
        blaze_model model = load_on(engine, "m", "tiny", OPENVINO);
        CHECK_INT(run(engine, model, data, 1, 4, results[i > 0], 2), 2);
        if (i > 0) check_near("tiny", results[1], results[0], 2);
        CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), OK);
    }
    CHECK_INT(health_number(engine, "memory.models_bytes"), 0);
    /* Two at once, of one file: with other options it is another session. */
    blaze_model first = load_on(engine, "first", "tiny", OPENVINO);
    blaze_model second = load_on(engine, "second", "tiny", "\"cpu\"");
    CHECK_JSON(info(engine, first), "provider", "openvino");
    CHECK_JSON(info(engine, second), "provider", "cpu");
    blaze_engine_destroy(engine);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_provider_that_the_library_lacks_is_passed_over_and_told_of),
        TEST(a_required_provider_fails_the_load),
        TEST(wrong_entries_are_refused_by_their_path),
        TEST(one_line_of_the_log_says_what_became_of_a_list),
        TEST(lists_are_tried_by_many_threads_at_once),
        TEST(openvino_runs_models_and_agrees_with_the_cpu),
        TEST(requests_of_many_threads_are_joined_on_openvino),
        TEST(wrong_options_of_openvino_are_named),
        TEST(a_device_that_is_not_there_is_passed_over),
        TEST(a_model_that_openvino_cannot_run_runs_on_the_cpu_or_not_at_all),
        TEST(a_profile_goes_without_operators_where_there_are_none),
        TEST(models_on_openvino_come_and_go),
    };
    enum { EVERYWHERE = 5 };
    const char *openvino = getenv("BLAZE_TEST_OPENVINO");
    return run_tests(tests, openvino && *openvino ? COUNT(tests) : EVERYWHERE, argc, argv);
}
