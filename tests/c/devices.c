/* Memory of devices: a backend whose "device memory" is at addresses that no host can read, so that whoever copies it without the
 * backend's help falls over. */
#include "json.h"
#include <pthread.h>

/* Beyond what any process has mapped, on x86-64 not even an address. */
#define FAR_AWAY UINT64_C(0x00f0000000000000)
#define DEVICES 2

struct block {
    char *far, *near; /* its address, and where its bytes really are */
    size_t bytes;
    int device, is_gone; /* its device was lost */
    struct block *next;
};

/* A model of it: y = factor * x + 1, with `weights` bytes in device memory, of which the first is the factor. */
struct model {
    struct backend *backend;
    float factor;
    void *weights[DEVICES];
    atomic_int runs;
};

struct prepared {
    void *scratch;
    int pinned;
};

struct backend {
    blaze_backend functions;
    const blaze_host *host;
    pthread_mutex_t lock;
    struct block *blocks; /* of devices */
    uint64_t next;
    atomic_llong device_bytes, pinned_bytes; /* allocated and not freed */
    atomic_int allocations, models, closes;
    atomic_llong room;          /* bytes that a device really has; 0: any number */
    size_t free_bytes;          /* what `report` says; 0: nothing */
    size_t scratch;             /* bytes taken by each preparation */
    const char *description;    /* NULL: the usual one */
    const char *memory;         /* "batch_memory" */
    int load_leaks, no_pinned, unaligned, twice;
    atomic_int sleeps;          /* runs last until nobody wants them */
    atomic_int running;
    atomic_int fails;           /* every run: 2: the device is lost */
    atomic_int is_lost;
    atomic_int device_runs;     /* with tensors in device memory */
};

static int is_far(const void *address) { return (uint64_t)(uintptr_t)address >= FAR_AWAY; }

/* Where the bytes of device memory really are: `bytes` from `address` on must be within one block of that device. */
static void *near_of(struct backend *own, int device, const void *address, size_t bytes) {
    char *at = (char *)(uintptr_t)address, *found = NULL;
    pthread_mutex_lock(&own->lock);
    for (struct block *block = own->blocks; block; block = block->next)
        if (at >= block->far && at + bytes <= block->far + block->bytes && block->device == device && !block->is_gone)
            found = block->near + (at - block->far);
    pthread_mutex_unlock(&own->lock);
    if (!found && bytes) FAIL("%zu bytes at %p are not device %d's", bytes, address, device);
    return found;
}

static void *allocate(void *user, blaze_memory memory, int32_t device, size_t bytes) {
    struct backend *own = user;
    CHECK(bytes > 0);
    atomic_fetch_add(&own->allocations, 1);
    if (memory == BLAZE_MEMORY_PINNED) {
        void *address = own->no_pinned ? NULL : aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (!address) return NULL;
        memset(address, 0xAB, bytes);
        atomic_fetch_add(&own->pinned_bytes, (long long)bytes);
        return address;
    }
    CHECK_INT(memory, BLAZE_MEMORY_CUDA);
    if (device < 0 || device >= DEVICES || atomic_load(&own->is_lost)) return NULL;
    long long room = atomic_load(&own->room);
    if (room && atomic_load(&own->device_bytes) + (long long)bytes > room) return NULL;
    struct block *block = malloc(sizeof *block);
    char *near = malloc(bytes);
    if (!block || !near) return free(block), free(near), NULL;
    memset(near, 0xCD, bytes);
    pthread_mutex_lock(&own->lock);
    char *far = (char *)(uintptr_t)(own->twice && own->blocks ? (uint64_t)(uintptr_t)own->blocks->far
                                                             : FAR_AWAY + own->next + (own->unaligned ? 8 : 0));
    *block = (struct block){far, near, bytes, device, 0, own->blocks};
    own->next += (bytes + 4095) / 4096 * 4096 + 4096;
    own->blocks = block;
    pthread_mutex_unlock(&own->lock);
    atomic_fetch_add(&own->device_bytes, (long long)bytes);
    return block->far;
}

static void free_memory(void *user, blaze_memory memory, int32_t device, void *address, size_t bytes) {
    struct backend *own = user;
    if (memory == BLAZE_MEMORY_PINNED) {
        atomic_fetch_sub(&own->pinned_bytes, (long long)bytes);
        free(address);
        return;
    }
    pthread_mutex_lock(&own->lock);
    struct block **at = &own->blocks;
    while (*at && !((*at)->far == (char *)address && (*at)->bytes == bytes && (*at)->device == device)) at = &(*at)->next;
    struct block *block = *at;
    if (block) *at = block->next;
    pthread_mutex_unlock(&own->lock);
    CHECK(block);
    if (!block) return;
    atomic_fetch_sub(&own->device_bytes, (long long)bytes);
    free(block->near);
    free(block);
}

static void open_backend(void *user, const blaze_host *host) { ((struct backend *)user)->host = host; }

/* As a reset of the device does: all that was in its memory is gone. */
static void come_back(struct backend *own) {
    pthread_mutex_lock(&own->lock);
    for (struct block *block = own->blocks; block; block = block->next) block->is_gone = 1;
    pthread_mutex_unlock(&own->lock);
    atomic_store(&own->is_lost, 0);
}

static double option(const char *json, const char *key, double otherwise) {
    const char *at = strstr(json, key);
    return at ? strtod(at + strlen(key), NULL) : otherwise;
}

static blaze_status load(void *user, const blaze_backend_load *load, blaze_call *call, void **out, blaze_error *err) {
    struct backend *own = user;
    const blaze_host *host = own->host;
    if (atomic_load(&own->is_lost)) come_back(own);
    struct model *model = calloc(1, sizeof *model);
    REQUIRE(model);
    CHECK(!host->take(call, BLAZE_MEMORY_HOST, 0, 64, BLAZE_PURPOSE_WEIGHTS));
    CHECK(!host->take(call, 77, 0, 64, BLAZE_PURPOSE_WEIGHTS));
    CHECK(!host->take(call, BLAZE_MEMORY_CUDA, 0, 64, 9));
    CHECK(!host->take(call, BLAZE_MEMORY_CUDA, -1, 64, BLAZE_PURPOSE_BUFFERS));
    CHECK(!host->take(call, BLAZE_MEMORY_PINNED, INT32_MIN, 64, BLAZE_PURPOSE_BUFFERS));
    CHECK(!host->take(call, BLAZE_MEMORY_CUDA, 0, SIZE_MAX, BLAZE_PURPOSE_BUFFERS));
    model->backend = own, model->factor = (float)option(load->options, "\"factor\":", 2);
    size_t bytes = (size_t)option(load->options, "\"weights\":", 4096);
    int first = (int)option(load->options, "\"device\":", 0), end = first + (int)option(load->options, "\"devices\":", 1);
    for (int device = first; device < end; device++) {
        void *weights = host->take(call, BLAZE_MEMORY_CUDA, device, bytes, BLAZE_PURPOSE_WEIGHTS);
        if (!weights) {
            if (!own->load_leaks)
                for (int other = first; other < device; other++) host->give(host, model->weights[other]);
            free(model);
            snprintf(err->message, sizeof err->message, "no room for %zu bytes on device %d", bytes, device);
            return BLAZE_STATUS_OVER_BUDGET;
        }
        model->weights[device] = weights;
        *(float *)near_of(own, device, weights, bytes) = model->factor;
    }
    atomic_fetch_add(&own->models, 1);
    *out = model;
    return BLAZE_STATUS_OK;
}

