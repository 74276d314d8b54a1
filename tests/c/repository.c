/* A directory of models and versions: what is served, how a new version takes over, and what is said of broken ones. */
#include "json.h"
#include <pthread.h>
#include <sys/stat.h>

#define TINY "tests/models/tiny.onnx"
#define IDENTITY "tests/models/identity_f32.onnx"
#define BROKEN "tests/models/README.md"

static const char *directory;
static char config[512];

/* The path of something in the repository. */
static const char *at(const char *rest) {
    static _Thread_local char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, rest);
    return path;
}

static void make_directories(const char *rest) {
    char path[512];
    snprintf(path, sizeof path, "%s", at(rest));
    for (char *slash = path + strlen(directory) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(path, 0777);
        *slash = '/';
    }
}

/* `rest` is as in "m/1/model.onnx". */
static void put(const char *from, const char *rest) {
    make_directories(rest);
    copy_file(from, at(rest));
}

static void put_text(const char *text, const char *rest) {
    make_directories(rest);
    write_file(at(rest), text, strlen(text));
}

static void take_away(const char *rest) {
    remove_directory(at(rest));
}

/* An engine with a repository in a new directory that has what `fill` puts there. */
static struct rig open_repository(void (*fill)(void), const char *more, const char *engine_more) {
    directory = new_directory();
    if (fill) fill();
    snprintf(config, sizeof config, "{\"repository\": {\"directory\": \"%s\"%s}%s}", directory, more, engine_more);
    struct rig rig = {new_engine(config), NULL, 0};
    rig.queue = new_queue(rig.engine, 64);
    return rig;
}

static void close_repository(struct rig *rig) {
    rig_down(rig);
    remove_directory(directory);
}

static void rescan(blaze_engine *engine) {
    blaze_error error = {.status = 0};
    if (blaze_repository_rescan(engine, NULL, 0, NULL, &error) != BLAZE_STATUS_OK) FAIL("rescan: %s", error.message);
}

static blaze_model find(blaze_engine *engine, const char *name) {
    blaze_model model = 0;
    blaze_status status = blaze_model_find(engine, name, &model);
    CHECK(status == BLAZE_STATUS_OK || status == BLAZE_STATUS_NOT_FOUND);
    return model;
}

/* What a model answers to 1, 2, 3, 4: 1 for the identity, something else for the other; -1 if it does not. */
static float answer(blaze_engine *engine, blaze_model model) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    blaze_status status = blaze_infer(engine, simple_call(&call, model), PATIENCE, &event, &error);
    if (status != BLAZE_STATUS_OK) {
        FAIL("%s: %s", blaze_status_name(status), error.message);
        return -1;
    }
    float first = floats(&event, 0)[0];
    blaze_event_release(&event);
    return first;
}

static int is_identity(blaze_engine *engine, blaze_model model) {
    float first = answer(engine, model);
    return first >= 1.0f && first <= 1.0f;
}

static void two_versions(void) {
    put(TINY, "m/1/model.onnx");
    put(IDENTITY, "m/2/model.onnx");
    put(BROKEN, "m/03/model.onnx");     /* no version: a leading zero */
    put(BROKEN, "m/.hidden/model.onnx");
    put(BROKEN, "m/next/model.onnx");
    put(BROKEN, ".git/1/model.onnx");
    put_text("a plain file", "README");
}

