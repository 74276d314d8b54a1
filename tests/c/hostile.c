/* What a stranger may hand in: models that declare, ask for or name what they should not, damaged ones, and texts without end.
 * Each is refused with a reason, or cut, and the engine works on.
 */
#include "check.h"
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_short(void) { return getenv("BLAZE_SHORT") != NULL; }

static blaze_status load_file(blaze_engine *engine, const char *path, const char *more, blaze_model *model,
                              blaze_error *error) {
    char json[512];
    snprintf(json, sizeof json, "{\"name\": \"hostile\", \"path\": \"%s\"%s%s}", path, *more ? ", " : "", more);
    error->message[0] = 0;
    return blaze_model_load(engine, json, model, error);
}

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    REQUIRE(file);
    char *bytes = malloc(1 << 20);
    REQUIRE(bytes);
    *size = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

static void write_file(const char *path, const char *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    REQUIRE(file);
    CHECK_INT(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

/* Shapes --------------------------------------------------------------------------------------------------------- */

/* It may be loaded, since a model may declare more than is ever asked of it; but not run, and not warmed up. */
static void shapes_that_no_memory_holds_are_refused(void) {
    static const char *const paths[] = {"tests/models/hostile_shape.onnx", "tests/models/hostile_large_shape.onnx"};
    struct rig rig = rig_up("{\"threads\": 2}", "", "");
    for (size_t i = 0; i < COUNT(paths); i++)
        for (int warm = 0; warm < 2; warm++) {
            blaze_model model = 0;
            blaze_error error;
            blaze_status status = load_file(rig.engine, paths[i], warm ? "\"warmup\": true" : "\"warmup\": false", &model,
                                            &error);
            if (status != BLAZE_STATUS_OK) {
                CHECK(error.message[0] != 0);
                CHECK(status != BLAZE_STATUS_INTERNAL);
                continue;
            }
            struct call call;
            blaze_event event = BLAZE_EVENT_INIT;
            call_with(&call, model, ones_to_four, 1, 4);
            CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), INVALID_SHAPE);
            call.shape[0] = i ? 1 << 22 : INT64_C(1) << 62; /* as declared, over four numbers */
            call.shape[1] = i ? 1 << 22 : 4;
            status = blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error);
            CHECK(status == BLAZE_STATUS_INVALID_SHAPE || status == BLAZE_STATUS_INVALID_SIZE);
            CHECK_STATUS(blaze_model_unload(rig.engine, model, NULL, NULL), OK);
        }
    still_works(&rig);
    rig_down(&rig);
}

static void requests_for_shapes_that_overflow_are_refused(void) {
    static const int64_t sizes[] = {INT64_MAX, INT64_MIN, -1, INT64_C(1) << 62, INT64_C(1) << 61, INT64_C(1) << 32};
    struct rig rig = rig_up("{\"threads\": 2}", "", "");
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int axis = 0; axis < 2; axis++) {
            struct call call;
            blaze_error error;
            simple_call(&call, rig.model);
            call.shape[axis] = sizes[i];
            blaze_status status = blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error);
            CHECK(status == BLAZE_STATUS_INVALID_SHAPE || status == BLAZE_STATUS_INVALID_SIZE);
            CHECK(strlen(error.message) > 0);
        }
    still_works(&rig);
    rig_down(&rig);
}

/* The output's size is in the input's value: nobody can know it before. */
static void an_output_that_no_memory_holds_fails_its_request_alone(void) {
    static const int64_t sizes[] = {-1, INT64_C(1) << 40, INT64_C(1) << 61, INT64_MAX};
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    blaze_model model = 0;
    blaze_error error;
    CHECK_STATUS(load_file(rig.engine, "tests/models/hostile_output.onnx", "", &model, &error), OK);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        int64_t size = sizes[i];
        call_with(&call, model, NULL, 1, 1);
        call.input.dtype = BLAZE_DTYPE_I64;
        call.input.rank = 1;
        call.input.data = &size;
        call.input.size_bytes = sizeof size;
        blaze_status status = blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error);
        if (status != BLAZE_STATUS_BACKEND_FAILED && status != BLAZE_STATUS_OUT_OF_MEMORY)
            FAIL("%" PRId64 ": %s: %s", size, blaze_status_name(status), error.message);
        size = 3;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), OK);
        blaze_event_release(&event);
    }
    still_works(&rig);
    rig_down(&rig);
}