static blaze_status say(const char *text, char *buffer, size_t capacity, size_t *needed) {
    *needed = strlen(text) + 1;
    if (*needed > capacity) return BLAZE_STATUS_BUFFER_TOO_SMALL;
    memcpy(buffer, text, *needed);
    return BLAZE_STATUS_OK;
}

static blaze_status describe(void *user, void *model, char *buffer, size_t capacity, size_t *needed) {
    struct backend *own = user;
    CHECK(((struct model *)model)->backend == own);
    char text[1024];
    snprintf(text, sizeof text,
             "{\"inputs\": [{\"name\": \"x\", \"dtype\": \"f32\", \"shape\": [\"batch\", 4]}],"
             " \"outputs\": [{\"name\": \"y\", \"dtype\": \"f32\", \"shape\": [\"batch\", 4]}],"
             " \"rows_are_independent\": true, \"on_cpu\": false, \"devices\": [0, 1], \"batch_memory\": \"%s\"}",
             own->memory ? own->memory : "host");
    return say(own->description ? own->description : text, buffer, capacity, needed);
}

static void unload(void *user, void *pointer) {
    struct backend *own = user;
    struct model *model = pointer;
    for (int device = 0; device < DEVICES; device++)
        if (!own->load_leaks && model->weights[device]) own->host->give(own->host, model->weights[device]);
    free(model);
    atomic_fetch_sub(&own->models, 1);
}

static blaze_status prepare(void *user, void *model, const blaze_backend_batch *batch, blaze_call *call, void **out,
                            blaze_error *err) {
    struct backend *own = user;
    (void)model;
    struct prepared *prepared = calloc(1, sizeof *prepared);
    REQUIRE(prepared);
    prepared->pinned = own->memory && !strcmp(own->memory, "pinned");
    for (uint32_t i = 0; i < batch->inputs_count; i++)
        CHECK_INT(batch->inputs[i].memory, prepared->pinned ? BLAZE_MEMORY_PINNED : BLAZE_MEMORY_HOST);
    for (uint32_t i = 0; i < batch->outputs_count; i++)
        CHECK_INT(batch->outputs[i].memory, prepared->pinned ? BLAZE_MEMORY_PINNED : BLAZE_MEMORY_HOST);
    if (own->scratch) {
        prepared->scratch = own->host->take(call, BLAZE_MEMORY_CUDA, 0, own->scratch, BLAZE_PURPOSE_BUFFERS);
        if (!prepared->scratch) {
            free(prepared);
            snprintf(err->message, sizeof err->message, "no room for scratch");
            return BLAZE_STATUS_OUT_OF_MEMORY;
        }
        memset(near_of(own, 0, prepared->scratch, own->scratch), 1, own->scratch);
    }
    *out = prepared;
    return BLAZE_STATUS_OK;
}

static void release(void *user, void *model, void *pointer) {
    struct backend *own = user;
    struct prepared *prepared = pointer;
    (void)model;
    if (prepared->scratch) own->host->give(own->host, prepared->scratch);
    free(prepared);
}

/* What the host reads or writes of a tensor of `bytes` bytes. */
static void *reach(struct backend *own, const blaze_tensor *tensor, size_t bytes) {
    if (tensor->memory == BLAZE_MEMORY_CUDA) return near_of(own, tensor->device, tensor->data, bytes);
    CHECK(!is_far(tensor->data));
    return tensor->data;
}

