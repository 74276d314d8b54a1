/* Configurations and model files that are wrong in every way: each is refused with its status, the message names the
 * place, and the engine works on as before. */
#include "check.h"
#include <sys/stat.h>
#include <unistd.h>

struct bad {
    const char *json;
    const char *text;
};

#define MODEL(more) "{\"models\": [{\"name\": \"m\", \"backend\": \"mock\"" more "}]}"

static const struct bad engine_configs[] = {
    {"", "EOF"},
    {" ", "EOF"},
    {"{", "EOF"},
    {"[", ""},
    {"null", ""},
    {"5", ""},
    {"\"threads\"", ""},
    {"[]", ""},
    {"[4]", ""}, /* not the same as an object whose first key is 4 */
    {"{\"queue\": [8]}", "queue: "},
    {"{\"models\": [[\"m\", 1, \"mock\"]]}", "models[0]: "},
    {"{} {}", "trailing"},
    {"{\"threads\": 1,}", ""},
    {"{'threads': 1}", ""},
    {"{\"threads\": 1, \"threads\": 2}", "duplicate"},
    {"{\"thread\": 1}", "thread"},
    {"{\"threads\": -1}", "threads: "},
    {"{\"threads\": 1.5}", "threads: "},
    {"{\"threads\": \"4\"}", "threads: "},
    {"{\"threads\": 4294967296}", "threads: "},
    {"{\"threads\": 1025}", "threads: "},
    {"{\"threads\": 1e3}", "threads: "},
    {"{\"queue\": 5}", "queue: "},
    {"{\"queue\": {\"capacity\": 0}}", "queue.capacity: "},
    {"{\"queue\": {\"capacity\": 16777217}}", "queue.capacity: "},
    {"{\"queue\": {\"capacity\": null}}", "queue.capacity: "},
    {"{\"queue\": {\"size\": 5}}", "queue.size: "},
    {"{\"onnxruntime\": {\"library\": 5}}", "onnxruntime.library: "},
    {"{\"onnxruntime\": {\"intra_op_threads\": 0}}", "onnxruntime.intra_op_threads: "},
    {"{\"memory\": {\"budget_bytes\": -5}}", "memory.budget_bytes: "},
    {"{\"memory\": {\"budget_bytes\": \"1 GB\"}}", "memory.budget_bytes: "},
    {"{\"log\": {\"level\": \"loud\"}}", "log.level: "},
    {"{\"log\": {\"target\": \"paper\"}}", "log.target: "},
    {"{\"model_directory\": 5}", "model_directory: "},
    {"{\"models\": {}}", "models: "},
    {"{\"models\": [5]}", "models[0]: "},
    {"{\"models\": [{}]}", "models[0]: "},
    {"{\"models\": [{\"name\": 5}]}", "models[0].name: "},
    {MODEL(", \"colour\": \"red\""), "models[0].colour: "},
    {MODEL(", \"version\": 0"), "models[0].version: "},
    {MODEL(", \"version\": -1"), "models[0].version: "},
    {MODEL(", \"version\": \"1\""), "models[0].version: "},
    {MODEL(", \"lanes\": 0"), "models[0].lanes: "},
    {MODEL(", \"lanes\": 257"), "models[0].lanes: "},
    {MODEL(", \"providers\": []"), "models[0].providers: "},
    {MODEL(", \"providers\": \"cpu\""), "models[0].providers: "},
    {MODEL(", \"providers\": [\"cpu\", 5]"), "models[0].providers[1]: "},
    {MODEL(", \"warmup\": 1"), "models[0].warmup: "},
    {MODEL(", \"pinned\": null"), "models[0].pinned: "},
    {MODEL(", \"path\": 5"), "models[0].path: "},
    {MODEL(", \"batching\": 5"), "models[0].batching: "},
    {MODEL(", \"batching\": {\"max_rows\": 0}"), "models[0].batching.max_rows: "},
    {MODEL(", \"batching\": {\"max_rows\": 65537}"), "models[0].batching.max_rows: "},
    {MODEL(", \"batching\": {\"max_rows\": \"all\"}"), "models[0].batching.max_rows: "},
    {MODEL(", \"batching\": {\"max_delay_us\": 10000001}"), "models[0].batching.max_delay_us: "},
    {MODEL(", \"batching\": {\"priority_aging_ms\": 0}"), "models[0].batching.priority_aging_ms: "},
    {MODEL(", \"batching\": {\"rows\": 5}"), "models[0].batching.rows: "},
    {MODEL(", \"mock\": {\"faults\": [{\"kind\": \"error\"}, {\"kind\": \"flood\"}]}"), "models[0].mock.faults[1].kind: "},
    {MODEL(", \"mock\": {\"faults\": [{\"kind\": \"error\", \"every\": 0}]}"), "models[0].mock.faults[0].every: "},
    {MODEL("}, {\"name\": \"n\", \"backend\": \"mock\", \"lanes\": 0"), "models[1].lanes: "},
    {MODEL("}, {\"name\": \"n\", \"backend\": \"abacus\""), "models[1]"},
    {MODEL("}, {\"name\": \"n\", \"mock\": {}, \"path\": \"p\""), "models[1].mock: "},
};

