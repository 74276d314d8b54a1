/* The log: silent unless asked for; text and JSON, to stderr, files and callbacks; levels, rates, changes at run time. */
#include "json.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

/* For `mock`: every run fails. */
#define FAILS "\"faults\": [{\"kind\": \"error\"}]"

static void configure(blaze_engine *engine, const char *json) {
    blaze_error error = {.status = 0};
    if (blaze_log_configure(engine, json, &error) != BLAZE_STATUS_OK) FAIL("%s: %s", json, error.message);
}

/* Loads a model of its own and lets it fail: two lines or more, among them a warning that it is degraded. */
static void provoke(struct rig *rig) {
    static atomic_uint count;
    char name[32];
    snprintf(name, sizeof name, "bad%u", atomic_fetch_add(&count, 1));
    blaze_model model = load_mock(rig->engine, name, FAILS, "\"recovery\": false");
    struct call call;
    for (int i = 0; i < 2; i++) {
        blaze_event event = BLAZE_EVENT_INIT;
        CHECK(blaze_infer(rig->engine, simple_call(&call, model), PATIENCE, &event, NULL) != BLAZE_STATUS_OK);
        blaze_event_release(&event);
    }
    CHECK_STATUS(blaze_model_unload(rig->engine, model, NULL, NULL), OK);
}

static char *read_text(const char *path) {
    static char text[1 << 18];
    FILE *file = fopen(path, "rb");
    REQUIRE(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static long long size_of(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 ? (long long)status.st_size : -1;
}

/* stderr goes to a file from here on, until it is restored. */
static int saved_stderr = -1;
static char directory[64], path[128];

static void redirect(void) {
    snprintf(directory, sizeof directory, "%s", new_directory());
    snprintf(path, sizeof path, "%s/log", directory);
    saved_stderr = dup(2);
    int file = open(path, O_CREAT | O_WRONLY | O_APPEND, 0600);
    REQUIRE(file >= 0 && saved_stderr >= 0);
    dup2(file, 2);
    close(file);
}

static char *restored(void) {
    dup2(saved_stderr, 2);
    close(saved_stderr);
    char *text = read_text(path);
    remove_directory(directory);
    return text;
}

static void nothing_is_said_unless_asked_for(void) {
    redirect();
    struct rig rig = rig_up(NULL, "", "");
    provoke(&rig);
    configure(rig.engine, "{}");
    configure(rig.engine, "{\"level\": \"trace\", \"format\": \"json\", \"modules\": {\"model\": \"trace\"}}");
    provoke(&rig);
    configure(rig.engine, "{\"target\": \"callback\"}"); /* there is none */
    provoke(&rig);
    configure(rig.engine, "{\"target\": \"facade\"}"); /* there is no logger */
    provoke(&rig);
    configure(rig.engine, "{\"target\": \"stderr\", \"level\": \"off\", \"modules\": {}}");
    provoke(&rig);
    rig_down(&rig);
    char *text = restored();
    if (*text) FAIL("something was said: %s", text);
}

static void lines_of_text_go_to_stderr(void) {
    redirect();
    struct rig rig = rig_up("{\"log\": {\"target\": \"stderr\"}}", "", "");
    provoke(&rig);
    configure(rig.engine, "{\"target\": \"none\"}");
    provoke(&rig);
    rig_down(&rig);
    char *text = restored(), *line = strstr(text, "is degraded");
    CHECK(line && !strstr(line + 1, "is degraded"));
    CHECK_TEXT(text, "Z WARN blaze::model bad");
    CHECK_TEXT(text, ":1 state=degraded\n");
    CHECK(!strstr(text, "INFO"));
    CHECK(strlen(text) > 28 && text[4] == '-' && text[10] == 'T' && text[19] == '.' && text[26] == 'Z' && text[27] == ' ');
}

static void lines_of_json_are_json(void) {
    redirect();
    struct rig rig =
        rig_up("{\"log\": {\"target\": \"stderr\", \"format\": \"json\", \"level\": \"info\"}}", "", "");
    blaze_model odd = load_mock(rig.engine, "\u00fc 'odd'", FAILS, "");
    CHECK_STATUS(blaze_model_unload(rig.engine, odd, NULL, NULL), OK);
    provoke(&rig);
    rig_down(&rig);
    char *text = restored();
    int lines = 0, degraded = 0, loaded = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        CHECK(json_is_valid(line));
        CHECK_INT(strlen(json_text(line, "ts")), 27);
        CHECK(json_at(line, "module") && json_at(line, "level"));
        const char *message = json_text(line, "message");
        if (strstr(message, "is degraded")) {
            degraded++;
            CHECK_JSON(line, "level", "warn");
            CHECK_JSON(line, "module", "model");
            CHECK_JSON(line, "state", "degraded");
            CHECK_TEXT(json_text(line, "model"), "bad");
        }
        if (strstr(message, "odd") && strstr(message, "is loaded")) {
            loaded++;
            CHECK_JSON(line, "level", "info");
            CHECK_JSON(line, "model", "\u00fc 'odd':1");
        }
    }
    CHECK(lines >= 4);
    CHECK_INT(degraded, 1);
    CHECK_INT(loaded, 1);
}

static void files_are_renamed_when_they_are_full(void) {
    char config[512], name[160], where[64];
    snprintf(where, sizeof where, "%s", new_directory());
    snprintf(config, sizeof config,
             "{\"log\": {\"target\": \"file\", \"level\": \"info\", \"rate\": {\"per_second\": 0},"
             " \"file\": {\"path\": \"%s/log\", \"max_bytes\": 2048, \"keep\": 2}}}",
             where);
    struct rig rig = rig_up(config, "", "");
    for (int i = 0; i < 40; i++) provoke(&rig);
    rig_down(&rig);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, i ? "%s/log.%d" : "%s/log", where, i);
        long long size = size_of(name);
        if (i == 3) CHECK_INT(size, -1);
        else CHECK(size > (i ? 1024 : 0) && size <= 2048);
        if (i < 3) CHECK_TEXT(read_text(name), " blaze::model ");
    }
    snprintf(name, sizeof name, "%s/log", where);
    char *text = read_text(name);
    CHECK(strlen(text) > 0 && text[strlen(text) - 1] == '\n');
    remove_directory(where);
}