static void constants_that_no_memory_holds_fail_the_load_or_the_run(void) {
    struct rig rig = rig_up("{\"threads\": 1, \"memory\": {\"budget_bytes\": 100000000}}", "", "");
    blaze_model model = 0;
    blaze_error error;
    blaze_status status = load_file(rig.engine, "tests/models/hostile_constant.onnx", "", &model, &error);
    if (status == BLAZE_STATUS_OK) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        status = blaze_infer(rig.engine, call_with(&call, model, ones_to_four, 1, 1), PATIENCE, &event, &error);
    }
    CHECK(status != BLAZE_STATUS_OK && status != BLAZE_STATUS_INTERNAL);
    CHECK(strlen(error.message) > 0);
    still_works(&rig);
    rig_down(&rig);
}

/* Time ----------------------------------------------------------------------------------------------------------- */

static void a_loop_without_an_end_is_cut(void) {
    struct rig rig = rig_up("{\"threads\": 2}", "", "");
    blaze_model model = 0;
    blaze_error error;
    struct call call;
    float x = 1;
    REQUIRE(load_file(rig.engine, "tests/models/hostile_loop.onnx", "\"warmup\": false", &model, &error) ==
            BLAZE_STATUS_OK);
    call_with(&call, model, &x, 1, 1);
    call.input.rank = 1;
    /* By its deadline. */
    call.request.deadline_ns = blaze_now_ns() + 200 * MILLISECOND;
    blaze_ticket ticket = submit(&rig, &call.request);
    EXPECT_EVENT(rig.queue, ticket, EXPIRED);
    /* By hand. */
    call.request.deadline_ns = 0;
    ticket = submit(&rig, &call.request);
    until_running(rig.engine);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    /* By its caller's patience. */
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, 100 * MILLISECOND, &event, &error), TIMEOUT);
    /* And a load that warms it up is cancelled. */
    CHECK_STATUS(blaze_model_unload(rig.engine, model, NULL, NULL), OK);
    REQUIRE(blaze_model_load_async(rig.engine, "{\"name\": \"loop\", \"path\": \"tests/models/hostile_loop.onnx\", "
                                               "\"warmup\": {\"sizes\": [1]}}", rig.queue, 0, &ticket, NULL) == BLAZE_STATUS_OK);
    sleep_ns(200 * MILLISECOND);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    /* At last by the engine's end. */
    still_works(&rig);
    REQUIRE(load_file(rig.engine, "tests/models/hostile_loop.onnx", "\"warmup\": false", &model, &error) ==
            BLAZE_STATUS_OK);
    call.request.model = model;
    ticket = submit(&rig, &call.request);
    REQUIRE(blaze_model_load_async(rig.engine, "{\"name\": \"again\", \"path\": \"tests/models/hostile_loop.onnx\", "
                                               "\"warmup\": {\"sizes\": [1]}}", rig.queue, 0, &ticket, NULL) == BLAZE_STATUS_OK);
    sleep_ns(200 * MILLISECOND);
    rig_down(&rig);
}

/* Files ---------------------------------------------------------------------------------------------------------- */

static void weights_outside_the_models_folder_are_refused(void) {
    static const char *const paths[] = {"tests/models/hostile_parent.onnx", "tests/models/hostile_absolute.onnx",
                                        "tests/models/hostile_hidden_parent.onnx"};
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    blaze_model model = 0;
    blaze_error error;
    size_t size;
    for (size_t i = 0; i < COUNT(paths); i++) {
        CHECK_STATUS(load_file(rig.engine, paths[i], "", &model, &error), MODEL_INVALID);
        CHECK_TEXT(error.message, "relative path");
    }
    /* A link that leads out of it; one that stays inside is fine, and so is a model that is a link itself. */
    char *bytes = read_file("tests/models/hostile_link.onnx", &size);
    mkdir("target/c/hostile", 0777);
    mkdir("target/c/hostile/inner", 0777);
    write_file("target/c/hostile/inner/model.onnx", bytes, size);
    free(bytes);
    bytes = read_file("tests/models/external_data.bin", &size);
    write_file("target/c/hostile/secret.bin", bytes, size);
    write_file("target/c/hostile/inner/weights.bin", bytes, size);
    free(bytes);
    unlink("target/c/hostile/inner/link.bin");
    CHECK_INT(symlink("../secret.bin", "target/c/hostile/inner/link.bin"), 0);
    CHECK_STATUS(load_file(rig.engine, "target/c/hostile/inner/model.onnx", "", &model, &error), MODEL_INVALID);
    CHECK_TEXT(error.message, "leads out of the model's directory");
    unlink("target/c/hostile/inner/link.bin");
    CHECK_INT(symlink("weights.bin", "target/c/hostile/inner/link.bin"), 0);
    CHECK_STATUS(load_file(rig.engine, "target/c/hostile/inner/model.onnx", "", &model, &error), OK);
    CHECK_STATUS(blaze_model_unload(rig.engine, model, NULL, NULL), OK);
    still_works(&rig);
    rig_down(&rig);
}