static void the_newest_version_is_served(void) {
    struct rig rig = open_repository(two_versions, "", "");
    blaze_model name = find(rig.engine, "m"), second = find(rig.engine, "m:2");
    REQUIRE(name && second);
    CHECK(is_identity(rig.engine, name) && is_identity(rig.engine, second));
    CHECK_INT(find(rig.engine, "m:1"), 0); /* not served unless asked for */
    CHECK_INT(find(rig.engine, "m:3"), 0);
    const char *text = health_text(rig.engine);
    CHECK_JSON(text, "repository.scans", "1");
    CHECK_JSON(text, "repository.error", "null");
    CHECK_INT(json_count(text, "repository.models"), 1);
    CHECK_JSON(text, "repository.models[0].name", "m");
    CHECK_JSON(text, "repository.models[0].newest", "2");
    CHECK_JSON(text, "repository.models[0].serving", "[2]");
    CHECK_JSON(text, "repository.models[0].broken", "[]");
    CHECK_JSON(text, "state", "ok");

    /* By name and version alone. */
    blaze_model model = 0, first = 0;
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"m\"}", &model, NULL), OK);
    CHECK_INT(model, name);
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"m\", \"version\": 2}", &model, NULL), OK);
    CHECK_INT(model, second);
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"m\", \"version\": 1}", &first, NULL), OK);
    CHECK(!is_identity(rig.engine, first));
    CHECK_INT(find(rig.engine, "m:1"), first);
    CHECK_INT(find(rig.engine, "m"), name);
    blaze_error error = {.status = 0};
    const struct { const char *config; blaze_status status; const char *text; } cases[] = {
        {"{\"name\": \"m\", \"version\": 9}", BLAZE_STATUS_MODEL_NOT_FOUND, "9"},
        {"{\"name\": \"n\"}", BLAZE_STATUS_MODEL_NOT_FOUND, "n"},
        {"{\"name\": \"m\", \"lanes\": 2}", BLAZE_STATUS_INVALID_CONFIG, "path"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        CHECK_INT(blaze_model_load(rig.engine, cases[i].config, &model, &error), cases[i].status);
        CHECK_TEXT(error.message, cases[i].text);
    }
    blaze_ticket ticket = 0; /* in the background, too; and what is cancelled stays with the repository */
    CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"m\"}", rig.queue, 5, &ticket, NULL), OK);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, OK);
    CHECK_INT(event.model, name);
    blaze_event_release(&event);
    for (int i = 0; i < 50; i++) {
        CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"m\"}", rig.queue, 5, &ticket, NULL), OK);
        for (volatile int spin = 0; spin < i * 2000; spin++) {}
        blaze_cancel(rig.engine, ticket);
        event = next_event(rig.queue);
        CHECK(event.status == BLAZE_STATUS_OK || event.status == BLAZE_STATUS_CANCELLED);
        blaze_event_release(&event);
    }
    rescan(rig.engine);
    CHECK_INT(find(rig.engine, "m"), name);
    CHECK(is_identity(rig.engine, name));
    close_repository(&rig);
}

static atomic_uint stop, answered;

static void *ask_on_and_on(void *argument) {
    const struct rig *rig = argument;
    while (!atomic_load(&stop)) {
        answer(rig->engine, rig->model);
        atomic_fetch_add(&answered, 1);
    }
    return NULL;
}

static void one_version(void) {
    put(TINY, "m/1/model.onnx");
}

/* "Requests go on meanwhile, and none fails because of the switch." */
static void a_names_handle_follows_under_load(void) {
    struct rig rig = open_repository(one_version, "", "");
    REQUIRE(rig.model = find(rig.engine, "m"));
    pthread_t threads[3];
    atomic_store(&stop, 0);
    for (size_t i = 0; i < COUNT(threads); i++) REQUIRE(pthread_create(&threads[i], NULL, ask_on_and_on, &rig) == 0);
    char path[64];
    for (int version = 2; version < 12; version++) {
        snprintf(path, sizeof path, "m/%d/model.onnx", version);
        put(version % 2 ? TINY : IDENTITY, path);
        rescan(rig.engine);
        CHECK_INT(find(rig.engine, "m"), rig.model);
        CHECK_INT(is_identity(rig.engine, rig.model), version % 2 == 0);
        snprintf(path, sizeof path, "m:%d", version - 1);
        CHECK_INT(find(rig.engine, path), 0); /* the old one is gone */
    }
    snprintf(path, sizeof path, "m/11"); /* and back: a version is withdrawn */
    take_away(path);
    rescan(rig.engine);
    CHECK(is_identity(rig.engine, rig.model));
    atomic_store(&stop, 1);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    printf("  %u answered\n", atomic_load(&answered));
    CHECK_JSON(health_text(rig.engine), "repository.models[0].newest", "10");
    CHECK_INT(json_count(health_text(rig.engine), "models"), 1);
    close_repository(&rig);
}