static blaze_status run(void *user, void *pointer, void *prepared, const blaze_backend_run *run, blaze_call *call,
                        blaze_error *err) {
    struct backend *own = user;
    struct model *model = pointer;
    blaze_tensor x = run->inputs[0], y = run->outputs[0];
    if (x.memory == BLAZE_MEMORY_CUDA || y.memory == BLAZE_MEMORY_CUDA) {
        CHECK(!prepared);
        atomic_fetch_add(&own->device_runs, 1);
    }
    if (own->scratch && prepared) memset(near_of(own, 0, ((struct prepared *)prepared)->scratch, own->scratch), 2, own->scratch);
    atomic_fetch_add(&own->running, 1);
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (atomic_load(&own->sleeps) && !own->host->is_cancelled(call) && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    atomic_fetch_sub(&own->running, 1);
    if (atomic_load(&own->sleeps)) return BLAZE_STATUS_CANCELLED;
    if (atomic_load(&own->fails) == 2) {
        atomic_store(&own->is_lost, 1);
        return BLAZE_STATUS_DEVICE_LOST;
    }
    if (atomic_load(&own->fails)) return BLAZE_STATUS_BACKEND_FAILED;
    if (!y.data) {
        blaze_status status = own->host->output(call, 0, x.shape, x.rank, y.memory, y.device, &y.data);
        if (status) {
            snprintf(err->message, sizeof err->message, "no memory for output 0");
            return status;
        }
    }
    const float *from = reach(own, &x, x.size_bytes);
    float *to = reach(own, &y, x.size_bytes);
    if (!from || !to) return BLAZE_STATUS_INTERNAL;
    for (size_t i = 0; i < x.size_bytes / sizeof *to; i++) to[i] = model->factor * from[i] + 1;
    atomic_fetch_add(&model->runs, 1);
    return BLAZE_STATUS_OK;
}

static blaze_status report(void *user, char *buffer, size_t capacity, size_t *needed) {
    struct backend *own = user;
    char text[512];
    snprintf(text, sizeof text,
             "{\"devices\": [{\"device\": 0, \"name\": \"table\", \"state\": \"ready\","
             " \"memory\": {\"total_bytes\": 1000000000, \"free_bytes\": %zu}}]}",
             own->free_bytes);
    return say(own->free_bytes ? text : "{\"devices\": []}", buffer, capacity, needed);
}

static void close_backend(void *user) {
    struct backend *own = user;
    CHECK_INT(atomic_load(&own->models), 0);
    CHECK_INT(atomic_load(&own->device_bytes), 0);
    CHECK_INT(atomic_load(&own->pinned_bytes), 0);
    atomic_fetch_add(&own->closes, 1);
}

static void make(struct backend *own) {
    *own = (struct backend){.functions = BLAZE_BACKEND_INIT, .lock = PTHREAD_MUTEX_INITIALIZER};
    own->functions.name = "far", own->functions.user = own;
    own->functions.open = open_backend, own->functions.close = close_backend;
    own->functions.load = load, own->functions.describe = describe, own->functions.unload = unload;
    own->functions.prepare = prepare, own->functions.release = release, own->functions.run = run;
    own->functions.allocate = allocate, own->functions.free = free_memory, own->functions.report = report;
}

#define MODEL(name, more) "{\"name\": \"" name "\", \"backend\": \"far\"" more "}"

static struct rig rig_of(struct backend *own, const char *engine) {
    struct rig rig = {new_engine(engine), NULL, 0};
    rig.queue = new_queue(rig.engine, 1024);
    blaze_error error = {.status = 0};
    if (blaze_backend_register(rig.engine, &own->functions, &error)) FAIL("register: %s", error.message);
    REQUIRE(own->host);
    return rig;
}

static void is_closed(struct rig *rig, struct backend *own) {
    CHECK_INT(atomic_load(&own->closes), 0);
    rig_down(rig);
    CHECK_INT(atomic_load(&own->closes), 1);
}

static long long device_number(blaze_engine *engine, int device, const char *key) {
    char path[64];
    snprintf(path, sizeof path, "memory.devices[name=far:%d].%s", device, key);
    return (long long)json_number(health_text(engine), path);
}

static void unload_model(struct rig *rig, blaze_model model) {
    CHECK_STATUS(blaze_model_unload(rig->engine, model, NULL, NULL), OK);
}

/* A model's or the engine's own number in the metrics, as a line of text. */
static void has_metric(blaze_engine *engine, const char *line) {
    static char text[262144];
    CHECK_STATUS(blaze_metrics_text(engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK);
    if (!strstr(text, line)) FAIL("there is no line \"%s\"", line);
}

/* Budgets and eviction ------------------------------------------------------------------------------------------- */

static void what_models_take_is_counted_and_given_back(void) {
    struct backend own;
    make(&own);
    own.scratch = 10000, own.free_bytes = 5000000;
    struct rig rig = rig_of(&own, "{\"threads\": 1, \"memory\": {\"devices\": {\"far:0\": 1000000}}}");
    rig.model = load_model(rig.engine, MODEL("m", ", \"options\": {\"weights\": 100000, \"devices\": 2}"));
    still_works(&rig);
    CHECK_INT(device_number(rig.engine, 0, "budget_bytes"), 1000000);
    CHECK_JSON(health_text(rig.engine), "memory.devices[name=far:1].budget_bytes", "null");
    CHECK(device_number(rig.engine, 0, "used_bytes") >= 110000);
    CHECK_INT(device_number(rig.engine, 1, "used_bytes"), 100032);
    CHECK_INT(health_number(rig.engine, "models[name=m].device_bytes.far:1"), 100032);
    CHECK(health_number(rig.engine, "models[name=m].device_bytes.far:0") >= 110000);
    has_metric(rig.engine, "blaze_device_memory_bytes{backend=\"far\",device=\"1\",kind=\"used\"} 100032\n");
    has_metric(rig.engine, "blaze_device_memory_bytes{backend=\"far\",device=\"0\",kind=\"budget\"} 1000000\n");
    has_metric(rig.engine, "blaze_device_memory_bytes{backend=\"far\",device=\"0\",kind=\"pooled\"} 0\n");
    has_metric(rig.engine, "blaze_device_memory_bytes{backend=\"far\",device=\"0\",kind=\"free\"} 5000000\n");
    CHECK_INT(atomic_load(&own.device_bytes),
              device_number(rig.engine, 0, "used_bytes") + device_number(rig.engine, 1, "used_bytes"));
    unload_model(&rig, rig.model);
    CHECK_INT(device_number(rig.engine, 0, "used_bytes"), 0);
    CHECK_INT(device_number(rig.engine, 1, "used_bytes"), 0);
    CHECK_INT(atomic_load(&own.device_bytes), 0);
    is_closed(&rig, &own);
}

static void the_usual_budget_is_nine_tenths_of_what_is_free(void) {
    struct backend own;
    make(&own);
    own.free_bytes = 1000010;
    struct rig rig = rig_of(&own, "{\"memory\": {\"devices\": {\"other:0\": 5, \"far:1\": 4096}}}");
    rig.model = load_model(rig.engine, MODEL("m", ", \"options\": {\"weights\": 4096, \"devices\": 2}"));
    CHECK_INT(device_number(rig.engine, 0, "budget_bytes"), 900009);
    CHECK_INT(device_number(rig.engine, 1, "budget_bytes"), 4096);
    blaze_error error = {.status = 0};
    blaze_model model = 0;
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL("large", ", \"options\": {\"weights\": 900010}"), &model, &error),
                 OVER_BUDGET);
    CHECK_TEXT(error.message, "no room for 900010 bytes on device 0");
    CHECK(is_resident(rig.engine, "m")); /* nobody goes for what can never fit */
    is_closed(&rig, &own);
}

#define ON_0 ", \"options\": {\"weights\": 100000}, \"batching\": {\"max_rows\": 1}"
#define ON_1 ", \"options\": {\"weights\": 100000, \"device\": 1}, \"batching\": {\"max_rows\": 1}"

static void infer_simple(struct rig *rig, blaze_model model) {
    rig->model = model;
    still_works(rig);
}

/* How many of these models, of one letter each, are in memory. */
static int resident_of(blaze_engine *engine, const char *names) {
    int count = 0;
    for (; *names; names++) count += is_resident(engine, (char[]){*names, 0});
    return count;
}

/* A model that has nothing to do leaves the device for another, and comes back. */
static void models_leave(const char *engine) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, engine);
    blaze_model a = load_model(rig.engine, MODEL("a", ON_0)), b = load_model(rig.engine, MODEL("b", ON_0));
    blaze_model elsewhere = load_model(rig.engine, MODEL("elsewhere", ON_1));
    blaze_model host = load_mock(rig.engine, "host", "\"memory_bytes\": 1000000", "");
    infer_simple(&rig, elsewhere);
    infer_simple(&rig, host);
    infer_simple(&rig, b);
    infer_simple(&rig, a);
    blaze_model c = load_model(rig.engine, MODEL("c", ON_0));
    /* Which one depends on what its load took. */
    const char *gone = is_resident(rig.engine, "a") ? "b" : "a";
    char path[64];
    snprintf(path, sizeof path, "models[name=%s].memory.evicted_because", gone);
    CHECK_TEXT(residence(rig.engine, gone), "evicted");
    CHECK_JSON(health_text(rig.engine), path, "room for c:1 on far:0");
    CHECK_INT(resident_of(rig.engine, "abc"), 2);
    CHECK(is_resident(rig.engine, "elsewhere") && is_resident(rig.engine, "host"));
    CHECK(device_number(rig.engine, 0, "used_bytes") <= 250000);
    infer_simple(&rig, c);
    infer_simple(&rig, *gone == 'a' ? a : b); /* it is back, and another has gone */
    CHECK(is_resident(rig.engine, gone));
    CHECK_INT(resident_of(rig.engine, "abc"), 2);
    CHECK(is_resident(rig.engine, "elsewhere") && is_resident(rig.engine, "host"));
    infer_simple(&rig, a);
    infer_simple(&rig, elsewhere);
    CHECK_INT(atomic_load(&own.models), 3);
    is_closed(&rig, &own);
}

static void models_leave_a_device_for_others(void) {
    models_leave("{\"memory\": {\"devices\": {\"far:0\": 250000, \"far:1\": 250000}}}");
    models_leave("{\"threads\": 0, \"memory\": {\"devices\": {\"far:0\": 250000, \"far:1\": 250000}}}");
}

/* On a device of which others have most, the budget is not what limits. */
static void models_leave_a_device_that_is_full(void) {
    struct backend own;
    make(&own);
    atomic_store(&own.room, 250000);
    struct rig rig = rig_of(&own, "{}");
    blaze_model a = load_model(rig.engine, MODEL("a", ON_0)), b = load_model(rig.engine, MODEL("b", ON_0));
    infer_simple(&rig, b);
    infer_simple(&rig, a);
    blaze_model c = load_model(rig.engine, MODEL("c", ON_0));
    CHECK_INT(resident_of(rig.engine, "abc"), 2);
    infer_simple(&rig, c);
    infer_simple(&rig, a);
    infer_simple(&rig, b);
    CHECK_INT(resident_of(rig.engine, "abc"), 2);
    is_closed(&rig, &own);
}

