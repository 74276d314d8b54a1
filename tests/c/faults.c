/* What goes wrong in backends, on command: who is told what, and that everything else goes on. */
#include "json.h"
#include <spawn.h>
#include <sys/wait.h>

/* Nobody but the test runs the model. */
#define UNAIDED ", \"recovery\": false"

extern char **environ;
static char *program;

static blaze_health_info health_of(blaze_engine *engine) {
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    CHECK_STATUS(blaze_health(engine, &health), OK);
    return health;
}

static blaze_metrics_info metrics_of(blaze_engine *engine) {
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
    return metrics;
}

static const struct fault { const char *kind; blaze_status status; const char *text; blaze_health_state health; } faults[] = {
    {"error", BLAZE_STATUS_BACKEND_FAILED, "injected fault in run", BLAZE_HEALTH_DEGRADED},
    {"panic", BLAZE_STATUS_INTERNAL, "injected panic in run", BLAZE_HEALTH_DEGRADED},
    {"out_of_memory", BLAZE_STATUS_OUT_OF_MEMORY, "injected fault in run", BLAZE_HEALTH_DEGRADED},
    {"device_lost", BLAZE_STATUS_DEVICE_LOST, "injected fault in run", BLAZE_HEALTH_FAILED},
};

static void a_run_that_fails_says_why_and_the_next_one_works(void) {
    for (size_t i = 0; i < COUNT(faults); i++) {
        char mock[256];
        snprintf(mock, sizeof mock, "\"faults\": [{\"kind\": \"%s\", \"after\": 1, \"every\": 2}]", faults[i].kind);
        struct rig rig = rig_up(NULL, mock, ALONE UNAIDED);
        for (int round = 0; round < 3; round++) {
            EXPECT_EVENT(rig.queue, submit_simple(&rig, 0), OK);
            CHECK_INT(health_of(rig.engine).state, BLAZE_HEALTH_OK);
            CHECK_INT(health_of(rig.engine).models_ready, 1);

            blaze_ticket ticket = submit_simple(&rig, 9);
            blaze_event event = next_event(rig.queue);
            CHECK_INT(event.ticket, ticket);
            CHECK_INT(event.kind, BLAZE_EVENT_DONE);
            CHECK_INT(event.status, faults[i].status);
            CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
            CHECK_INT(event.user_data, 9);
            CHECK_INT(event.outputs_count, 0);
            CHECK_TEXT(event.text, faults[i].text);
            CHECK_INT(event.text_bytes, event.text ? strlen(event.text) : 0);
            blaze_tensor view = BLAZE_TENSOR_INIT;
            CHECK_STATUS(blaze_event_output(&event, 0, &view), NOT_FOUND);
            blaze_event_release(&event);
            CHECK_INT(health_of(rig.engine).state, faults[i].health);
            CHECK_INT(health_of(rig.engine).models_ready, 0);
            CHECK_INT(health_of(rig.engine).accepting, 1);
        }
        blaze_metrics_info metrics = metrics_of(rig.engine);
        CHECK_INT(metrics.requests_accepted, 6);
        CHECK_INT(metrics.requests_ok, 3);
        CHECK_INT(metrics.requests_failed, 3);
        static char text[65536];
        CHECK_STATUS(blaze_metrics_text(rig.engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK);
        CHECK_TEXT(text, "blaze_requests_total{outcome=\"failed\"} 3\n");
        CHECK_TEXT(text, "blaze_model_requests_total{model=\"mock:1\",outcome=\"ok\"} 3\n");
        CHECK_STATUS(blaze_health_json(rig.engine, text, sizeof text, NULL), OK);
        CHECK_TEXT(text, faults[i].health == BLAZE_HEALTH_FAILED ? "\"state\":\"failed\"" : "\"state\":\"degraded\"");
        still_works(&rig); /* a good run makes it well again */
        CHECK_INT(health_of(rig.engine).state, BLAZE_HEALTH_OK);
        rig_down(&rig);
    }
}

static void failures_in_a_row_fail_the_model_and_one_good_run_heals_it(void) {
    struct rig rig = rig_up(NULL, "\"faults\": [{\"kind\": \"out_of_memory\", \"count\": 8}]", ALONE UNAIDED);
    blaze_health_info health;
    for (int i = 0; i < 8; i++) EXPECT_EVENT(rig.queue, submit_simple(&rig, 0), OUT_OF_MEMORY);
    health = health_of(rig.engine);
    CHECK_INT(health.models_failed, 1);
    CHECK_INT(health.state, BLAZE_HEALTH_FAILED); /* no model works */
    load_mock(rig.engine, "other", "", "");
    health = health_of(rig.engine);
    CHECK_INT(health.models_failed, 1);
    CHECK_INT(health.models_ready, 1);
    CHECK_INT(health.state, BLAZE_HEALTH_DEGRADED); /* one does */
    still_works(&rig);
    CHECK_INT(health_of(rig.engine).models_ready, 2);
    CHECK_INT(health_of(rig.engine).state, BLAZE_HEALTH_OK);
    rig_down(&rig);
}

static void a_panic_fails_the_batch_in_flight_and_nothing_else(void) {
    struct rig rig = rig_up(NULL, "\"faults\": [{\"kind\": \"hang\", \"count\": 1}, {\"kind\": \"panic\", \"after\": 1,"
                                  " \"count\": 1}]", "\"batching\": {\"max_rows\": 4, \"max_delay_us\": 0}");
    blaze_model other = load_mock(rig.engine, "other", HANGS_ALWAYS, ALONE);
    struct call call;
    blaze_ticket elsewhere = submit(&rig, simple_call(&call, other)), blocker = submit_blocker(&rig);
    for (uint64_t i = 0; i < 8; i++) submit_simple(&rig, i); /* two batches */
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    for (uint64_t i = 0; i < 8; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.user_data, i);
        CHECK_INT(event.timing.batch_rows, 4);
        CHECK_INT(event.status, i < 4 ? BLAZE_STATUS_INTERNAL : BLAZE_STATUS_OK);
        blaze_event_release(&event);
    }
    CHECK_STATUS(blaze_cancel(rig.engine, elsewhere), OK); /* still in flight, untouched */
    EXPECT_EVENT(rig.queue, elsewhere, CANCELLED);
    rig_down(&rig);
}