/* Callbacks ------------------------------------------------------------------------------------------------------- */

struct heard {
    blaze_engine *engine; /* to call what must not be called */
    atomic_uint lines, levels[6], models, memories, dropped, degraded, wrong;
    atomic_int gone, inside;
};

static void hear(void *user, const blaze_log_record *record) {
    struct heard *heard = user;
    if (atomic_load(&heard->gone) || atomic_fetch_add(&heard->inside, 1)) atomic_fetch_add(&heard->wrong, 1);
    if (record->struct_size < sizeof *record || record->level < 1 || record->level > 5 || !record->module
        || !record->message || record->time_ns < UINT64_C(1700000000) * SECOND)
        atomic_fetch_add(&heard->wrong, 1);
    if (record->fields && !json_is_valid(record->fields)) atomic_fetch_add(&heard->wrong, 1);
    atomic_fetch_add(&heard->lines, 1);
    atomic_fetch_add(&heard->levels[record->level % 6], 1);
    if (!strcmp(record->module, "model")) atomic_fetch_add(&heard->models, 1);
    if (!strcmp(record->module, "memory")) atomic_fetch_add(&heard->memories, 1);
    if (strstr(record->message, "is degraded")) {
        atomic_fetch_add(&heard->degraded, 1);
        if (!record->fields || strcmp(json_text(record->fields, "state"), "degraded") != 0)
            atomic_fetch_add(&heard->wrong, 1);
    }
    if (record->fields && json_at(record->fields, "dropped"))
        atomic_fetch_add(&heard->dropped, (unsigned)json_number(record->fields, "dropped"));
    if (heard->engine) {
        if (blaze_log_set_callback(heard->engine, NULL, NULL, NULL) != BLAZE_STATUS_INVALID_STATE
            || blaze_log_configure(heard->engine, "{}", NULL) != BLAZE_STATUS_INVALID_STATE)
            atomic_fetch_add(&heard->wrong, 1);
    }
    atomic_fetch_sub(&heard->inside, 1);
}

static void a_callback_hears_what_its_levels_let_through(void) {
    static struct heard heard;
    struct rig rig = rig_up("{\"log\": {\"target\": \"callback\"}}", "", "");
    CHECK_STATUS(blaze_log_set_callback(rig.engine, hear, &heard, NULL), OK);
    provoke(&rig);
    CHECK_INT(heard.lines, 1);
    CHECK_INT(heard.levels[BLAZE_LOG_WARN], 1);
    CHECK_INT(heard.degraded, 1);
    configure(rig.engine, "{\"level\": \"off\", \"modules\": {\"memory\": \"info\"}}");
    provoke(&rig);
    CHECK_INT(heard.lines, 1);
    CHECK_STATUS(blaze_engine_set_budget(rig.engine, 1 << 30), OK);
    CHECK_INT(heard.lines, 2);
    CHECK_INT(heard.memories, 1);
    configure(rig.engine, "{\"level\": \"info\", \"modules\": {\"memory\": \"off\"}}");
    provoke(&rig);
    CHECK_STATUS(blaze_engine_set_budget(rig.engine, BLAZE_BUDGET_UNLIMITED), OK);
    CHECK_INT(heard.memories, 1);
    CHECK_INT(heard.degraded, 2);
    CHECK(heard.levels[BLAZE_LOG_INFO] >= 3);
    CHECK_STATUS(blaze_log_set_callback(rig.engine, NULL, NULL, NULL), OK);
    atomic_store(&heard.gone, 1);
    provoke(&rig);
    atomic_store(&heard.gone, 0);
    CHECK_STATUS(blaze_log_set_callback(rig.engine, hear, &heard, NULL), OK);
    heard.engine = rig.engine; /* changes of the log from inside are refused */
    provoke(&rig);
    CHECK_INT(heard.degraded, 3);
    heard.engine = NULL;
    rig_down(&rig); /* with the callback still set */
    atomic_store(&heard.gone, 1);
    CHECK_INT(heard.wrong, 0);
}