/* A model that always has something to do leaves in the end, and its requests wait for it. */
static void a_load_waits_for_a_model_that_is_busy(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"memory\": {\"devices\": {\"far:0\": 150000}}}");
    rig.model = load_model(rig.engine, MODEL("busy", ON_0));
    still_works(&rig);
    blaze_ticket load = 0;
    CHECK_STATUS(blaze_model_load_async(rig.engine, MODEL("next", ON_0), rig.queue, 77, &load, NULL), OK);
    unsigned answers = 0, loaded = 0;
    uint64_t until = blaze_now_ns() + PATIENCE;
    for (unsigned i = 0; i < 4; i++) submit_simple(&rig, i);
    while (answers < 50 || !loaded) {
        if (blaze_now_ns() > until) break;
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        if (event.ticket == load) {
            loaded = 1;
        } else {
            CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            answers++;
            if (!loaded || answers + 4 <= 50) submit_simple(&rig, answers);
        }
        blaze_event_release(&event);
    }
    CHECK(loaded && answers >= 50);
    is_closed(&rig, &own);
}

/* What has no room fails with a reason, and leaves nothing. */
static void what_finds_no_room_says_so(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"memory\": {\"devices\": {\"far:0\": 250000, \"far:1\": 50000}}}");
    blaze_model host = load_mock(rig.engine, "host", "\"memory_bytes\": 1000000", "");
    load_model(rig.engine, MODEL("pinned", ON_0 ", \"pinned\": true"));
    blaze_model a = load_model(rig.engine, MODEL("a", ON_0));
    infer_simple(&rig, host);
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL("two", ", \"options\": {\"weights\": 200000}"), &model, &error), OVER_BUDGET);
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL("two", ", \"options\": {\"weights\": 100000, \"devices\": 2}"), &model,
                                  &error),
                 OVER_BUDGET);
    CHECK_TEXT(error.message, "on device 1");
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL("two", ", \"options\": {\"device\": 7}"), &model, &error), OVER_BUDGET);
    CHECK(is_resident(rig.engine, "host") && is_resident(rig.engine, "pinned"));
    CHECK_INT(model, 0);
    infer_simple(&rig, a);
    own.twice = 1; /* an address that is in use */
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL("two", ", \"options\": {\"weights\": 64}"), &model, &error), OVER_BUDGET);
    own.twice = 0, own.unaligned = 1;
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL("two", ", \"options\": {\"weights\": 64}"), &model, &error), OVER_BUDGET);
    own.unaligned = 0;
    infer_simple(&rig, load_model(rig.engine, MODEL("two", ", \"options\": {\"weights\": 64}")));
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    is_closed(&rig, &own);
}

/* What nobody gives back is taken when the backend is closed. */
static void what_is_not_given_back_does_not_leak(void) {
    struct backend own;
    make(&own);
    own.load_leaks = 1;
    struct rig rig = rig_of(&own, "{\"memory\": {\"devices\": {\"far:0\": 250000}}}");
    rig.model = load_model(rig.engine, MODEL("m", ON_0));
    own.host->give(own.host, NULL);
    own.host->give(own.host, &own);
    own.host->give(NULL, &own);
    CHECK(!own.host->take(NULL, BLAZE_MEMORY_CUDA, 0, 64, BLAZE_PURPOSE_WEIGHTS));
    unload_model(&rig, rig.model);
    CHECK_INT(device_number(rig.engine, 0, "used_bytes"), 100032);
    is_closed(&rig, &own);
    CHECK_INT(atomic_load(&own.device_bytes), 0);
}

/* Buffers ----------------------------------------------------------------------------------------------------------- */

/* What preparations take is used again by the next ones. */
static void buffers_are_used_again(void) {
    struct backend own;
    make(&own);
    own.scratch = 50000;
    struct rig rig = rig_of(&own, "{\"memory\": {\"idle_ms\": 3600000, \"devices\": {\"far:0\": 1000000}}}");
    rig.model = load_model(rig.engine, MODEL("m", ", \"options\": {\"weights\": 4096}, \"batching\": {\"max_rows\": 1}"));
    still_works(&rig);
    int before = 0;
    for (int64_t columns = 0; columns < 6; columns++) {
        blaze_model other = load_model(rig.engine, MODEL("other", ", \"options\": {\"weights\": 4096}"));
        infer_simple(&rig, other);
        int allocations = atomic_load(&own.allocations);
        struct call call;
        for (int i = 0; i < 50; i++) {
            blaze_event event = BLAZE_EVENT_INIT;
            CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, other), PATIENCE, &event, NULL), OK);
            blaze_event_release(&event);
        }
        CHECK(atomic_load(&own.allocations) <= allocations + 2);
        before = allocations;
        unload_model(&rig, other);
    }
    CHECK(before > 0);
    is_closed(&rig, &own);
}

/* Idle buffers go before a model does. */
static void idle_buffers_make_room(void) {
    struct backend own;
    make(&own);
    own.scratch = 60000;
    struct rig rig = rig_of(&own, "{\"memory\": {\"idle_ms\": 3600000, \"devices\": {\"far:0\": 250000}}}");
    blaze_model a = load_model(rig.engine, MODEL("a", ON_0));
    infer_simple(&rig, a);
    own.scratch = 0;
    blaze_model b = load_model(rig.engine, MODEL("b", ON_0)); /* with the scratch of a's batches there would be no room */
    CHECK(is_resident(rig.engine, "a"));
    infer_simple(&rig, b);
    infer_simple(&rig, a);
    CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    is_closed(&rig, &own);
}

/* A run that finds no room for its scratch fails, and the next one does not. */
static void a_run_without_room_fails(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"memory\": {\"devices\": {\"far:0\": 120000}}}");
    rig.model = load_model(rig.engine, MODEL("m", ON_0 ", \"warmup\": false"));
    own.scratch = 60000;
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, &error), OUT_OF_MEMORY);
    CHECK_TEXT(error.message, "no room for scratch");
    own.scratch = 1000;
    still_works(&rig);
    is_closed(&rig, &own);
}

/* Pinned memory: of the host, counted there, and requests' rows are written straight to it. */
static void batches_are_in_pinned_memory(void) {
    struct backend own;
    make(&own);
    own.memory = "pinned";
    struct rig rig = rig_of(&own, "{\"threads\": 1, \"memory\": {\"budget_bytes\": 10000000}}");
    rig.model = load_model(rig.engine, MODEL("m", ", \"batching\": {\"max_rows\": 16}"));
    for (uint64_t i = 0; i < 300; i++) submit_simple(&rig, i);
    for (int i = 0; i < 300; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    CHECK(atomic_load(&own.pinned_bytes) > 0);
    CHECK(health_number(rig.engine, "memory.buffers_bytes") >= atomic_load(&own.pinned_bytes));
    blaze_event kept = BLAZE_EVENT_INIT; /* its output is in pinned memory, and outlives the model */
    struct call call;
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &kept, NULL), OK);
    unload_model(&rig, rig.model);
    CHECK_FLOATS(floats(&kept, 0), 3, 5, 7, 9);
    CHECK(atomic_load(&own.pinned_bytes) > 0);
    rig_down(&rig);
    CHECK_FLOATS(floats(&kept, 0), 3, 5, 7, 9);
    CHECK_INT(atomic_load(&own.closes), 0); /* the event has some of its memory */
    blaze_event_release(&kept);
    CHECK_INT(atomic_load(&own.closes), 1);
    CHECK_INT(atomic_load(&own.pinned_bytes), 0);
}