/* A joined run that fails may fail for one request's sake, so each gets a run of its own. */
static void an_error_of_a_joined_run_does_not_fail_those_that_run_well_alone(void) {
    struct rig rig = rig_up(NULL, "\"faults\": [{\"kind\": \"hang\", \"count\": 1}, {\"kind\": \"error\", \"after\": 1,"
                                  " \"every\": 2, \"count\": 2}]", "");
    blaze_ticket blocker = submit_blocker(&rig); /* run 0 */
    for (uint64_t i = 0; i < 3; i++) submit_simple(&rig, i);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    for (uint64_t i = 0; i < 3; i++) { /* run 1 is the joined one and fails, 2 to 4 are alone, and 3 fails */
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.user_data, i);
        CHECK_INT(event.status, i == 1 ? BLAZE_STATUS_BACKEND_FAILED : BLAZE_STATUS_OK);
        if (i != 1) CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void a_hanging_model_does_not_hold_up_another(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_model hanging = load_mock(rig.engine, "hanging", HANGS_ALWAYS, "\"lanes\": 2");
    struct call call;
    for (int i = 0; i < 4; i++) submit(&rig, simple_call(&call, hanging));
    for (int i = 0; i < 10; i++) still_works(&rig);
    no_event(rig.queue);
    CHECK_INT(health_of(rig.engine).state, BLAZE_HEALTH_OK);
    CHECK_INT(health_of(rig.engine).in_flight, 4);
    rig_down(&rig);
}

static void a_slow_run_is_slow_and_right(void) {
    struct rig rig = rig_up(NULL, "\"faults\": [{\"kind\": \"slow\", \"latency_us\": 30000, \"count\": 1}]", "");
    submit_simple(&rig, 0);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, OK);
    CHECK(event.timing.computed_ns >= 30 * MILLISECOND);
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    blaze_event_release(&event);
    CHECK(metrics_of(rig.engine).duration_max_ns >= 30 * MILLISECOND);
    rig_down(&rig);
}