static void a_bad_engine_configuration_is_refused_and_the_message_names_the_path(void) {
    for (size_t i = 0; i < COUNT(engine_configs); i++) {
        blaze_engine *engine = NULL;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_engine_create(engine_configs[i].json, &engine, &error);
        if (status != BLAZE_STATUS_INVALID_CONFIG || !strstr(error.message, engine_configs[i].text) || !error.message[0])
            FAIL("%s: %s: %s (without %s)", engine_configs[i].json, blaze_status_name(status), error.message,
                 engine_configs[i].text);
        blaze_engine_destroy(engine);
        engine = NULL;
        CHECK_INT(blaze_engine_create(engine_configs[i].json, &engine, NULL), status); /* nobody wants the reason */
        blaze_engine_destroy(engine);
    }
}

static void a_bad_model_configuration_is_refused_and_the_message_names_the_path(void) {
    struct rig rig = rig_up(NULL, "", "");
    const struct bad cases[] = {
        {"", "EOF"},
        {"{}", "name"},
        {"{\"name\": \"\", \"backend\": \"mock\"}", "name: "},
        {"{\"name\": \"a:b\", \"backend\": \"mock\"}", "name: "},
        {"{\"name\": \"a\\nb\", \"backend\": \"mock\"}", "name: "},
        {"{\"name\": \"a\\u0000b\", \"backend\": \"mock\"}", "name: "},
        {"{\"name\": \"a\\\"b\", \"backend\": \"mock\"}", "name: "},
        {"{\"name\": \"a\\\\b\", \"backend\": \"mock\"}", "name: "},
        {"{\"name\": \"\\ud800\", \"backend\": \"mock\"}", ""}, /* half a character */
        {"{\"name\": \"m\", \"backend\": \"abacus\"}", "backend: \"abacus\""},
        {"{\"name\": \"m\"}", "path"},
        {"{\"name\": \"m\", \"path\": \"tests/models/tiny.onnx\", \"providers\": [\"cpu\", \"gpu\"]}", "providers[1]: \"gpu\""},
        {"{\"name\": \"m\", \"backend\": \"mock\", \"batching\": {\"max_rows\": 0}}", "batching.max_rows: "},
        {"{\"name\": \"m\", \"backend\": \"mock\", \"mock\": {\"inputs\": [{\"name\": \"x\", \"dtype\": \"f33\","
         " \"shape\": [1]}]}}", "mock.inputs[0].dtype: "},
        {"{\"name\": \"m\", \"backend\": \"mock\", \"mock\": {\"outputs\": [{\"name\": \"y\", \"dtype\": \"i8\","
         " \"shape\": [\"n\", 4]}]}}", "mock.outputs[0]: "},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        blaze_model model = 0;
        blaze_ticket ticket = 0;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_model_load(rig.engine, cases[i].json, &model, &error);
        if (status != BLAZE_STATUS_INVALID_CONFIG || error.status != status || !strstr(error.message, cases[i].text))
            FAIL("%s: %s: %s (without %s)", cases[i].json, blaze_status_name(status), error.message, cases[i].text);
        CHECK_INT(model, 0);
        status = blaze_model_load_async(rig.engine, cases[i].json, rig.queue, 0, &ticket, &error);
        if (status == BLAZE_STATUS_OK) EXPECT_EVENT(rig.queue, ticket, INVALID_CONFIG);
        else CHECK_INT(status, BLAZE_STATUS_INVALID_CONFIG);
        still_works(&rig);
    }
    char name[300], config[400];
    for (size_t length = 255; length <= 256; length++) {
        memset(name, 'n', sizeof name);
        name[length] = 0;
        blaze_model model = 0;
        snprintf(config, sizeof config, "{\"name\": \"%s\", \"backend\": \"mock\"}", name);
        CHECK_INT(blaze_model_load(rig.engine, config, &model, NULL),
                  length == 255 ? BLAZE_STATUS_OK : BLAZE_STATUS_INVALID_CONFIG);
    }
    rig_down(&rig);
}