static void without_pinned_memory_there_are_no_batches(void) {
    struct backend own;
    make(&own);
    own.memory = "pinned";
    struct rig rig = rig_of(&own, "{}");
    rig.model = load_model(rig.engine, MODEL("m", ", \"batching\": {\"max_rows\": 1}"));
    still_works(&rig);
    unload_model(&rig, rig.model);
    own.no_pinned = 1;
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    rig.model = load_model(rig.engine, MODEL("m", ", \"batching\": {\"max_rows\": 1}"));
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, &error), OUT_OF_MEMORY);
    own.no_pinned = 0;
    still_works(&rig);
    is_closed(&rig, &own);
    make(&own);
    own.memory = "pinned";
    own.functions.allocate = NULL, own.functions.free = NULL;
    rig = rig_of(&own, "{}");
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL("m", ", \"options\": {\"devices\": 0}"), &model, &error), BACKEND_FAILED);
    CHECK_TEXT(error.message, "batch_memory");
    CHECK_TEXT(error.message, "allocate");
    own.memory = "somewhere";
    CHECK_STATUS(blaze_model_load(rig.engine, MODEL("m", ", \"options\": {\"devices\": 0}"), &model, &error), BACKEND_FAILED);
    CHECK_TEXT(error.message, "batch_memory");
    is_closed(&rig, &own);
}


/* What was in the memory of a device that was lost is not used again. */
static void a_lost_device_takes_its_memory_along(void) {
    struct backend own;
    make(&own);
    own.scratch = 10000;
    struct rig rig = rig_of(&own, "{\"memory\": {\"idle_ms\": 3600000}}");
    rig.model = load_model(rig.engine, MODEL("m", ON_0));
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
    blaze_event kept = BLAZE_EVENT_INIT, event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &kept, NULL), OK);
    still_works(&rig);
    atomic_store(&own.fails, 2);
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, NULL), DEVICE_LOST);
    atomic_store(&own.fails, 0);
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (strcmp(json_text(health_text(rig.engine), "models[name=m].state"), "ready") && blaze_now_ns() < until)
        sleep_ns(MILLISECOND);
    still_works(&rig);
    blaze_event_release(&kept); /* its memory is gone, and must not come again */
    for (int i = 0; i < 20; i++) {
        simple_call(&call, rig.model)->flags = i & 1 ? BLAZE_REQUEST_DEVICE_OUTPUTS : 0;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, NULL), OK);
        blaze_event_release(&event);
    }
    is_closed(&rig, &own);
}

/* Tensors in device memory ------------------------------------------------------------------------------------------ */

/* Memory that the host itself has of a device, as from cuMemAlloc; `values` NULL: nothing is there yet. */
static void *on_device(struct backend *own, int device, const float *values, size_t count) {
    void *far = allocate(own, BLAZE_MEMORY_CUDA, device, count * sizeof *values);
    REQUIRE(far);
    if (values) memcpy(near_of(own, device, far, count * sizeof *values), values, count * sizeof *values);
    return far;
}

static void off_device(struct backend *own, int device, void *far, size_t count) {
    free_memory(own, BLAZE_MEMORY_CUDA, device, far, count * sizeof(float));
}

/* A request of [rows, 4] whose input is there, and perhaps one output buffer. */
struct far_call {
    struct call call;
    blaze_tensor output;
};

static blaze_request *far_call(struct far_call *far, blaze_model model, void *input, int device, int64_t rows) {
    blaze_request *request = call_with(&far->call, model, input, rows, 4);
    far->call.input.memory = BLAZE_MEMORY_CUDA, far->call.input.device = device;
    request->flags = BLAZE_REQUEST_BORROW;
    return request;
}

static blaze_request *give_output(struct far_call *far, void *data, size_t bytes, blaze_memory memory, int device) {
    far->output = (blaze_tensor)BLAZE_TENSOR_INIT;
    far->output.dtype = BLAZE_DTYPE_F32, far->output.data = data, far->output.size_bytes = bytes;
    far->output.memory = memory, far->output.device = device;
    far->call.request.outputs = &far->output, far->call.request.outputs_count = 1;
    return &far->call.request;
}

static blaze_event answer(struct rig *rig, const blaze_request *request, int infer) {
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    if (!infer) {
        submit(rig, request);
        return next_event(rig->queue);
    }
    if (blaze_infer(rig->engine, request, PATIENCE, &event, &error)) FAIL("infer: %s", error.message);
    return event;
}

#define FAR_MODEL "\"options\": {\"weights\": 64, \"devices\": 2}"

static void tensors_of(const char *engine) {
    static const float eight[] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, engine);
    rig.model = load_model(rig.engine, MODEL("m", ", " FAR_MODEL ", \"batching\": {\"max_rows\": 16}"));
    for (int way = 0; way < 16; way++) {
        int device = way & 1, infer = way & 2, wants = way >> 2; /* host, own buffer, the engine's, a host buffer */
        int runs = atomic_load(&own.device_runs);
        void *x = on_device(&own, device, eight, 8), *y = on_device(&own, device, NULL, 16);
        float host[8] = {0};
        struct far_call far;
        blaze_request *request = far_call(&far, rig.model, x, device, 2);
        if (wants == 1) give_output(&far, y, 16 * sizeof(float), BLAZE_MEMORY_CUDA, device);
        if (wants == 2) request->flags |= BLAZE_REQUEST_DEVICE_OUTPUTS;
        if (wants == 3) give_output(&far, host, sizeof host, BLAZE_MEMORY_PINNED, device), request->flags |= 2;
        blaze_event event = answer(&rig, request, infer);
        CHECK_STATUS(event.status, OK);
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        CHECK_INT(event.timing.batch_rows, 2);
        blaze_tensor view = BLAZE_TENSOR_INIT;
        CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
        CHECK_INT(view.rank, 2);
        CHECK_INT(view.shape[0], 2);
        CHECK_INT(view.shape[1], 4);
        CHECK_INT(view.size_bytes, sizeof eight);
        int far_away = wants == 1 || wants == 2;
        CHECK_INT(view.memory, far_away ? BLAZE_MEMORY_CUDA : BLAZE_MEMORY_HOST);
        CHECK_INT(view.device, far_away ? device : 0);
        CHECK_INT(is_far(view.data), far_away);
        if (wants == 1) CHECK(view.data == y);
        if (wants == 3) CHECK(view.data == host);
        const float *values = far_away ? near_of(&own, device, view.data, view.size_bytes) : view.data;
        CHECK_FLOATS(values, 3, 5, 7, 9, 11, 13, 15, 17);
        CHECK_INT(atomic_load(&own.device_runs), runs + 1);
        blaze_event_release(&event);
        off_device(&own, device, x, 8);
        off_device(&own, device, y, 16);
    }
    still_works(&rig);
    is_closed(&rig, &own);
}

static void tensors_may_be_in_device_memory(void) {
    tensors_of("{\"threads\": 2}");
    tensors_of("{}");
    tensors_of("{\"threads\": 0}");
}