static void a_broken_version_leaves_the_old_one_serving_and_is_reported(void) {
    struct rig rig = open_repository(one_version, "", "");
    REQUIRE(rig.model = find(rig.engine, "m"));
    put(BROKEN, "m/2/model.onnx");
    make_directories("m/3/model.onnx"); /* none there */
    blaze_ticket ticket = 0;
    CHECK_STATUS(blaze_repository_rescan(rig.engine, rig.queue, 77, &ticket, NULL), OK);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.kind, BLAZE_EVENT_DONE);
    CHECK_INT(event.ticket, ticket);
    CHECK_INT(event.user_data, 77);
    CHECK_STATUS(event.status, OK); /* "also if versions are broken" */
    CHECK_INT(event.text_bytes, strlen(event.text));
    const char *texts[] = {event.text, NULL};
    char path[64];
    for (int i = 0; i < 2; i++) {
        const char *prefix = i ? "repository." : "";
        if (i) texts[1] = health_text(rig.engine);
#define AT(rest) (snprintf(path, sizeof path, "%smodels[name=m]%s", prefix, rest), path)
        CHECK_JSON(texts[i], AT(".newest"), "1");
        CHECK_JSON(texts[i], AT(".serving"), "[1]");
        CHECK_INT(json_count(texts[i], AT(".broken")), 2);
        CHECK_JSON(texts[i], AT(".broken[version=2].status"), "MODEL_INVALID");
        CHECK_JSON(texts[i], AT(".broken[version=3].status"), "MODEL_NOT_FOUND");
        CHECK_TEXT(json_text(texts[i], AT(".broken[version=3].error")), "m/3/model.onnx");
    }
    blaze_event_release(&event);
    CHECK(!is_identity(rig.engine, rig.model));
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"m\", \"version\": 2}", &model, &error), MODEL_INVALID);
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"m\"}", &model, &error), OK);
    CHECK_INT(model, rig.model);
    put(IDENTITY, "m/2/model.onnx"); /* mended */
    rescan(rig.engine);
    CHECK(is_identity(rig.engine, rig.model));
    CHECK_JSON(health_text(rig.engine), "repository.models[name=m].newest", "2");
    CHECK_INT(json_count(health_text(rig.engine), "repository.models[name=m].broken"), 1);
    put(BROKEN, "n/1/model.onnx"); /* a name without a version that works */
    rescan(rig.engine);
    CHECK_INT(find(rig.engine, "n"), 0);
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"n\"}", &model, &error), MODEL_INVALID);
    CHECK_JSON(health_text(rig.engine), "state", "degraded");
    put(TINY, "n/1/model.onnx");
    rescan(rig.engine);
    CHECK(find(rig.engine, "n"));
    close_repository(&rig);
}

/* "sha256" of a file, by the system's tool. */
static void put_sum(const char *rest, const char *of) {
    char command[600], sum[65] = "";
    snprintf(command, sizeof command, "sha256sum '%s' | cut -c 1-64", at(of));
    FILE *pipe = popen(command, "r");
    REQUIRE(pipe);
    CHECK_INT(fread(sum, 1, 64, pipe), 64);
    pclose(pipe);
    snprintf(command, sizeof command, "{\"sha256\": \"%s\"}", sum);
    put_text(command, rest);
}