static void text_that_is_not_utf8_is_refused(void) {
    struct rig rig = rig_up(NULL, "", "");
    const char *const texts[] = {"{\"name\": \"\xff\"}", "\xc3", "{\"name\": \"\xed\xa0\x80\"}", "\xf8\x88\x80\x80\x80"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        blaze_engine *engine = NULL;
        blaze_model model = 0;
        blaze_ticket ticket = 0;
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_engine_create(texts[i], &engine, &error), INVALID_ARGUMENT);
        CHECK_TEXT(error.message, "config_json");
        CHECK_STATUS(blaze_model_load(rig.engine, texts[i], &model, &error), INVALID_ARGUMENT);
        CHECK_TEXT(error.message, "model_json");
        CHECK_STATUS(blaze_model_load_async(rig.engine, texts[i], rig.queue, 0, &ticket, &error), INVALID_ARGUMENT);
        CHECK_STATUS(blaze_model_load_memory(rig.engine, texts[i], "x", 1, &model, &error), INVALID_ARGUMENT);
    }
    still_works(&rig);
    rig_down(&rig);
}

/* Nested so deep that a careless parser runs out of stack, and so long that the message must be cut. */
static void monstrous_configurations_are_refused(void) {
    enum { DEEP = 200000 };
    char *text = malloc(2 * DEEP + 64);
    REQUIRE(text);
    blaze_engine *engine = NULL;
    blaze_error error = {.status = 0};
    memset(text, '[', DEEP);
    text[DEEP] = 0;
    CHECK_STATUS(blaze_engine_create(text, &engine, &error), INVALID_CONFIG);
    memcpy(text, "{\"models\": ", 11);
    CHECK_STATUS(blaze_engine_create(text, &engine, &error), INVALID_CONFIG);
    memcpy(text, "{\"", 2);
    for (size_t i = 2; i + 2 < DEEP; i += 2) memcpy(text + i, "\xc3\xa4", 2); /* a key of a hundred thousand umlauts */
    strcpy(text + DEEP - 2, "\": 5}");
    error.message[sizeof error.message - 1] = 'x';
    CHECK_STATUS(blaze_engine_create(text, &engine, &error), INVALID_CONFIG);
    CHECK(memchr(error.message, 0, sizeof error.message) != NULL);
    CHECK(strlen(error.message) >= sizeof error.message - 4); /* as much as fits, whole characters */
    CHECK(engine == NULL);
    free(text);
}

/* Model files. What is broken is made here, in a directory of its own. ----------------------------------------- */

static char directory[64];

