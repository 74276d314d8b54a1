/* A backend in a shared object: models that multiply every element by a number, with the configuration
 *
 *     {"plugins": [{"path": "/where/it/is/libblaze_scale.so"}],
 *      "models": [{"name": "triple", "backend": "scale", "options": {"factor": 3, "columns": 4}}]}
 *
 * Build: cc -shared -fPIC plugin.c -o libblaze_scale.so. It needs the header, and does not link libblaze. A host that has
 * the functions in itself passes the same struct to blaze_backend_register. */
#define BLAZE_PLUGIN
#include "blaze.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct model {
    double factor;
    int64_t columns;
};

static blaze_status fail(blaze_error *err, blaze_status status, const char *message) {
    snprintf(err->message, sizeof err->message, "%s", message);
    return err->status = status;
}

/* A number in the options; a plugin of any size has a JSON parser for that. */
static double option(const char *json, const char *key, double otherwise) {
    const char *at = strstr(json, key);
    return at ? strtod(at + strlen(key), NULL) : otherwise;
}

static blaze_status load(void *user, const blaze_backend_load *load, blaze_call *call, void **out, blaze_error *err) {
    (void)user, (void)call;
    double columns = option(load->options, "\"columns\":", 4);
    if (!(columns >= 1 && columns <= 1e6))
        return fail(err, BLAZE_STATUS_INVALID_CONFIG, "options.columns: must be from 1 to 1000000");
    struct model *model = malloc(sizeof *model);
    if (!model) return fail(err, BLAZE_STATUS_OUT_OF_MEMORY, "no memory for the model");
    *model = (struct model){option(load->options, "\"factor\":", 1), (int64_t)columns};
    *out = model;
    return BLAZE_STATUS_OK;
}

static blaze_status describe(void *user, void *pointer, char *buffer, size_t capacity, size_t *needed) {
    (void)user;
    const struct model *model = pointer;
    int length = snprintf(buffer, capacity,
                          "{\"inputs\": [{\"name\": \"x\", \"dtype\": \"f32\", \"shape\": [\"batch\", %" PRId64 "]}], "
                          "\"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": [\"batch\", %" PRId64 "]}], "
                          "\"rows_are_independent\": true, \"memory_bytes\": %zu}",
                          model->columns, model->columns, sizeof *model);
    *needed = (size_t)length + 1;
    return *needed <= capacity ? BLAZE_STATUS_OK : BLAZE_STATUS_BUFFER_TOO_SMALL;
}

static void unload(void *user, void *model) {
    (void)user;
    free(model);
}

/* Called with what was joined of several requests, and with the memory that is to have the results. */
static blaze_status run(void *user, void *pointer, void *prepared, const blaze_backend_run *run, blaze_call *call,
                        blaze_error *err) {
    (void)prepared;
    const blaze_host *host = *(const blaze_host **)user;
    const struct model *model = pointer;
    const blaze_tensor *x = run->inputs, *y = run->outputs;
    void *results = y->data;
    if (!results) { /* its shape was not known before */
        blaze_status status = host->output(call, 0, x->shape, x->rank, BLAZE_MEMORY_HOST, 0, &results);
        if (status) return fail(err, status, "no memory for the output");
    }
    for (size_t i = 0; i < x->size_bytes / sizeof(float); i++) {
        if (i % 4096 == 0 && host->is_cancelled(call)) return fail(err, BLAZE_STATUS_CANCELLED, "nobody waits");
        ((float *)results)[i] = (float)(model->factor * ((const float *)x->data)[i]);
    }
    return BLAZE_STATUS_OK;
}

static void open_backend(void *user, const blaze_host *host) {
    *(const blaze_host **)user = host;
}

static void close_backend(void *user) {
    free(user);
}

uint32_t blaze_plugin_abi(void) {
    return BLAZE_BACKEND_ABI;
}

blaze_status blaze_plugin_open(const char *config_json, blaze_backend *backend, blaze_error *err) {
    (void)config_json;
    void *user = calloc(1, sizeof(blaze_host *)); /* what it may ask of the engine that opens it */
    if (!user) return fail(err, BLAZE_STATUS_OUT_OF_MEMORY, "no memory for the backend");
    *backend = (blaze_backend)BLAZE_BACKEND_INIT;
    backend->name = "scale", backend->user = user;
    backend->open = open_backend, backend->close = close_backend;
    backend->load = load, backend->describe = describe, backend->unload = unload, backend->run = run;
    return BLAZE_STATUS_OK;
}