static void a_load_that_fails_says_why_and_leaves_the_name_free(void) {
    const struct { const char *kind; blaze_status status; const char *text; } cases[] = {
        {"load_error", BLAZE_STATUS_MODEL_INVALID, "injected fault in load"},
        {"load_panic", BLAZE_STATUS_INTERNAL, "injected panic in load"},
        {"load_out_of_memory", BLAZE_STATUS_OUT_OF_MEMORY, "injected fault in load"},
    };
    struct rig rig = rig_up(NULL, "", "");
    still_works(&rig);
    const uint64_t memory_bytes = health_of(rig.engine).memory_bytes; /* a batch, kept to be used again */
    for (size_t i = 0; i < COUNT(cases); i++) {
        char config[512], engine_config[600];
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        snprintf(config, sizeof config, "{\"name\": \"x\", \"backend\": \"mock\", \"mock\": {\"memory_bytes\": 1000000,"
                 " \"faults\": [{\"kind\": \"%s\"}]}}", cases[i].kind);
        CHECK_INT(blaze_model_load(rig.engine, config, &model, &error), cases[i].status);
        CHECK_TEXT(error.message, cases[i].text);
        CHECK_TEXT(error.message, "x:1");
        CHECK_INT(model, 0);
        CHECK_STATUS(blaze_model_load_async(rig.engine, config, rig.queue, 0, NULL, &error), NULL_POINTER);
        blaze_ticket ticket = 0;
        CHECK_STATUS(blaze_model_load_async(rig.engine, config, rig.queue, 0, &ticket, &error), OK);
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.status, cases[i].status);
        CHECK_INT(event.ticket, ticket);
        CHECK_TEXT(event.text, cases[i].text);
        blaze_event_release(&event);
        blaze_engine *engine = NULL;
        snprintf(engine_config, sizeof engine_config, "{\"models\": [%s]}", config);
        CHECK_INT(blaze_engine_create(engine_config, &engine, &error), cases[i].status);
        CHECK_TEXT(error.message, cases[i].text);
        CHECK(engine == NULL);
        CHECK(health_of(rig.engine).memory_bytes <= memory_bytes); /* one that found no memory has batches given back */
        CHECK_INT(health_of(rig.engine).state, BLAZE_HEALTH_OK);
        CHECK_STATUS(blaze_model_unload(rig.engine, load_mock(rig.engine, "x", "", ""), NULL, NULL), OK);
        still_works(&rig);
    }
    rig_down(&rig);
}

static void models_and_inputs_are_held_to_the_memory_budget(void) {
    struct rig rig = rig_up("{\"memory\": {\"budget_bytes\": 1700}}", "\"memory_bytes\": 900, " HANGS_ALWAYS,
                            ALONE ", \"pinned\": true");
    const char *big = "{\"name\": \"big\", \"backend\": \"mock\", \"mock\": {\"memory_bytes\": 801}}";
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, big, &model, &error), OVER_BUDGET);
    CHECK_TEXT(error.message, "memory.budget_bytes");
    CHECK_TEXT(error.message, "1700");

    float data[112] = {0}; /* 448 bytes, and as many for the output */
    struct call call;
    call_with(&call, rig.model, data, 28, 4);
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), OVER_BUDGET);
    CHECK_TEXT(error.message, "memory.budget_bytes");
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, 0, &(blaze_event)BLAZE_EVENT_INIT, &error), OVER_BUDGET);
    call.request.flags = BLAZE_REQUEST_BORROW; /* takes nothing */
    blaze_ticket blocker = submit(&rig, &call.request), tickets[6];
    until_running(rig.engine);
    for (int i = 0; i < 6; i++) tickets[i] = submit_simple(&rig, 0); /* 6 times two blocks of 64 bytes fit, 7 do not */
    CHECK_INT(health_of(rig.engine).memory_bytes, 900 + 6 * 2 * 64);
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, rig.model), rig.queue, NULL, &error), OVER_BUDGET);
    CHECK_STATUS(blaze_cancel(rig.engine, tickets[0]), OK); /* its batch stays until a lane has seen it */
    EXPECT_EVENT(rig.queue, tickets[0], CANCELLED);
    CHECK_INT(health_of(rig.engine).memory_bytes, 900 + 6 * 2 * 64);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    for (int i = 1; i < 6; i++) CHECK_STATUS(blaze_cancel(rig.engine, tickets[i]), OK);
    for (int i = 0; i < 5 + 2; i++) { /* what waits in a queue keeps its batch; two events are the blocker's */
        blaze_event event = next_event(rig.queue);
        blaze_event_release(&event);
    }
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
    CHECK_INT(health_of(rig.engine).memory_bytes, 0);
    CHECK_STATUS(blaze_model_load(rig.engine, big, &model, &error), OK);
    CHECK_INT(health_of(rig.engine).memory_bytes, 801);
    rig_down(&rig);
}

