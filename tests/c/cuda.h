/* What the tests of the CUDA backend share. */
#ifndef CUDA_H
#define CUDA_H
#include "routes.h"
#include "fakecuda.h"
#include <limits.h>
#include <pthread.h>

/* An engine's configuration with the plugin and the fake driver, or another one, and more of the plugin's. */
static inline const char *config_with(const char *driver, const char *plugin, const char *more) {
    static char config[4 * PATH_MAX];
    char library[PATH_MAX], fake[PATH_MAX], nvml[PATH_MAX];
    const char *where = getenv("BLAZE_CUDA_PLUGIN");
    REQUIRE(realpath(where ? where : "target/release/libblaze_cuda.so", library));
    REQUIRE(realpath("target/fakecuda/libfakecuda.so", fake));
    REQUIRE(realpath("target/fakecuda/libfakenvml.so", nvml));
    snprintf(config, sizeof config, "{\"plugins\": [{\"path\": \"%s\", \"config\": {\"driver\": \"%s\", \"nvml\": \"%s\"%s}}], %s}",
             library, driver ? driver : fake, nvml, plugin, more);
    return config;
}

static inline const char *config_of(const char *more) {
    return config_with(NULL, "", more);
}

#define MODEL(manifest, more) \
    "{\"name\": \"m\", \"backend\": \"cuda\", \"path\": \"tests/cuda/" manifest ".json\"" more "}"
#define SCALE(more) MODEL("scale", more)
#define SCALE_WITH(options, more) MODEL("scale", ", \"options\": {" options "}" more)

static inline struct rig cuda_rig(const char *engine, const char *model) {
    struct rig rig = {new_engine(config_of(engine)), NULL, 0};
    CHECK_JSON(health_text(rig.engine), "plugins[0].error", "null");
    rig.queue = new_queue(rig.engine, 1024);
    if (model) rig.model = load_model(rig.engine, model);
    return rig;
}

/* The last engine is gone: so is everything on the devices. */
static inline void nothing_is_left(void) {
    static const char *const kinds[] = {"context", "allocation", "registration", "stream", "event", "module", "graph", "exec"};
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (fakecuda_live(kinds[i])) FAIL("%ld of kind %s are left", fakecuda_live(kinds[i]), kinds[i]);
}

static inline void cuda_down(struct rig *rig) {
    rig_down(rig);
    nothing_is_left();
}

/* A model that multiplies by three does. */
static inline void triples(struct rig *rig) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    blaze_status status = blaze_infer(rig->engine, simple_call(&call, rig->model), PATIENCE, &event, &error);
    if (status) FAIL("%s: %s", blaze_status_name(status), error.message);
    else CHECK_FLOATS(floats(&event, 0), 3, 6, 9, 12);
    blaze_event_release(&event);
}

/* What tests/cuda/mlp.json computes; its weights are (37 k mod 101 - 50) / 128 for the k-th number, so that sums are exact. */
static inline float mlp_weight(int k) {
    return (float)(k * 37 % 101 - 50) / 128;
}

static inline void mlp(const float x[4], float y[3]) {
    float hidden[32];
    for (int i = 0; i < 32; i++) {
        hidden[i] = mlp_weight(128 + i);
        for (int k = 0; k < 4; k++) hidden[i] += x[k] * mlp_weight(k * 32 + i);
        if (hidden[i] < 0) hidden[i] = 0;
    }
    for (int i = 0; i < 3; i++) {
        y[i] = mlp_weight(256 + i);
        for (int k = 0; k < 32; k++) y[i] += hidden[k] * mlp_weight(160 + k * 3 + i);
    }
}

static inline void read_text(const char *path, char *text, size_t size) {
    FILE *file = fopen(path, "rb");
    REQUIRE(file);
    text[fread(text, 1, size - 1, file)] = 0;
    fclose(file);
}

#endif