/* Of a request on the host, only the outputs are on a device. */
static void outputs_alone_may_be_in_device_memory(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"memory\": {\"idle_ms\": 3600000}}");
    rig.model = load_model(rig.engine, MODEL("m", ", " FAR_MODEL));
    void *y = on_device(&own, 1, NULL, 4);
    for (int way = 0; way < 8; way++) {
        int buffer = way & 1, infer = way & 2;
        struct far_call far;
        blaze_request *request = simple_call(&far.call, rig.model);
        request->flags = (way & 4 ? BLAZE_REQUEST_BORROW : 0) | (buffer ? 0 : BLAZE_REQUEST_DEVICE_OUTPUTS);
        if (buffer) give_output(&far, y, 4 * sizeof(float), BLAZE_MEMORY_CUDA, 1);
        blaze_event event = answer(&rig, request, infer);
        CHECK_STATUS(event.status, OK);
        blaze_tensor view = BLAZE_TENSOR_INIT;
        CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
        CHECK_INT(view.memory, BLAZE_MEMORY_CUDA);
        CHECK_INT(view.device, buffer); /* or else the model's first */
        CHECK_FLOATS(near_of(&own, view.device, view.data, view.size_bytes), 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    off_device(&own, 1, y, 4);
    CHECK(device_number(rig.engine, 0, "pooled_bytes") > 0); /* the outputs', for the next ones */
    CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    is_closed(&rig, &own);
}

/* What nobody uses is given back when the engine rests. */
static void memory_goes_back_to_the_device(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"memory\": {\"idle_ms\": 1}}");
    rig.model = load_model(rig.engine, MODEL("m", ", " FAR_MODEL));
    long long before = atomic_load(&own.device_bytes);
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
    blaze_event event = answer(&rig, &call.request, 0);
    CHECK(atomic_load(&own.device_bytes) > before);
    blaze_event_release(&event);
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (atomic_load(&own.device_bytes) > before && blaze_now_ns() < until) {
        still_works(&rig); /* whoever rests has been at work before */
        sleep_ns(20 * MILLISECOND);
    }
    CHECK_INT(atomic_load(&own.device_bytes), before);
    is_closed(&rig, &own);
}

/* An output that is not released is there, whatever becomes of the model and the engine. */
static void outputs_outlive_their_engine(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}");
    rig.model = load_model(rig.engine, MODEL("m", ", " FAR_MODEL));
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
    blaze_event event = answer(&rig, &call.request, 1);
    blaze_tensor view = BLAZE_TENSOR_INIT;
    CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
    unload_model(&rig, rig.model);
    CHECK_FLOATS(near_of(&own, 0, view.data, view.size_bytes), 3, 5, 7, 9);
    rig_down(&rig);
    CHECK_INT(atomic_load(&own.closes), 0);
    CHECK_FLOATS(near_of(&own, 0, view.data, view.size_bytes), 3, 5, 7, 9);
    blaze_event_release(&event);
    CHECK_INT(atomic_load(&own.closes), 1);
    CHECK_INT(atomic_load(&own.device_bytes), 0);
}

/* Pinned memory is the host's, for any model. */
static void tensors_may_be_in_pinned_memory(void) {
    struct rig rig = rig_up("{}", "", "");
    for (int way = 0; way < 4; way++) {
        float y[4] = {0};
        struct far_call far;
        blaze_request *request = simple_call(&far.call, rig.model);
        far.call.input.memory = BLAZE_MEMORY_PINNED, far.call.input.device = 3;
        request->flags = way & 2 ? BLAZE_REQUEST_BORROW : 0;
        give_output(&far, y, sizeof y, BLAZE_MEMORY_PINNED, 3);
        blaze_event event = answer(&rig, request, way & 1);
        CHECK_STATUS(event.status, OK);
        CHECK_FLOATS(y, 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void refused(struct rig *rig, const blaze_request *request, blaze_status status, const char *text, int line) {
    for (int way = 0; way < 2; way++) {
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        blaze_status is = way ? blaze_infer(rig->engine, request, PATIENCE, &event, &error)
                              : blaze_submit(rig->engine, request, rig->queue, NULL, &error);
        if (is != status || !strstr(error.message, text))
            FAIL("line %d: %s: \"%s\", not %s with \"%s\"", line, blaze_status_name(is), error.message,
                 blaze_status_name(status), text);
    }
    no_event(rig->queue);
}
#define REFUSED(request, status, text) refused(&rig, request, BLAZE_STATUS_##status, text, __LINE__)

static void what_is_wrong_with_them_is_told(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}");
    rig.model = load_model(rig.engine, MODEL("m", ", " FAR_MODEL));
    blaze_model mock = load_mock(rig.engine, "mock", "", "");
    void *x = on_device(&own, 0, ones_to_four, 4), *y = on_device(&own, 1, NULL, 4);
    struct far_call far;
    far_call(&far, rig.model, x, 0, 1)->flags = 0;
    REFUSED(&far.call.request, INVALID_ARGUMENT, "inputs[0]: memory: in a device's memory, which takes BLAZE_REQUEST_BORROW");
    REFUSED(far_call(&far, rig.model, x, -1, 1), INVALID_ARGUMENT, "inputs[0]: device: -1");
    REFUSED(far_call(&far, rig.model, x, 2, 1), INVALID_ARGUMENT, "model \"m:1\": inputs[0].device: 2");
    REFUSED(far_call(&far, rig.model, NULL, 0, 1), NULL_POINTER, "data");
    REFUSED(far_call(&far, rig.model, (char *)x + 2, 0, 1), INVALID_ARGUMENT, "aligned");
    REFUSED(far_call(&far, rig.model, x, 0, 0), INVALID_SHAPE, "axis");
    far_call(&far, rig.model, x, 0, 1), far.call.input.size_bytes = 12;
    REFUSED(&far.call.request, INVALID_SIZE, "12 bytes");
    far_call(&far, rig.model, x, 0, 1), far.call.input.memory = 3;
    REFUSED(&far.call.request, UNSUPPORTED, "memory: 3");
    far_call(&far, rig.model, x, 0, 1), far.call.input.dtype = BLAZE_DTYPE_STRING;
    REFUSED(&far.call.request, UNSUPPORTED, "strings");
    far_call(&far, rig.model, x, 0, 1), far.call.input.size_bytes = SIZE_MAX;
    REFUSED(&far.call.request, INVALID_SIZE, "size_bytes");
    far_call(&far, rig.model, x, 0, 1);
    REFUSED(give_output(&far, y, 16, BLAZE_MEMORY_CUDA, 1), INVALID_ARGUMENT, "outputs[0].device: 1");
    REFUSED(give_output(&far, y, 16, BLAZE_MEMORY_CUDA, 9), INVALID_ARGUMENT, "outputs[0].device: 9");
    REFUSED(give_output(&far, NULL, 16, BLAZE_MEMORY_CUDA, 0), NULL_POINTER, "outputs[0]");
    /* A model that reaches no device. */
    REFUSED(far_call(&far, mock, x, 0, 1), INVALID_ARGUMENT, "model \"mock:1\": inputs[0]");
    simple_call(&far.call, mock)->flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
    REFUSED(&far.call.request, INVALID_ARGUMENT, "model \"mock:1\": outputs");
    simple_call(&far.call, mock);
    REFUSED(give_output(&far, y, 16, BLAZE_MEMORY_CUDA, 1), INVALID_ARGUMENT, "model \"mock:1\": outputs[0]");
    /* How large an output is shows only when it is there; that is not the model's fault. */
    for (int i = 0; i < 10; i++) {
        far_call(&far, rig.model, x, 0, 1);
        submit(&rig, give_output(&far, y, 12, BLAZE_MEMORY_CUDA, 0));
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, BUFFER_TOO_SMALL);
        CHECK_TEXT(event.text, "output \"y\" has 16 bytes, the buffer given for it 12");
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        blaze_event_release(&event);
    }
    CHECK_JSON(health_text(rig.engine), "models[name=m].state", "ready");
    still_works(&rig);
    off_device(&own, 0, x, 4);
    off_device(&own, 1, y, 4);
    is_closed(&rig, &own);
}

/* A request that is given up keeps its memory until the backend has let go of it. */
static void who_is_given_up_gets_memory_back_later(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"threads\": 1}");
    rig.model = load_model(rig.engine, MODEL("m", ", " FAR_MODEL));
    for (int way = 0; way < 4; way++) {
        int expires = way & 1, lends_input = way & 2;
        void *x = on_device(&own, 0, ones_to_four, 4), *y = on_device(&own, 0, NULL, 4);
        struct far_call far;
        blaze_request *request = lends_input ? far_call(&far, rig.model, x, 0, 1) : simple_call(&far.call, rig.model);
        if (!lends_input) give_output(&far, y, 16, BLAZE_MEMORY_CUDA, 0);
        if (expires) request->deadline_ns = blaze_now_ns() + 100 * MILLISECOND;
        atomic_store(&own.sleeps, 1);
        blaze_ticket ticket = submit(&rig, request);
        if (!expires) {
            uint64_t until = blaze_now_ns() + PATIENCE;
            while (!atomic_load(&own.running) && blaze_now_ns() < until) sleep_ns(MILLISECOND);
            CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
        }
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.ticket, ticket);
        CHECK_INT(event.status, expires ? BLAZE_STATUS_EXPIRED : BLAZE_STATUS_CANCELLED);
        int more = event.flags & BLAZE_EVENT_FLAG_MORE; /* unless it has expired before it ran */
        CHECK_INT(event.flags, more ? more : BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        CHECK(more || expires);
        blaze_event_release(&event);
        if (more) {
            event = next_event(rig.queue);
            CHECK_INT(event.kind, BLAZE_EVENT_BUFFERS_RELEASED);
            CHECK_INT(event.ticket, ticket);
            CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
            CHECK_INT(atomic_load(&own.running), 0);
            blaze_event_release(&event);
        }
        no_event(rig.queue);
        atomic_store(&own.sleeps, 0);
        off_device(&own, 0, x, 4);
        off_device(&own, 0, y, 4);
    }
    still_works(&rig);
    is_closed(&rig, &own);
}