static void settings_are_in_model_json(void) {
    struct rig rig = open_repository(one_version, "", "");
    put_text("{\"lanes\": 2, \"batching\": {\"max_rows\": 8}, \"versions\": \"all\"}", "m/model.json");
    put_text("{\"batching\": {\"max_rows\": 4}}", "m/2/model.json");
    put(IDENTITY, "m/2/model.onnx");
    rescan(rig.engine);
    char text[8192];
    const struct { const char *name, *max_rows; } served[] = {{"m:1", "8"}, {"m:2", "4"}, {"m", "4"}};
    for (size_t i = 0; i < COUNT(served); i++) {
        CHECK_STATUS(blaze_model_info(rig.engine, find(rig.engine, served[i].name), text, sizeof text, NULL), OK);
        CHECK_JSON(text, "lanes", "2");
        CHECK_JSON(text, "batching.max_rows", served[i].max_rows);
    }
    CHECK_JSON(health_text(rig.engine), "repository.models[0].serving", "[1,2]");
    put_text("{\"versions\": [1]}", "m/model.json");
    rescan(rig.engine);
    CHECK_JSON(health_text(rig.engine), "repository.models[0].serving", "[1]");
    CHECK_INT(find(rig.engine, "m:2"), 0);

    put_text("{\"versions\": \"newest\"}", "m/model.json");
    put(TINY, "m/3/model.onnx");
    put_sum("m/3/model.json", "m/3/model.onnx");
    rescan(rig.engine);
    CHECK_JSON(health_text(rig.engine), "repository.models[0].newest", "3");
    const struct { const char *file, *json, *text; } bad[] = {
        {"m/4/model.json", "{\"sha256\": \"0000000000000000000000000000000000000000000000000000000000000000\"}", "model.onnx"},
        {"m/4/model.json", "{\"sha256\": \"12\"}", "sha256"},
        {"m/4/model.json", "{\"batching\": {\"max_rows\": 0}}", "batching.max_rows"},
        {"m/4/model.json", "{\"batching\": 5}", "m/4/model.json"},
        {"m/4/model.json", "{\"name\": \"x\"}", "name"},
        {"m/4/model.json", "{\"path\": \"x\"}", "path"},
        {"m/4/model.json", "{\"versions\": \"all\"}", "versions"},
        {"m/4/model.json", "{", "m/4/model.json"},
        {"m/4/model.json", "[]", "object"},
        {"m/model.json", "{\"versions\": \"some\"}", "versions"},
        {"m/model.json", "{\"sha256\": \"12\"}", "sha256"},
        {"m/model.json", "{\"unknown\": 1}", "unknown"},
    };
    put(IDENTITY, "m/4/model.onnx");
    for (size_t i = 0; i < COUNT(bad); i++) {
        put_text("{}", "m/model.json");
        put_text("{}", "m/4/model.json");
        put_text(bad[i].json, bad[i].file);
        rescan(rig.engine);
        const char *health = health_text(rig.engine);
        const char *error = json_text(health, "repository.models[0].broken[version=4].error");
        const char *problem = json_text(health, "repository.models[0].problem");
        if (!strstr(error, bad[i].text) && !strstr(problem, bad[i].text))
            FAIL("case %zu: %s, %s, without %s", i, error, problem, bad[i].text);
        CHECK_JSON(health, "repository.models[0].newest", "3");
        CHECK(!is_identity(rig.engine, find(rig.engine, "m")));
    }
    close_repository(&rig);
}

static void names(void) {
    put(TINY, "a/1/model.onnx");
    put(TINY, "b/1/model.onnx");
    put_text("{\"backend\": \"mock\"}", "c/1/model.json");
}