static void too_many_lines_are_dropped_and_counted(void) {
    static struct heard heard;
    struct rig rig = rig_up("{\"log\": {\"target\": \"callback\", \"level\": \"info\", \"modules\": {\"model\": \"warn\"},"
                            " \"rate\": {\"per_second\": 1, \"burst\": 2}}}",
                            "", "");
    CHECK_STATUS(blaze_log_set_callback(rig.engine, hear, &heard, NULL), OK);
    unsigned said = 500;
    for (unsigned i = 0; i < said; i++) CHECK_STATUS(blaze_engine_set_budget(rig.engine, (1 << 30) + i), OK);
    CHECK(heard.memories >= 2 && heard.memories < said / 2);
    provoke(&rig); /* is not silenced by them */
    CHECK_INT(heard.degraded, 1);
    configure(rig.engine, "{\"rate\": {\"per_second\": 0}}");
    CHECK_STATUS(blaze_engine_set_budget(rig.engine, 1 << 30), OK);
    CHECK_INT(heard.memories + heard.dropped, said + 1);
    CHECK(heard.dropped > 0);
    rig_down(&rig);
    CHECK_INT(heard.wrong, 0);
}

/* Changes while others log ---------------------------------------------------------------------------------------- */

static struct heard concurrent;
static atomic_int over;

static void *keep_failing(void *argument) {
    struct rig *rig = argument;
    struct call call;
    blaze_model model = load_mock(rig->engine, "sometimes",
                                  "\"faults\": [{\"kind\": \"error\", \"share\": 0.5}]", ALONE ", \"recovery\": false");
    for (int i = 0; !atomic_load(&over); i++) {
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_infer(rig->engine, simple_call(&call, model), PATIENCE, &event, NULL);
        blaze_event_release(&event);
        blaze_engine_set_budget(rig->engine, (uint64_t)(1 << 30) + (uint64_t)i);
    }
    return NULL;
}

static void everything_can_change_while_requests_run(void) {
    char config[512], where[64];
    snprintf(where, sizeof where, "%s", new_directory());
    struct rig rig = rig_up("{\"log\": {\"target\": \"callback\", \"level\": \"trace\", \"rate\": {\"per_second\": 0}}}", "", "");
    pthread_t threads[2];
    atomic_store(&over, 0);
    for (size_t i = 0; i < COUNT(threads); i++) REQUIRE(pthread_create(&threads[i], NULL, keep_failing, &rig) == 0);
    for (int i = 0; i < (getenv("BLAZE_SHORT") ? 20 : 200); i++) {
        atomic_store(&concurrent.gone, 0);
        CHECK_STATUS(blaze_log_set_callback(rig.engine, hear, &concurrent, NULL), OK);
        configure(rig.engine, "{\"target\": \"callback\"}");
        sleep_ns(MILLISECOND);
        if (i % 2) configure(rig.engine, "{\"target\": \"none\"}");
        else CHECK_STATUS(blaze_log_set_callback(rig.engine, NULL, NULL, NULL), OK);
        atomic_store(&concurrent.gone, 1);
        snprintf(config, sizeof config,
                 "{\"target\": \"file\", \"format\": \"%s\", \"file\": {\"path\": \"%s/log\", \"max_bytes\": 4096}}",
                 i % 3 ? "json" : "text", where);
        configure(rig.engine, config);
        sleep_ns(MILLISECOND);
        configure(rig.engine, i % 5 ? "{\"level\": \"error\"}" : "{\"level\": \"trace\"}");
        configure(rig.engine, "{\"target\": \"none\", \"level\": \"trace\"}");
    }
    atomic_store(&over, 1);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    rig_down(&rig);
    CHECK_INT(concurrent.wrong, 0);
    CHECK(concurrent.lines > 0);
    snprintf(config, sizeof config, "%s/log", where);
    CHECK(size_of(config) >= 0 && size_of(config) <= 4096);
    remove_directory(where);
}