static const char *write_file(const char *name, const void *data, size_t size) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    REQUIRE(file && (size == 0 || fwrite(data, size, 1, file) == 1) && fclose(file) == 0);
    return path;
}

static void expect_load(struct rig *rig, const char *path, blaze_status expected, const char *text) {
    char config[512];
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    snprintf(config, sizeof config, "{\"name\": \"file\", \"path\": \"%s\"}", path);
    blaze_status status = blaze_model_load(rig->engine, config, &model, &error);
    if (status != expected || !strstr(error.message, text))
        FAIL("%s: %s: %s (without %s)", path, blaze_status_name(status), error.message, text);
    if (status == BLAZE_STATUS_OK) CHECK_STATUS(blaze_model_unload(rig->engine, model, NULL, NULL), OK);
    still_works(rig);
}

static void a_model_file_that_is_missing_or_none_is_not_found(void) {
    struct rig rig = rig_up(NULL, "", "");
    expect_load(&rig, "tests/models/none.onnx", BLAZE_STATUS_MODEL_NOT_FOUND, "tests/models/none.onnx");
    expect_load(&rig, "no/such/directory/none.onnx", BLAZE_STATUS_MODEL_NOT_FOUND, "no/such/directory");
    expect_load(&rig, "tests/models", BLAZE_STATUS_MODEL_NOT_FOUND, "not a file");
    expect_load(&rig, "tests/models/tiny.onnx/x", BLAZE_STATUS_MODEL_NOT_FOUND, "tiny.onnx/x");
    expect_load(&rig, "", BLAZE_STATUS_MODEL_NOT_FOUND, "");
    expect_load(&rig, "/dev/null", BLAZE_STATUS_MODEL_NOT_FOUND, "not a file");
    if (geteuid() != 0) { /* root may read anything */
        const char *path = write_file("secret.onnx", "x", 1);
        CHECK_INT(chmod(path, 0), 0);
        expect_load(&rig, path, BLAZE_STATUS_MODEL_NOT_FOUND, "secret.onnx");
        unlink(path);
    }
    rig_down(&rig);
}