static void names_and_versions_go_when_they_are_removed(void) {
    struct rig rig = open_repository(names, "", "");
    CHECK(find(rig.engine, "a") && find(rig.engine, "b"));
    REQUIRE(rig.model = find(rig.engine, "c"));
    still_works(&rig); /* a mock needs no file */
    blaze_model a = find(rig.engine, "a"), b = find(rig.engine, "b");
    take_away("a");
    take_away("b/1");
    rescan(rig.engine);
    CHECK_INT(find(rig.engine, "a"), 0);
    CHECK_INT(find(rig.engine, "b"), 0);
    struct call call;
    CHECK_STATUS(blaze_submit(rig.engine, simple_call(&call, a), rig.queue, NULL, NULL), NOT_FOUND);
    CHECK_STATUS(blaze_model_info(rig.engine, b, NULL, 0, &(size_t){0}), NOT_FOUND);
    CHECK_INT(json_count(health_text(rig.engine), "models"), 1);
    put(IDENTITY, "a/1/model.onnx");
    rescan(rig.engine);
    CHECK(find(rig.engine, "a") && find(rig.engine, "a") != a);
    remove_directory(directory); /* all of it */
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_repository_rescan(rig.engine, NULL, 0, NULL, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, directory);
    still_works(&rig); /* and what was served is served */
    CHECK_TEXT(json_text(health_text(rig.engine), "repository.error"), directory);
    blaze_ticket ticket = 0;
    CHECK_STATUS(blaze_repository_rescan(rig.engine, rig.queue, 0, &ticket, &error), OK);
    EXPECT_EVENT(rig.queue, ticket, INVALID_CONFIG);
    REQUIRE(mkdir(directory, 0777) == 0);
    names();
    rescan(rig.engine);
    CHECK_JSON(health_text(rig.engine), "repository.error", "null");
    CHECK(find(rig.engine, "b"));
    close_repository(&rig);
}

static void a_name_is_unloaded_with_all_its_versions_and_a_version_alone_is_not(void) {
    struct rig rig = open_repository(two_versions, "", "");
    put_text("{\"versions\": \"all\"}", "m/model.json");
    rescan(rig.engine);
    blaze_model name = find(rig.engine, "m"), first = find(rig.engine, "m:1"), second = find(rig.engine, "m:2");
    REQUIRE(name && first && second);
    CHECK_STATUS(blaze_model_unload(rig.engine, first, NULL, NULL), INVALID_STATE);
    CHECK_STATUS(blaze_model_unload(rig.engine, second, rig.queue, NULL), INVALID_STATE);
    no_event(rig.queue);
    blaze_ticket ticket = 0;
    CHECK_STATUS(blaze_model_unload(rig.engine, name, rig.queue, &ticket), OK);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, OK);
    CHECK(json_is_valid(event.text));
    CHECK_INT(json_count(event.text, "models"), 2);
    CHECK(json_number(event.text, "models[model=m:1].bytes_before") > 0);
    CHECK_INT(json_number(event.text, "models[model=m:2].bytes_after"), 0);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_model_unload(rig.engine, name, NULL, NULL), NOT_FOUND);
    CHECK_STATUS(blaze_model_unload(rig.engine, first, NULL, NULL), NOT_FOUND);
    CHECK_JSON(health_text(rig.engine), "repository.models[0].unloaded_by_host", "true");
    CHECK_JSON(health_text(rig.engine), "state", "ok");
    blaze_model model = 0;
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"m\"}", &model, NULL), OK);
    CHECK(model != name && is_identity(rig.engine, model));
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"own\", \"path\": \"" TINY "\"}", &first, NULL), OK);
    CHECK_STATUS(blaze_model_unload(rig.engine, first, NULL, NULL), OK); /* the host's own models are as ever */
    close_repository(&rig);
}

static void the_directory_is_watched(void) {
    for (int threads = 0; threads < 2; threads++) {
        struct rig rig = open_repository(one_version, ", \"poll_ms\": 20", threads ? "" : ", \"threads\": 0");
        REQUIRE(rig.model = find(rig.engine, "m"));
        CHECK(!is_identity(rig.engine, rig.model));
        put(IDENTITY, "m/2/model.onnx");
        uint64_t until = blaze_now_ns() + 30 * SECOND;
        while (!find(rig.engine, "m:2") && blaze_now_ns() < until) {
            sleep_ns(5 * MILLISECOND);
            if (!threads) CHECK_STATUS(blaze_pump(rig.engine, MILLISECOND, NULL), OK);
        }
        CHECK(is_identity(rig.engine, rig.model));
        close_repository(&rig);
    }
}

