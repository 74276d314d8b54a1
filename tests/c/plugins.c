/* Backends in shared objects: the example's works, and one that does not says why, and breaks nothing. */
#include "json.h"
#include <dlfcn.h>
#include <limits.h>

/* Where the Makefile has built a plugin. */
static const char *plugin(const char *name) {
    static char paths[4][PATH_MAX + 64];
    static unsigned turn;
    char *path = paths[turn++ % 4], here[PATH_MAX];
    REQUIRE(realpath("target/c/plugins", here));
    snprintf(path, sizeof paths[0], "%s/libblaze_%s.so", here, name);
    return path;
}

static const char *config_of(const char *path, const char *more) {
    static char config[PATH_MAX + 1024];
    snprintf(config, sizeof config, "{\"plugins\": [{\"path\": \"%s\"%s}]}", path, more);
    return config;
}

static void multiplies(blaze_engine *engine, blaze_model model, float factor) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    REQUIRE(blaze_infer(engine, simple_call(&call, model), PATIENCE, &event, NULL) == BLAZE_STATUS_OK);
    CHECK_FLOATS(floats(&event, 0), factor, 2 * factor, 3 * factor, 4 * factor);
    blaze_event_release(&event);
}

#define TRIPLE "{\"name\": \"triple\", \"backend\": \"scale\", \"options\": {\"factor\":3}}"

static void the_examples_plugin_works(void) {
    struct rig rig = {new_engine(config_of(plugin("scale"), "")), NULL, 0};
    rig.queue = new_queue(rig.engine, 256);
    const char *health = health_text(rig.engine);
    CHECK_JSON(health, "plugins[0].backend", "scale");
    CHECK_JSON(health, "plugins[0].error", "null");
    CHECK_JSON(health, "backends[2].name", "scale");
    rig.model = load_model(rig.engine, TRIPLE);
    multiplies(rig.engine, rig.model, 3);
    for (uint64_t i = 0; i < 200; i++) submit_simple(&rig, i);
    for (int i = 0; i < 200; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_FLOATS(floats(&event, 0), 3, 6, 9, 12);
        blaze_event_release(&event);
    }
    blaze_error error = {.status = 0};
    blaze_model model = 0;
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"n\", \"backend\": \"scale\", \"options\": {\"columns\":0}}", &model,
                                  &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "backend \"scale\": options.columns: must be from 1 to 1000000");
    rig_down(&rig);
}

/* In the same process, again and again, and for several engines at once. */
static void every_engine_has_its_own(void) {
    for (int i = 0; i < 20; i++) {
        blaze_engine *engines[3];
        for (size_t k = 0; k < COUNT(engines); k++) {
            char config[128];
            engines[k] = new_engine(config_of(plugin("scale"), ""));
            snprintf(config, sizeof config, "{\"name\": \"m\", \"backend\": \"scale\", \"options\": {\"factor\":%zu}}", k);
            multiplies(engines[k], load_model(engines[k], config), (float)k);
        }
        for (size_t k = 0; k < COUNT(engines); k++) blaze_engine_destroy(engines[k]);
    }
}

static void a_name_stands_for_a_file_beside_the_library(void) {
    static const char *const configs[] = {"{\"plugins\": [\"scale\"]}", "{\"plugins\": [\"libblaze_scale.so\"]}",
                                          "{\"plugins\": [{\"path\": \"scale\", \"required\": true}]}"};
    for (size_t i = 0; i < COUNT(configs); i++) {
        blaze_engine *engine = new_engine(configs[i]);
        multiplies(engine, load_model(engine, TRIPLE), 3);
        blaze_engine_destroy(engine);
    }
}

static void what_does_not_work_is_told_and_is_missed_only_by_its_models(void) {
    static const struct {
        const char *name, *says;
    } cases[] = {{"absent", "libblaze_absent.so"},
                 {"ancient", "version 0 of the interface"},
                 {"refusing", "there is no moon tonight, config {}"},
                 {"mute", "BACKEND_UNAVAILABLE"},
                 {"unnamed", "backend.name is NULL"},
                 {"closed", "blaze_plugin_open"},
                 {"lacking", "libnowhere.so"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        blaze_engine *engine = new_engine(config_of(plugin(cases[i].name), ""));
        CHECK_TEXT(json_text(health_text(engine), "plugins[0].error"), cases[i].says);
        CHECK_JSON(health_text(engine), "plugins[0].backend", "null");
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_model_load(engine, TRIPLE, &model, &error), BACKEND_UNAVAILABLE);
        CHECK_TEXT(error.message, cases[i].says);
        struct rig rig = {engine, NULL, load_mock(engine, "mock", "", "")};
        still_works(&rig);
        blaze_engine_destroy(engine);
        engine = NULL;
        CHECK_STATUS(blaze_engine_create(config_of(plugin(cases[i].name), ", \"required\": true"), &engine, &error),
                     BACKEND_UNAVAILABLE);
        CHECK_TEXT(error.message, "plugins[0]");
        CHECK_TEXT(error.message, cases[i].says);
        CHECK(!engine);
    }
}

static void what_a_refused_plugin_has_made_is_freed(void) {
    blaze_engine *engine = new_engine(config_of(plugin("unnamed"), ""));
    void *opened = dlopen(plugin("unnamed"), RTLD_NOW | RTLD_LOCAL);
    REQUIRE(opened);
    int (*closed)(int) = NULL;
    *(void **)&closed = dlsym(opened, "broken_closed");
    REQUIRE(closed);
    int before = closed(0);
    CHECK(before > 0);
    blaze_engine_destroy(engine);
    CHECK(closed(0) == before);
    engine = new_engine(config_of(plugin("unnamed"), ""));
    CHECK(closed(0) == before + 1);
    blaze_engine_destroy(engine);
    dlclose(opened);
}

static void what_is_configured_wrongly_is_refused(void) {
    static const struct {
        const char *config, *says;
    } cases[] = {{"{\"plugins\": [\"../libblaze_scale.so\"]}", "plugins[0]"},
                 {"{\"plugins\": [\"target/c/plugins/libblaze_scale.so\"]}", "absolute path"},
                 {"{\"plugins\": [\"\"]}", "plugins[0]"},
                 {"{\"plugins\": [\".\"]}", "plugins[0]"},
                 {"{\"plugins\": [3]}", "plugins[0]"},
                 {"{\"plugins\": [{}]}", "plugins[0]"},
                 {"{\"plugins\": [{\"path\": \"scale\", \"colour\": 1}]}", "plugins[0]"},
                 {"{\"plugins\": [{\"path\": \"scale\", \"config\": 1}]}", "plugins[0].config"},
                 {"{\"plugins\": [\"scale\", \"scale\"]}", "plugins[1]"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        blaze_engine *engine = NULL;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_engine_create(cases[i].config, &engine, &error);
        if (status != BLAZE_STATUS_INVALID_CONFIG && status != BLAZE_STATUS_ALREADY_EXISTS)
            FAIL("%s: %s", cases[i].config, blaze_status_name(status));
        CHECK_TEXT(error.message, cases[i].says);
    }
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(the_examples_plugin_works),
        TEST(every_engine_has_its_own),
        TEST(a_name_stands_for_a_file_beside_the_library),
        TEST(what_does_not_work_is_told_and_is_missed_only_by_its_models),
        TEST(what_a_refused_plugin_has_made_is_freed),
        TEST(what_is_configured_wrongly_is_refused),
    };
    return RUN_TESTS(tests, argc, argv);
}