static void a_model_file_that_is_cut_short_or_spoiled_is_refused_or_works(void) {
    struct rig rig = rig_up(NULL, "", "");
    static unsigned char bytes[65536], spoiled[65536];
    FILE *file = fopen("tests/models/tiny.onnx", "rb");
    REQUIRE(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    REQUIRE(size > 16 && size < sizeof bytes);
    expect_load(&rig, write_file("empty.onnx", "", 0), BLAZE_STATUS_MODEL_INVALID, "file:1");
    expect_load(&rig, write_file("text.onnx", "this is no model\n", 17), BLAZE_STATUS_MODEL_INVALID, "file:1");
    for (size_t cut = 1; cut < size; cut += size / 24)
        expect_load(&rig, write_file("cut.onnx", bytes, cut), BLAZE_STATUS_MODEL_INVALID, "file:1");
    /* One byte is spoiled: what matters is that nothing crashes and the answer is one that the header knows. */
    unsigned loaded = 0;
    for (size_t at = 0; at < size; at += size / 60 + 1) {
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        memcpy(spoiled, bytes, size);
        spoiled[at] ^= 0x55;
        blaze_status status = blaze_model_load_memory(rig.engine, "{\"name\": \"s\"}", spoiled, size, &model, &error);
        if (status == BLAZE_STATUS_OK) {
            loaded++; /* in the middle of a weight, say */
            CHECK_STATUS(blaze_model_unload(rig.engine, model, NULL, NULL), OK);
        } else if (status != BLAZE_STATUS_MODEL_INVALID && status != BLAZE_STATUS_MODEL_UNSUPPORTED) {
            FAIL("byte %zu: %s: %s", at, blaze_status_name(status), error.message);
        }
    }
    printf("  %u spoiled models could be loaded\n", loaded);
    still_works(&rig);
    rig_down(&rig);
}

static void models_that_the_backend_cannot_run_say_so(void) {
    struct rig rig = rig_up(NULL, "", "");
    expect_load(&rig, "tests/models/identity_complex64.onnx", BLAZE_STATUS_MODEL_UNSUPPORTED, "file:1");
    expect_load(&rig, "tests/models/identity_u4.onnx", BLAZE_STATUS_MODEL_UNSUPPORTED, "file:1");
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    static unsigned char bytes[65536];
    FILE *file = fopen("tests/models/external_data.onnx", "rb");
    REQUIRE(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    /* "A model with weights in external files must be loaded from its path." */
    CHECK(blaze_model_load_memory(rig.engine, "{\"name\": \"e\"}", bytes, size, &model, &error) != BLAZE_STATUS_OK);
    expect_load(&rig, write_file("alone.onnx", bytes, size), BLAZE_STATUS_MODEL_INVALID, "external_data.bin");
    expect_load(&rig, "tests/models/external_data.onnx", BLAZE_STATUS_OK, "");
    rig_down(&rig);
}

#define TINY_ON(providers) "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\", \"providers\": " providers "}"

static void an_unavailable_provider_fails_or_is_passed_over(void) {
    struct rig rig = rig_up(NULL, "", "");
    char info[8192];
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    blaze_status alone = blaze_model_load(rig.engine, TINY_ON("[\"cuda\"]"), &model, &error);
    if (alone == BLAZE_STATUS_OK) {
        printf("  this machine has CUDA: not tested\n");
        rig_down(&rig);
        return;
    }
    CHECK_STATUS(alone, PROVIDER_UNAVAILABLE);
    CHECK_TEXT(error.message, "cuda: ");
    CHECK_STATUS(blaze_model_load(rig.engine, TINY_ON("[\"tensorrt\", \"cuda\"]"), &model, &error), PROVIDER_UNAVAILABLE);
    CHECK_TEXT(error.message, "cuda: ");
    CHECK_TEXT(error.message, "tensorrt: ");
    CHECK_STATUS(blaze_model_load(rig.engine, TINY_ON("[\"cuda\", \"cpu\"]"), &model, &error), OK);
    CHECK_STATUS(blaze_model_info(rig.engine, model, info, sizeof info, NULL), OK);
    CHECK_TEXT(info, "\"provider\":\"cpu\"");
    CHECK_TEXT(info, "\"providers\":[\"cuda\",\"cpu\"]");
    CHECK_TEXT(info, "\"providers_rejected\":[{");
    CHECK_TEXT(info, "\"provider\":\"cuda\"");
    CHECK(!strstr(info, "\"reason\":\"\"")); /* says why not */
    CHECK_STATUS(blaze_health_json(rig.engine, info, sizeof info, NULL), OK);
    CHECK_TEXT(info, "\"providers_rejected\":[{");
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, model), PATIENCE, &event, NULL), OK);
    blaze_event_release(&event);
    still_works(&rig);
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_bad_engine_configuration_is_refused_and_the_message_names_the_path),
        TEST(a_bad_model_configuration_is_refused_and_the_message_names_the_path),
        TEST(text_that_is_not_utf8_is_refused),
        TEST(monstrous_configurations_are_refused),
        TEST(a_model_file_that_is_missing_or_none_is_not_found),
        TEST(a_model_file_that_is_cut_short_or_spoiled_is_refused_or_works),
        TEST(models_that_the_backend_cannot_run_say_so),
        TEST(an_unavailable_provider_fails_or_is_passed_over),
    };
    const char *temporary = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%.40s/blaze-test-XXXXXX", temporary && strlen(temporary) < 40 ? temporary : "/tmp");
    if (!mkdtemp(directory)) {
        perror(directory);
        return 1;
    }
    int result = RUN_TESTS(tests, argc, argv);
    const char *const files[] = {"empty.onnx", "text.onnx", "cut.onnx", "alone.onnx"};
    for (size_t i = 0; i < COUNT(files); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        unlink(path);
    }
    rmdir(directory);
    return result;
}