/* Through a route, if all of its targets reach the device; such a request has one attempt. */
static void routes_take_them_too(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}");
    load_model(rig.engine, MODEL("a", ", " FAR_MODEL));
    load_model(rig.engine, MODEL("b", ", " FAR_MODEL));
    load_mock(rig.engine, "mock", "", "");
    blaze_error error = {.status = 0};
    blaze_model route = 0;
    if (blaze_route_create(rig.engine,
                           "{\"name\": \"far\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"b\"}],"
                           " \"retry\": {\"attempts\": 3, \"budget\": 1}, \"hedge\": {\"quantile\": 0.5, \"budget\": 1},"
                           " \"limits\": {\"concurrency\": 1, \"waiting\": 10}}",
                           &route, &error))
        FAIL("route: %s", error.message);
    void *x = on_device(&own, 0, ones_to_four, 4), *y = on_device(&own, 0, NULL, 4);
    struct far_call far;
    for (int way = 0; way < 8; way++) {
        blaze_request *request = far_call(&far, route, x, 0, 1);
        if (way & 2) give_output(&far, y, 16, BLAZE_MEMORY_CUDA, 0);
        if (way & 4) request->flags |= BLAZE_REQUEST_DEVICE_OUTPUTS;
        blaze_event event = answer(&rig, request, way & 1);
        CHECK_STATUS(event.status, OK);
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        blaze_tensor view = BLAZE_TENSOR_INIT;
        CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
        CHECK_INT(view.memory, way & 6 ? BLAZE_MEMORY_CUDA : BLAZE_MEMORY_HOST);
        const float *values = way & 6 ? near_of(&own, 0, view.data, view.size_bytes) : view.data;
        CHECK_FLOATS(values, 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    int runs = atomic_load(&own.device_runs);
    atomic_store(&own.fails, 1);
    submit(&rig, far_call(&far, route, x, 0, 1));
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, BACKEND_FAILED);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
    CHECK_INT(atomic_load(&own.device_runs), runs + 1);
    blaze_event_release(&event);
    atomic_store(&own.fails, 0);
    /* Given up while it runs. */
    atomic_store(&own.sleeps, 1);
    blaze_ticket ticket = submit(&rig, far_call(&far, route, x, 0, 1));
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (!atomic_load(&own.running) && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    REFUSED(far_call(&far, route, x, 0, 1), OVER_QUOTA, "do not wait");
    blaze_ticket waits = submit(&rig, simple_call(&far.call, route));
    CHECK_STATUS(blaze_cancel(rig.engine, waits), OK);
    EXPECT_EVENT(rig.queue, waits, CANCELLED);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    event = next_event(rig.queue);
    CHECK_STATUS(event.status, CANCELLED);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_MORE);
    blaze_event_release(&event);
    event = next_event(rig.queue);
    CHECK_INT(event.kind, BLAZE_EVENT_BUFFERS_RELEASED);
    blaze_event_release(&event);
    atomic_store(&own.sleeps, 0);
    if (blaze_route_create(rig.engine, "{\"name\": \"mixed\", \"targets\": [{\"model\": \"a\"}, {\"model\": \"mock\"}]}", &route,
                           &error))
        FAIL("route: %s", error.message);
    REFUSED(far_call(&far, route, x, 0, 1), INVALID_ARGUMENT, "route \"mixed\"");
    REFUSED(far_call(&far, route, x, 0, 1), INVALID_ARGUMENT, "model \"mock:1\": inputs[0]");
    off_device(&own, 0, x, 4);
    off_device(&own, 0, y, 4);
    is_closed(&rig, &own);
}

/* Outputs that the device has no room for fail their request. */
static void outputs_keep_to_the_budget(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"memory\": {\"devices\": {\"far:0\": 8192}}}");
    rig.model = load_model(rig.engine, MODEL("m", ", \"options\": {\"weights\": 4096}"));
    float many[2048] = {0};
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    call_with(&call, rig.model, many, 512, 4)->flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), OVER_BUDGET);
    CHECK_TEXT(error.message, "no memory for output 0");
    call_with(&call, rig.model, ones_to_four, 1, 4)->flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
    blaze_event_release((event = answer(&rig, &call.request, 1), &event));
    is_closed(&rig, &own);
}

/* Stepwise ---------------------------------------------------------------------------------------------------------- */

struct sequence {
    blaze_call *call;
    void *scratch, *late;
    float x[4];
};