static void weights_in_files_need_a_file(void) {
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    static const char *const paths[] = {"tests/models/hostile_absolute.onnx", "tests/models/hostile_parent.onnx",
                                        "tests/models/external_data.onnx"};
    for (size_t i = 0; i < COUNT(paths); i++) {
        size_t size;
        char *bytes = read_file(paths[i], &size);
        blaze_model model = 0;
        blaze_error error;
        blaze_status status = blaze_model_load_memory(rig.engine, "{\"name\": \"hostile\"}", bytes, size, &model, &error);
        CHECK_INT(status, BLAZE_STATUS_MODEL_INVALID);
        free(bytes);
    }
    still_works(&rig);
    rig_down(&rig);
}

/* Damage --------------------------------------------------------------------------------------------------------- */

/* It may load, if it is a weight that has changed; whatever it is, it ends with a status. */
static unsigned try_damaged(struct rig *rig, const char *bytes, size_t size) {
    blaze_model model = 0;
    blaze_error error = {0, "", 0};
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_status status = blaze_model_load_memory(rig->engine, "{\"name\": \"damaged\", \"warmup\": false}", bytes, size,
                                                  &model, &error);
    if (status != BLAZE_STATUS_OK) {
        if (status == BLAZE_STATUS_INTERNAL || !error.message[0])
            FAIL("%s: %s", blaze_status_name(status), error.message);
        return 0;
    }
    simple_call(&call, model)->deadline_ns = blaze_now_ns() + SECOND;
    status = blaze_infer(rig->engine, &call.request, PATIENCE, &event, &error);
    CHECK(status != BLAZE_STATUS_INTERNAL);
    if (status == BLAZE_STATUS_OK) blaze_event_release(&event);
    CHECK_STATUS(blaze_model_unload(rig->engine, model, NULL, NULL), OK);
    return 1;
}

static void damaged_models_end_with_a_status(void) {
    struct rig rig = rig_up("{\"threads\": 1, \"memory\": {\"budget_bytes\": 200000000}}", "", "");
    size_t size, step = is_short() ? 199 : 7;
    char *bytes = read_file("tests/models/tiny.onnx", &size);
    unsigned loaded = 0, tried = 0;
    for (size_t cut = 0; cut < size; cut += step, tried++) {
        char *part = malloc(cut + 1); /* exactly as long, so that a sanitizer sees a read past its end */
        REQUIRE(part);
        memcpy(part, bytes, cut);
        loaded += try_damaged(&rig, part, cut);
        free(part);
    }
    for (size_t at = 0; at < size; at += step, tried++) {
        int bit = 1 << (at / step % 8);
        bytes[at] = (char)(bytes[at] ^ bit);
        loaded += try_damaged(&rig, bytes, size);
        bytes[at] = (char)(bytes[at] ^ bit);
    }
    CHECK_INT(try_damaged(&rig, bytes, size), 1);
    printf("  %u damaged models, of which %u could be loaded all the same\n", tried, loaded);
    free(bytes);
    still_works(&rig);
    rig_down(&rig);
}

/* Texts ---------------------------------------------------------------------------------------------------------- */

static char *repeated(const char *head, const char *part, size_t count, const char *tail) {
    size_t length = strlen(part), start = strlen(head);
    char *text = malloc(start + length * count + strlen(tail) + 1);
    REQUIRE(text);
    strcpy(text, head);
    for (size_t i = 0; i < count; i++) memcpy(text + start + i * length, part, length);
    strcpy(text + start + length * count, tail);
    return text;
}

/* The text is handed to everything that reads one. */
static void refused_everywhere(struct rig *rig, char *text, blaze_status wanted) {
    blaze_engine *engine = NULL;
    blaze_model model = 0;
    blaze_error error;
    blaze_ticket ticket;
    blaze_status found[] = {
        blaze_engine_create(text, &engine, &error),
        blaze_model_load(rig->engine, text, &model, &error),
        blaze_model_load_async(rig->engine, text, rig->queue, 0, &ticket, &error),
        blaze_route_create(rig->engine, text, &model, &error),
        blaze_tenant_set(rig->engine, text, &error),
        blaze_log_configure(rig->engine, text, &error),
        blaze_profile_start(rig->engine, text, &error),
        blaze_model_configure(rig->engine, rig->model, text, &error),
        blaze_tune(rig->engine, text, NULL, 0, NULL, &error),
    };
    for (size_t i = 0; i < COUNT(found); i++)
        if (found[i] != wanted) FAIL("text %zu: %s, not %s", i, blaze_status_name(found[i]), blaze_status_name(wanted));
    free(text);
}

