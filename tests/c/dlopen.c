/* A program that is not linked to Blaze: opens it, uses it, closes it, ten times over. usage: dlopen [LIBBLAZE] */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <blaze.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Every function that is used here, as a pointer of its own type. */
static struct {
    uint32_t (*abi_version)(void);
    blaze_status (*engine_create)(const char *, blaze_engine **, blaze_error *);
    void (*engine_destroy)(blaze_engine *);
    blaze_status (*model_load)(blaze_engine *, const char *, blaze_model *, blaze_error *);
    blaze_status (*infer)(blaze_engine *, const blaze_request *, uint64_t, blaze_event *, blaze_error *);
    blaze_status (*event_output)(const blaze_event *, uint32_t, blaze_tensor *);
    void (*event_release)(blaze_event *);
    blaze_status (*queue_create)(blaze_engine *, uint32_t, blaze_queue **, blaze_error *);
    blaze_status (*submit)(blaze_engine *, const blaze_request *, blaze_queue *, blaze_ticket *, blaze_error *);
} blaze;

static int failed(const char *what, const char *why) {
    printf("  %s: %s\n0 passed, 1 failed\n", what, why ? why : "");
    return 1;
}

static int find(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol); /* ISO C has no cast from data to function pointers */
    return symbol == NULL;
}

static int find_all(void *library) {
    return find(library, "blaze_abi_version", &blaze.abi_version) ||
           find(library, "blaze_engine_create", &blaze.engine_create) ||
           find(library, "blaze_engine_destroy", &blaze.engine_destroy) ||
           find(library, "blaze_model_load", &blaze.model_load) || find(library, "blaze_infer", &blaze.infer) ||
           find(library, "blaze_event_output", &blaze.event_output) ||
           find(library, "blaze_event_release", &blaze.event_release) ||
           find(library, "blaze_queue_create", &blaze.queue_create) || find(library, "blaze_submit", &blaze.submit);
}

/* A request with one row of four numbers. `input` must live as long. */
static blaze_request one_row(blaze_model model, blaze_tensor *input) {
    static const int64_t shape[] = {1, 4};
    static float data[4] = {1, 2, 3, 4};
    blaze_request request = BLAZE_REQUEST_INIT;
    input->dtype = BLAZE_DTYPE_F32;
    input->shape = shape;
    input->rank = 2;
    input->data = data;
    input->size_bytes = sizeof data;
    request.model = model;
    request.inputs = input;
    request.inputs_count = 1;
    return request;
}

static int use(const char *model_json) {
    blaze_engine *engine = NULL;
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    blaze_tensor input = BLAZE_TENSOR_INIT, output = BLAZE_TENSOR_INIT;
    blaze_event event = BLAZE_EVENT_INIT;

    if (blaze.engine_create(NULL, &engine, &error)) return failed("engine", error.message);
    if (blaze.model_load(engine, model_json, &model, &error)) return failed("model", error.message);
    blaze_request request = one_row(model, &input);
    request.deadline_ns = UINT64_MAX - 1; /* starts the thread for deadlines, too */
    if (blaze.infer(engine, &request, UINT64_MAX, &event, &error)) return failed("infer", error.message);
    if (blaze.event_output(&event, 0, &output)) return failed("output", NULL);
    if (output.size_bytes == 0 || output.data == NULL) return failed("output", "is empty");
    blaze.event_release(&event);
    blaze.engine_destroy(engine);
    return 0;
}

/* An engine that nobody destroys, with requests that run and wait. Its threads go on when the library is closed. */
static int leave_working(void) {
    static blaze_engine *engine; /* static: it is not lost, only never destroyed */
    static blaze_queue *queue;
    blaze_model model = 0;
    blaze_ticket ticket = 0;
    blaze_error error = {.status = 0};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    const char *slow = "{\"name\": \"m\", \"backend\": \"mock\", \"batching\": {\"max_rows\": 1}, \"mock\": {\"faults\": "
                       "[{\"kind\": \"slow\", \"latency_us\": 5000}]}}";
    if (blaze.engine_create(NULL, &engine, &error)) return failed("engine", error.message);
    if (blaze.queue_create(engine, 64, &queue, &error)) return failed("queue", error.message);
    if (blaze.model_load(engine, slow, &model, &error)) return failed("model", error.message);
    blaze_request request = one_row(model, &input);
    for (int i = 0; i < 32; i++)
        if (blaze.submit(engine, &request, queue, &ticket, &error)) return failed("submit", error.message);
    return 0;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "target/release/libblaze.so";
    printf("blaze_can_be_opened_used_and_closed_again_and_again\n");
    if (dlsym(RTLD_DEFAULT, "blaze_version")) return failed("this program", "is linked to Blaze, and must not be");
    for (int round = 0; round < 10; round++) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library) return failed("dlopen", dlerror());
        if (find_all(library)) return failed("dlsym", dlerror());
        if (blaze.abi_version() >> 16 != BLAZE_ABI_VERSION >> 16) return failed("abi_version", "is another");
        /* The mock first: nothing but Blaze itself is in the process then. */
        if (use("{\"name\": \"m\", \"backend\": \"mock\", \"mock\": {\"faults\": [{\"kind\": \"slow\", \"latency_us\": 1000}]}}"))
            return 1;
        if (round > 2 && use("{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}")) return 1;
        if (dlclose(library)) return failed("dlclose", dlerror());
    }
    printf("an_engine_that_still_works_survives_its_library_being_closed\n");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library || find_all(library)) return failed("dlopen", dlerror());
    if (leave_working()) return 1;
    if (dlclose(library)) return failed("dlclose", dlerror());
    const struct timespec a_while = {.tv_nsec = 50 * 1000 * 1000}; /* ten of its runs */
    nanosleep(&a_while, NULL);
    printf("2 passed, 0 failed\n");
    return 0; /* what runs at exit must not trip over a library that was closed */
}