static void without_threads_a_rescan_is_pumped(void) {
    struct rig rig = open_repository(one_version, "", ", \"threads\": 0");
    put(IDENTITY, "m/2/model.onnx");
    blaze_ticket ticket = 0;
    CHECK_STATUS(blaze_repository_rescan(rig.engine, rig.queue, 0, &ticket, NULL), OK);
    CHECK_INT(find(rig.engine, "m:2"), 0);
    CHECK_STATUS(blaze_pump(rig.engine, PATIENCE, NULL), OK);
    EXPECT_EVENT(rig.queue, ticket, OK);
    CHECK(is_identity(rig.engine, find(rig.engine, "m")));
    CHECK_STATUS(blaze_repository_rescan(rig.engine, rig.queue, 0, &ticket, NULL), OK);
    blaze_engine_destroy(rig.engine); /* never pumped */
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.ticket, ticket);
    CHECK_STATUS(event.status, SHUT_DOWN);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    remove_directory(directory);
}

static void what_cannot_be_rescanned_is_refused(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_error error = {.status = 0};
    blaze_ticket ticket = 0;
    CHECK_STATUS(blaze_repository_rescan(rig.engine, NULL, 0, NULL, &error), INVALID_STATE);
    CHECK_TEXT(error.message, "repository");
    CHECK_STATUS(blaze_repository_rescan(NULL, NULL, 0, NULL, &error), NULL_POINTER);
    CHECK_STATUS(blaze_repository_rescan(rig.engine, rig.queue, 0, &ticket, &error), INVALID_STATE);
    CHECK_JSON(health_text(rig.engine), "repository", "null");
    rig_down(&rig);

    blaze_engine *engine = NULL;
    CHECK_STATUS(blaze_engine_create("{\"repository\": {\"directory\": \"/no/such/directory\"}}", &engine, &error),
                 INVALID_CONFIG);
    CHECK_TEXT(error.message, "/no/such/directory");
    CHECK(!engine);
    rig = open_repository(one_version, "", "");
    struct rig other = rig_up(NULL, "", "");
    CHECK_STATUS(blaze_repository_rescan(rig.engine, other.queue, 0, &ticket, &error), INVALID_ARGUMENT);
    rig_down(&other);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    CHECK_STATUS(blaze_repository_rescan(rig.engine, rig.queue, 0, &ticket, &error), SHUT_DOWN);
    CHECK_STATUS(blaze_repository_rescan(rig.engine, NULL, 0, NULL, &error), SHUT_DOWN);
    close_repository(&rig);
}

static void versions_leave_memory_as_others_do_and_come_back(void) {
    struct rig rig = open_repository(two_versions, "", "");
    rig.model = find(rig.engine, "m");
    for (int i = 0; i < 3; i++) {
        CHECK(is_identity(rig.engine, rig.model));
        CHECK_STATUS(blaze_engine_set_budget(rig.engine, 0), OK);
        until_residence(rig.engine, "m", "evicted");
        CHECK_STATUS(blaze_engine_set_budget(rig.engine, BLAZE_BUDGET_UNLIMITED), OK);
        if (i == 1) rescan(rig.engine);
    }
    CHECK(is_identity(rig.engine, rig.model));
    close_repository(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(the_newest_version_is_served),
        TEST(a_names_handle_follows_under_load),
        TEST(a_broken_version_leaves_the_old_one_serving_and_is_reported),
        TEST(settings_are_in_model_json),
        TEST(names_and_versions_go_when_they_are_removed),
        TEST(a_name_is_unloaded_with_all_its_versions_and_a_version_alone_is_not),
        TEST(the_directory_is_watched),
        TEST(without_threads_a_rescan_is_pumped),
        TEST(what_cannot_be_rescanned_is_refused),
        TEST(versions_leave_memory_as_others_do_and_come_back),
    };
    return RUN_TESTS(tests, argc, argv);
}