static void a_real_model_is_in_the_ledger_with_what_it_takes(void) {
    blaze_engine *engine = new_engine("{\"memory\": {\"budget_bytes\": 4000000}}");
    FILE *file = fopen("tests/models/small.onnx", "rb");
    REQUIRE(file && fseek(file, 0, SEEK_END) == 0);
    long size = ftell(file);
    fclose(file);
    blaze_model model = load_model(engine, "{\"name\": \"small\", \"path\": \"tests/models/small.onnx\"}");
    char text[8192];
    CHECK_STATUS(blaze_model_info(engine, model, text, sizeof text, NULL), OK);
    long long bytes = json_number(text, "bytes");
    CHECK(bytes > size * 9 / 10 && bytes < 4 * size); /* nearly all of the file is weights */
    CHECK_STATUS(blaze_health_json(engine, text, sizeof text, NULL), OK);
    long long models = json_number(text, "memory.models_bytes"); /* and what blocks are rounded up to */
    CHECK(models >= bytes && models < bytes + 4096);
    CHECK_INT(json_number(text, "memory.used_bytes"), models + json_number(text, "memory.buffers_bytes"));
    CHECK_INT(health_of(engine).memory_bytes, json_number(text, "memory.used_bytes"));
    CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), OK);
    CHECK_INT(health_of(engine).memory_bytes, 0);
    blaze_engine_destroy(engine);
}

/* Without a good ONNX Runtime: a process has one, so each of these has a process of its own. ------------------- */

#define NOTHING "tests/c/no-such-onnxruntime.so"
#define TINY "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}"

/* Loading an ONNX model fails with these words, more than once, and everything else works. */
static void check_unavailable(const char *library, const char *const *words, size_t count) {
    char config[512];
    snprintf(config, sizeof config, "{\"onnxruntime\": {\"library\": %s%s%s}}", library ? "\"" : "",
             library ? library : "null", library ? "\"" : "");
    struct rig rig = rig_up(config, "", "");
    for (int i = 0; i < 2; i++) {
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_model_load(rig.engine, TINY, &model, &error), BACKEND_UNAVAILABLE);
        for (size_t word = 0; word < count; word++) CHECK_TEXT(error.message, words[word]);
        still_works(&rig);
    }
    char text[4096];
    CHECK_STATUS(blaze_health_json(rig.engine, text, sizeof text, NULL), OK);
    CHECK_TEXT(text, "\"onnxruntime\":null");
    rig_down(&rig);
}

/* A failure is not remembered: with the right library all is well. */
static void check_available(void) {
    blaze_engine *engine = new_engine(NULL);
    load_model(engine, TINY);
    char text[4096];
    CHECK_STATUS(blaze_health_json(engine, text, sizeof text, NULL), OK);
    CHECK_TEXT(text, "libonnxruntime");
    blaze_engine_destroy(engine);
}

static void child_environment_names_nothing(void) {
    check_unavailable(NULL, (const char *[]){"ORT_DYLIB_PATH", NOTHING, "onnxruntime.library"}, 3);
}

static void child_configuration_names_nothing(void) {
    check_unavailable(NOTHING, (const char *[]){"onnxruntime.library", NOTHING}, 2);
    check_available();
}

static void child_library_is_too_old(void) {
    const char *fake = "target/c/libfake_old_onnxruntime.so";
    check_unavailable(fake, (const char *[]){"onnxruntime.library", fake, "1.10.0"}, 3);
    check_available();
}