/* Mistakes -------------------------------------------------------------------------------------------------------- */

static void wrong_configurations_name_the_path(void) {
    const struct { const char *json, *text; } cases[] = {
        {"{\"level\": \"loud\"}", "level: "},
        {"{\"target\": 5}", "target: "},
        {"{\"format\": \"xml\"}", "format: "},
        {"{\"modules\": {\"onxn\": \"debug\"}}", "modules.onxn: there is no such module; the modules are model, "},
        {"{\"modules\": {\"onnx\": \"loud\"}}", "modules.onnx: "},
        {"{\"target\": \"file\"}", "file.path: "},
        {"{\"target\": \"file\", \"file\": {\"path\": \"\"}}", "file.path: "},
        {"{\"target\": \"file\", \"file\": {\"path\": \"/nowhere/log\"}}", "file.path: /nowhere/log: "},
        {"{\"target\": \"file\", \"file\": {\"path\": \"/\"}}", "file.path: /: "},
        {"{\"target\": \"file\", \"file\": {\"path\": \"/dev/null\"}}", "file.path: /dev/null: "},
        {"{\"file\": {\"max_bytes\": 1}}", "file.max_bytes: "},
        {"{\"file\": {\"keep\": 100000}}", "file.keep: "},
        {"{\"file\": []}", "file: "},
        {"{\"rate\": {\"per_second\": -1}}", "rate.per_second: "},
        {"{\"rate\": {\"burst\": 0}}", "rate.burst: "},
        {"{\"rate\": {\"often\": 0}}", "rate.often: "},
        {"{\"target\": \"facade\", \"global\": true}", "global: "},
        {"{\"colour\": true}", "colour"},
        {"", "EOF"},
        {"[]", "expected an object"},
        {"{} {}", "trailing"},
    };
    struct rig rig = rig_up(NULL, "", "");
    for (size_t i = 0; i < COUNT(cases); i++) {
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_log_configure(rig.engine, cases[i].json, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, cases[i].text);
        if (cases[i].json[0] != '{' || strstr(cases[i].json, "} {") || strstr(cases[i].json, "colour")) continue;
        char config[256], text[160];
        blaze_engine *engine = NULL;
        snprintf(config, sizeof config, "{\"log\": %s}", cases[i].json);
        snprintf(text, sizeof text, "log.%s", cases[i].text);
        CHECK_STATUS(blaze_engine_create(config, &engine, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, text);
        CHECK(!engine);
    }
    still_works(&rig);
    rig_down(&rig);
}

static void pointers_are_checked(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_log_configure(NULL, "{}", &error), NULL_POINTER);
    CHECK_TEXT(error.message, "engine");
    CHECK_STATUS(blaze_log_configure(rig.engine, NULL, &error), NULL_POINTER);
    CHECK_TEXT(error.message, "log_json");
    CHECK_STATUS(blaze_log_configure(rig.engine, "{\"level\": \"\xff\"}", &error), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_log_configure(NULL, NULL, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_log_set_callback(NULL, hear, NULL, &error), NULL_POINTER);
    CHECK_STATUS(blaze_log_set_callback(NULL, NULL, NULL, NULL), NULL_POINTER);
    CHECK_STATUS(blaze_log_set_callback(rig.engine, NULL, &rig, NULL), OK);
    still_works(&rig);
    rig_down(&rig);
}

static void one_engine_may_have_the_global_logger(void) {
    struct rig rig = rig_up("{\"log\": {\"global\": true, \"target\": \"none\"}}", "", "");
    blaze_engine *other = NULL;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_engine_create("{\"log\": {\"global\": true}}", &other, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "log.global: ");
    configure(rig.engine, "{\"global\": false}");
    other = new_engine("{\"log\": {\"global\": true}}");
    still_works(&rig);
    blaze_engine_destroy(other);
    configure(rig.engine, "{\"global\": true}");
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(nothing_is_said_unless_asked_for),
        TEST(lines_of_text_go_to_stderr),
        TEST(lines_of_json_are_json),
        TEST(files_are_renamed_when_they_are_full),
        TEST(a_callback_hears_what_its_levels_let_through),
        TEST(too_many_lines_are_dropped_and_counted),
        TEST(everything_can_change_while_requests_run),
        TEST(wrong_configurations_name_the_path),
        TEST(pointers_are_checked),
        TEST(one_engine_may_have_the_global_logger),
    };
    return RUN_TESTS(tests, argc, argv);
}