static blaze_status begin(void *user, void *model, const blaze_backend_run *run, blaze_call *call, void **state,
                          blaze_error *err) {
    struct backend *own = user;
    (void)model, (void)err;
    struct sequence *sequence = calloc(1, sizeof *sequence);
    REQUIRE(sequence);
    sequence->call = call;
    sequence->scratch = own->host->take(call, BLAZE_MEMORY_CUDA, 0, 4096, BLAZE_PURPOSE_BUFFERS);
    CHECK(sequence->scratch);
    memcpy(sequence->x, run->inputs[0].data, sizeof sequence->x);
    *state = sequence;
    return BLAZE_STATUS_OK;
}

static blaze_status step(void *user, void *model, void *const *states, uint32_t count, blaze_error *err) {
    struct backend *own = user;
    (void)model, (void)err;
    for (uint32_t i = 0; i < count; i++) {
        struct sequence *sequence = states[i];
        if (!sequence->late) {
            sequence->late = own->host->take(sequence->call, BLAZE_MEMORY_CUDA, 0, 8192, BLAZE_PURPOSE_BUFFERS);
            CHECK(sequence->late);
            continue;
        }
        void *y = NULL;
        CHECK_STATUS(own->host->output(sequence->call, 0, (int64_t[]){1, 4}, 2, BLAZE_MEMORY_CUDA, 0, &y), INVALID_ARGUMENT);
        CHECK_STATUS(own->host->output(sequence->call, 0, (int64_t[]){1, 4}, 2, BLAZE_MEMORY_HOST, 0, &y), OK);
        for (int at = 0; at < 4; at++) ((float *)y)[at] = 2 * sequence->x[at] + 1;
        own->host->finish(sequence->call, BLAZE_STATUS_OK, NULL);
    }
    return BLAZE_STATUS_OK;
}

static void end(void *user, void *model, void *state) {
    struct backend *own = user;
    struct sequence *sequence = state;
    (void)model;
    own->host->give(own->host, sequence->scratch);
    if (sequence->late) own->host->give(own->host, sequence->late);
    free(sequence);
}

/* Requests that advance by steps take memory as others do. */
static void stepwise_requests_take_memory_too(void) {
    struct backend own;
    make(&own);
    own.functions.begin = begin, own.functions.step = step, own.functions.end = end;
    own.functions.prepare = NULL, own.functions.release = NULL;
    struct rig rig = rig_of(&own, "{\"memory\": {\"devices\": {\"far:0\": 1000000}}}");
    rig.model = load_model(rig.engine, MODEL("m", ", " FAR_MODEL ", \"batching\": {\"max_rows\": 4}"));
    for (uint64_t i = 0; i < 20; i++) submit_simple(&rig, i);
    for (int i = 0; i < 20; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        blaze_event_release(&event);
    }
    unload_model(&rig, rig.model);
    CHECK_INT(device_number(rig.engine, 0, "used_bytes"), 0);
    is_closed(&rig, &own);
}

/* All at once ------------------------------------------------------------------------------------------------------- */

struct crowd {
    struct rig *rig;
    struct backend *own;
    blaze_model models[3];
    unsigned seed;
};

static void *one_of_a_crowd(void *pointer) {
    struct crowd *crowd = pointer;
    struct backend *own = crowd->own;
    for (int i = 0; i < 150; i++) {
        crowd->seed = crowd->seed * 1103515245 + 12345;
        unsigned random = crowd->seed >> 16;
        int device = random & 1, wants = random >> 1 & 3, is_near = random >> 3 & 1;
        void *x = on_device(own, device, ones_to_four, 4), *y = on_device(own, device, NULL, 4);
        struct far_call far;
        blaze_model model = crowd->models[random >> 4 & 1 ? 0 : 1 + (random >> 5 & 1)];
        blaze_request *request = is_near ? simple_call(&far.call, model) : far_call(&far, model, x, device, 1);
        if (wants == 1) give_output(&far, y, 16, BLAZE_MEMORY_CUDA, device);
        if (wants == 2) request->flags |= BLAZE_REQUEST_DEVICE_OUTPUTS;
        if (wants == 3) request->deadline_ns = blaze_now_ns() + MILLISECOND;
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_infer(crowd->rig->engine, request, PATIENCE, &event, &error);
        if (status == BLAZE_STATUS_OK) {
            blaze_tensor view = BLAZE_TENSOR_INIT;
            CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
            int far_away = view.memory == BLAZE_MEMORY_CUDA;
            CHECK_INT(far_away, wants == 1 || wants == 2);
            CHECK_FLOATS(far_away ? near_of(own, view.device, view.data, 16) : (float *)view.data, 3, 5, 7, 9);
        } else if (!(wants == 3 && status == BLAZE_STATUS_EXPIRED)) {
            FAIL("%s: %s", blaze_status_name(status), error.message);
        }
        blaze_event_release(&event);
        off_device(own, device, x, 4);
        off_device(own, device, y, 4);
    }
    return NULL;
}

/* Requests of all kinds from several threads, to models that do not all fit at once. */
static void all_of_it_at_once(void) {
    struct backend own;
    make(&own);
    own.memory = "pinned", own.scratch = 2000;
    struct rig rig = rig_of(&own, "{\"threads\": 2, \"memory\": {\"devices\": {\"far:0\": 250000, \"far:1\": 250000}}}");
#define CROWDED ", \"lanes\": 2, \"options\": {\"weights\": 90000, \"devices\": 2}, \"batching\": {\"max_rows\": 8}"
    blaze_model models[] = {load_model(rig.engine, MODEL("a", CROWDED)), load_model(rig.engine, MODEL("b", CROWDED)),
                            load_model(rig.engine, MODEL("c", CROWDED))};
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    struct crowd crowds[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        crowds[i] = (struct crowd){&rig, &own, {models[0], models[1], models[2]}, i + 1};
        REQUIRE(pthread_create(&threads[i], NULL, one_of_a_crowd, &crowds[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK(health_number(rig.engine, "memory.evictions") > 0);
    for (int i = 0; i < 3; i++) infer_simple(&rig, models[i]);
    for (int i = 0; i < 3; i++) unload_model(&rig, models[i]);
    CHECK_INT(atomic_load(&own.device_bytes), 0);
    CHECK_INT(atomic_load(&own.pinned_bytes), 0);
    is_closed(&rig, &own);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(what_models_take_is_counted_and_given_back),
        TEST(the_usual_budget_is_nine_tenths_of_what_is_free),
        TEST(models_leave_a_device_for_others),
        TEST(models_leave_a_device_that_is_full),
        TEST(a_load_waits_for_a_model_that_is_busy),
        TEST(what_finds_no_room_says_so),
        TEST(what_is_not_given_back_does_not_leak),
        TEST(buffers_are_used_again),
        TEST(idle_buffers_make_room),
        TEST(a_run_without_room_fails),
        TEST(batches_are_in_pinned_memory),
        TEST(without_pinned_memory_there_are_no_batches),
        TEST(a_lost_device_takes_its_memory_along),
        TEST(tensors_may_be_in_device_memory),
        TEST(outputs_alone_may_be_in_device_memory),
        TEST(memory_goes_back_to_the_device),
        TEST(outputs_outlive_their_engine),
        TEST(tensors_may_be_in_pinned_memory),
        TEST(what_is_wrong_with_them_is_told),
        TEST(who_is_given_up_gets_memory_back_later),
        TEST(routes_take_them_too),
        TEST(outputs_keep_to_the_budget),
        TEST(stepwise_requests_take_memory_too),
        TEST(all_of_it_at_once),
    };
    return RUN_TESTS(tests, argc, argv);
}