static void child_library_is_none(void) {
    const char *const files[] = {"target/release/libblaze.so", "tests/models/README.md", "tests"};
    for (size_t i = 0; i < COUNT(files); i++)
        check_unavailable(files[i], (const char *[]){"onnxruntime.library", files[i]}, 2);
    check_available();
}

static void child_nothing_is_named(void) {
    blaze_engine *engine = new_engine(NULL);
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    if (blaze_model_load(engine, TINY, &model, &error) == BLAZE_STATUS_OK) {
        printf("  the system has an ONNX Runtime of its own\n");
    } else {
        CHECK_STATUS(error.status, BACKEND_UNAVAILABLE);
        const char *const words[] = {"onnxruntime.library", "ORT_DYLIB_PATH", "beside", "loader"};
        for (size_t i = 0; i < COUNT(words); i++) CHECK_TEXT(error.message, words[i]);
    }
    blaze_engine_destroy(engine);
}

static void child_another_library_than_the_loaded_one(void) {
    check_available();
    struct rig rig = rig_up("{\"onnxruntime\": {\"library\": \"" NOTHING "\"}}", "", "");
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, TINY, &model, &error), INVALID_STATE);
    CHECK_TEXT(error.message, NOTHING);
    still_works(&rig);
    rig_down(&rig);
}

/* Runs one of the tests above in a process of its own; `library` becomes its ORT_DYLIB_PATH, NULL: unset. */
static void in_a_process_of_its_own(const char *child, const char *library) {
    char variable[4096], *variables[1024], name[128];
    size_t count = 0;
    for (char **at = environ; *at && count < COUNT(variables) - 2; at++)
        if (strncmp(*at, "ORT_DYLIB_PATH=", 15) != 0) variables[count++] = *at;
    if (library) {
        snprintf(variable, sizeof variable, "ORT_DYLIB_PATH=%s", library);
        variables[count++] = variable;
    }
    variables[count] = NULL;
    snprintf(name, sizeof name, "%s", child);
    char *arguments[] = {program, name, NULL};
    pid_t pid = 0;
    int status = -1;
    REQUIRE(posix_spawn(&pid, program, NULL, NULL, arguments, variables) == 0);
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, 0);
}

static void without_a_good_onnx_runtime_its_models_fail_and_all_else_works(void) {
    const char *given = getenv("ORT_DYLIB_PATH");
    REQUIRE(given);
    in_a_process_of_its_own("child_environment_names_nothing", NOTHING);
    in_a_process_of_its_own("child_configuration_names_nothing", given);
    in_a_process_of_its_own("child_library_is_too_old", given);
    in_a_process_of_its_own("child_library_is_none", given);
    in_a_process_of_its_own("child_nothing_is_named", NULL);
    in_a_process_of_its_own("child_another_library_than_the_loaded_one", given);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_run_that_fails_says_why_and_the_next_one_works),
        TEST(failures_in_a_row_fail_the_model_and_one_good_run_heals_it),
        TEST(a_panic_fails_the_batch_in_flight_and_nothing_else),
        TEST(an_error_of_a_joined_run_does_not_fail_those_that_run_well_alone),
        TEST(a_hanging_model_does_not_hold_up_another),
        TEST(a_slow_run_is_slow_and_right),
        TEST(a_load_that_fails_says_why_and_leaves_the_name_free),
        TEST(models_and_inputs_are_held_to_the_memory_budget),
        TEST(a_real_model_is_in_the_ledger_with_what_it_takes),
        TEST(without_a_good_onnx_runtime_its_models_fail_and_all_else_works),
    };
    static const struct test children[] = {
        TEST(child_environment_names_nothing), TEST(child_configuration_names_nothing),
        TEST(child_library_is_too_old),        TEST(child_library_is_none),
        TEST(child_nothing_is_named),          TEST(child_another_library_than_the_loaded_one),
    };
    program = argv[0];
    int is_child = argc == 2 && !strncmp(argv[1], "child_", 6);
    return is_child ? RUN_TESTS(children, argc, argv) : RUN_TESTS(tests, argc, argv);
}