static void texts_without_end_are_refused(void) {
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    refused_everywhere(&rig, repeated("{\"x\": ", "[", 100000, ""), BLAZE_STATUS_INVALID_CONFIG);
    refused_everywhere(&rig, repeated("{\"x\": ", "{\"x\":", 100000, ""), BLAZE_STATUS_INVALID_CONFIG);
    refused_everywhere(&rig, repeated("", "[", 1000000, ""), BLAZE_STATUS_INVALID_CONFIG);
    refused_everywhere(&rig, repeated("{\"name\": \"", "x", 256, "\", \"backend\": \"mock\", \"id\": 1}"),
                       BLAZE_STATUS_INVALID_CONFIG);
    refused_everywhere(&rig, repeated("{", " ", (16 << 20) + 1, "}"), BLAZE_STATUS_INVALID_SIZE);
    still_works(&rig);
    rig_down(&rig);
}

static void names_have_a_length(void) {
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    for (size_t length = 255; length < 257; length++) {
        char *text = repeated("{\"backend\": \"mock\", \"name\": \"", "n", length, "\"}");
        blaze_model model = 0;
        blaze_error error;
        blaze_status status = blaze_model_load(rig.engine, text, &model, &error);
        CHECK_INT(status, length > 255 ? BLAZE_STATUS_INVALID_CONFIG : BLAZE_STATUS_OK);
        free(text);
        text = repeated("{\"targets\": [], \"name\": \"", "r", length, "\"}");
        status = blaze_route_create(rig.engine, text, &model, &error);
        CHECK_INT(status, length > 255 ? BLAZE_STATUS_INVALID_CONFIG : BLAZE_STATUS_OK);
        free(text);
    }
    char *name = repeated("", "n", 100000, "");
    blaze_model model = 0;
    blaze_status status = blaze_model_find(rig.engine, name, &model);
    CHECK(status == BLAZE_STATUS_NOT_FOUND || status == BLAZE_STATUS_INVALID_ARGUMENT);
    free(name);
    struct call call;
    blaze_error error;
    simple_call(&call, rig.model);
    name = repeated("", "x", 1 << 20, "");
    call.input.name = name;
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), INVALID_NAME);
    free(name);
    rig_down(&rig);
}

static void a_repositorys_settings_have_a_size(void) {
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    rig_down(&rig);
    mkdir("target/c/hostile", 0777);
    mkdir("target/c/hostile/repository", 0777);
    mkdir("target/c/hostile/repository/m", 0777);
    mkdir("target/c/hostile/repository/m/1", 0777);
    char *text = repeated("{\"backend\": \"mock\"", " ", 1 << 20, "}");
    write_file("target/c/hostile/repository/m/model.json", text, strlen(text));
    free(text);
    blaze_engine *engine = new_engine("{\"repository\": {\"directory\": \"target/c/hostile/repository\"}}");
    char health[65536] = "";
    blaze_model model = 0;
    CHECK_STATUS(blaze_model_find(engine, "m", &model), NOT_FOUND);
    CHECK_STATUS(blaze_health_json(engine, health, sizeof health, NULL), OK);
    CHECK_TEXT(health, "has more than 1048576 bytes");
    text = repeated("{\"backend\": \"mock\", \"x\": ", "[", 100000, "}");
    write_file("target/c/hostile/repository/m/model.json", text, strlen(text));
    free(text);
    CHECK_STATUS(blaze_repository_rescan(engine, NULL, 0, NULL, NULL), OK);
    CHECK_STATUS(blaze_health_json(engine, health, sizeof health, NULL), OK);
    CHECK_TEXT(health, "recursion limit");
    write_file("target/c/hostile/repository/m/model.json", "{\"backend\": \"mock\"}", 19);
    CHECK_STATUS(blaze_repository_rescan(engine, NULL, 0, NULL, NULL), OK);
    CHECK_STATUS(blaze_model_find(engine, "m", &model), OK);
    blaze_engine_destroy(engine);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(shapes_that_no_memory_holds_are_refused),
        TEST(requests_for_shapes_that_overflow_are_refused),
        TEST(an_output_that_no_memory_holds_fails_its_request_alone),
        TEST(constants_that_no_memory_holds_fail_the_load_or_the_run),
        TEST(a_loop_without_an_end_is_cut),
        TEST(weights_outside_the_models_folder_are_refused),
        TEST(weights_in_files_need_a_file),
        TEST(damaged_models_end_with_a_status),
        TEST(texts_without_end_are_refused),
        TEST(names_have_a_length),
        TEST(a_repositorys_settings_have_a_size),
    };
    return RUN_TESTS(tests, argc, argv);
}
