/* What ONNX Runtime does without Blaze: the baseline for ONNX models. It runs ready-made batches, each thread its own, one after
 * the other.  gpu_direct --library FILE --model FILE --provider cpu|cuda|tensorrt … --rows N --columns N --results N
 */
#include "gpu.h"
#include <dlfcn.h>
#include <pthread.h>

/* ONNX Runtime's functions are one table, which only ever grows at its end: these are their places. So its header is not needed. */
enum {
    GetErrorMessage = 2, CreateEnv = 3, DisableTelemetryEvents = 6, CreateSession = 7, Run = 9, CreateSessionOptions = 10,
    SetIntraOpNumThreads = 24, CreateTensorWithDataAsOrtValue = 49, CreateMemoryInfo = 68, AllocatorAlloc = 75,
    AllocatorFree = 76, ReleaseEnv = 92, ReleaseStatus = 93, ReleaseMemoryInfo = 94, ReleaseSession = 95, ReleaseValue = 96,
    ReleaseSessionOptions = 100, AddSessionConfigEntry = 130, CreateAllocator = 131, ReleaseAllocator = 132,
    AppendTensorRT = 170, CreateTensorRTOptions = 171, UpdateTensorRTOptions = 172, ReleaseTensorRTOptions = 174,
    AppendCUDA = 204, CreateCUDAOptions = 205, UpdateCUDAOptions = 206, ReleaseCUDAOptions = 208, AppendProvider = 216,
};

struct api_base {
    void *const *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
};

static void *const *api;

/* A function at a place of the table that returns a status. */
#define CALL(place, types, ...)                                                                          \
    do {                                                                                                 \
        void *call_status = ((void *(*)types)api[place])(__VA_ARGS__);                                   \
        if (call_status) DIE("%s: %s", #place, ((const char *(*)(void *))api[GetErrorMessage])(call_status)); \
    } while (0)
#define RELEASE(place, object) ((void (*)(void *))api[place])(object)

static void *environment, *session, *memory, *pinned_memory, *allocator;
static size_t rows, columns, results_columns, seconds_to_run;

static void add_provider(void *options, const char *provider) {
    static const char *const keys[] = {"device_id", "cudnn_conv_algo_search"}, *const values[] = {"0", "HEURISTIC"};
    void *own = NULL;
    if (!strcmp(provider, "cuda")) {
        CALL(CreateCUDAOptions, (void **), &own);
        CALL(UpdateCUDAOptions, (void *, const char *const *, const char *const *, size_t), own, keys, values, 2);
        CALL(AppendCUDA, (void *, void *), options, own);
        RELEASE(ReleaseCUDAOptions, own);
    } else if (!strcmp(provider, "tensorrt")) {
        CALL(CreateTensorRTOptions, (void **), &own);
        CALL(UpdateTensorRTOptions, (void *, const char *const *, const char *const *, size_t), own, keys, values, 1);
        CALL(AppendTensorRT, (void *, void *), options, own);
        RELEASE(ReleaseTensorRTOptions, own);
    } else if (strcmp(provider, "cpu") != 0) {
        CALL(AppendProvider, (void *, const char *, const char *const *, const char *const *, size_t), options, provider, NULL,
             NULL, 0);
    }
}

static float *buffer(size_t bytes) {
    void *made = NULL;
    if (!allocator) return room(bytes);
    CALL(AllocatorAlloc, (void *, size_t, void **), allocator, bytes, &made);
    memset(made, 0, bytes);
    return made;
}

struct worker {
    pthread_t thread;
    size_t runs, rows;
    uint64_t *times, began, ended;
};

static void *work(void *argument) {
    struct worker *worker = argument;
    size_t in = worker->rows * columns * sizeof(float), out = worker->rows * results_columns * sizeof(float);
    float *x = buffer(in), *y = buffer(out);
    int64_t in_shape[] = {(int64_t)worker->rows, (int64_t)columns}, out_shape[] = {(int64_t)worker->rows, (int64_t)results_columns};
    void *input = NULL, *output = NULL;
    enum { FLOAT = 1 };
#define TENSOR (void *, void *, size_t, const int64_t *, size_t, int, void **)
    CALL(CreateTensorWithDataAsOrtValue, TENSOR, memory, x, in, in_shape, 2, FLOAT, &input);
    CALL(CreateTensorWithDataAsOrtValue, TENSOR, memory, y, out, out_shape, 2, FLOAT, &output);
    const char *in_names[] = {option("input-name", "x")}, *out_names[] = {option("output-name", "y")};
    uint64_t warm = now_ns() + 300000000u, until = warm + seconds_to_run * 1000000000u;
    for (uint64_t at = now_ns(); at < until || worker->runs == 0;) {
        CALL(Run,
             (void *, void *, const char *const *, void *const *, size_t, const char *const *, size_t, void **),
             session, NULL, in_names, &input, 1, out_names, 1, &output);
        uint64_t now = now_ns();
        if (at >= warm || now >= until) {
            if (!worker->runs) worker->began = at;
            worker->times[worker->runs++ % (1 << 16)] = now - at;
            worker->ended = now;
        }
        at = now;
    }
    RELEASE(ReleaseValue, input);
    RELEASE(ReleaseValue, output);
    if (allocator) {
        CALL(AllocatorFree, (void *, void *), allocator, x);
        CALL(AllocatorFree, (void *, void *), allocator, y);
    } else {
        free(x);
        free(y);
    }
    return NULL;
}

int main(int argc, char **argv) {
    option_count = argc + 1, option_values = argv - 1; /* there is no mode */
    void *library = dlopen(needed("library"), RTLD_NOW | RTLD_GLOBAL);
    if (!library) DIE("%s", dlerror());
    struct api_base *(*base)(void) = NULL;
    *(void **)&base = dlsym(library, "OrtGetApiBase");
    api = base ? base()->get_api(24) : NULL;
    if (!api) DIE("this is no ONNX Runtime of version 1.24 or later");
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    const char *provider = option("provider", "cpu");
    rows = number("rows", 64), columns = number("columns", 64), results_columns = number("results", 8);
    seconds_to_run = number("seconds", 2);
    enum { WARNINGS = 2, DEVICE_ALLOCATOR = 0, CPU_OUTPUT = -1, DEFAULT = 0 };
    CALL(CreateEnv, (int, const char *, void **), WARNINGS, "direct", &environment);
    CALL(CreateMemoryInfo, (const char *, int, int, int, void **), "Cpu", DEVICE_ALLOCATOR, 0, DEFAULT, &memory);
    void *options = NULL;
    CALL(CreateSessionOptions, (void **), &options);
    CALL(SetIntraOpNumThreads, (void *, int), options, 1);
    CALL(AddSessionConfigEntry, (void *, const char *, const char *), options, "session.intra_op.allow_spinning", "0");
    add_provider(options, provider);
    CALL(CreateSession, (void *, const char *, void *, void **), environment, needed("model"), options, &session);
    if (!strcmp(provider, "cuda") || !strcmp(provider, "tensorrt")) {
        CALL(CreateMemoryInfo, (const char *, int, int, int, void **), "CudaPinned", DEVICE_ALLOCATOR, 0, CPU_OUTPUT, &pinned_memory);
        CALL(CreateAllocator, (void *, void *, void **), session, pinned_memory, &allocator);
    }
    size_t count = number("threads", 1), total = 0;
    struct worker *workers = room(count * sizeof *workers);
    uint64_t began = UINT64_MAX, ended = 0;
    for (size_t i = 0; i < count; i++) {
        workers[i].rows = rows;
        workers[i].times = room((1 << 16) * sizeof(uint64_t));
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) DIE("no thread");
    }
    for (size_t i = 0; i < count; i++) {
        pthread_join(workers[i].thread, NULL);
        total += workers[i].runs;
        if (workers[i].began < began) began = workers[i].began;
        if (workers[i].ended > ended) ended = workers[i].ended;
    }
    size_t kept = workers[0].runs < 1 << 16 ? workers[0].runs : 1 << 16;
    qsort(workers[0].times, kept, sizeof(uint64_t), compare_u64);
    result_text("version", base()->get_version());
    result("rows_per_s", (double)(total * rows) / ((double)(ended - began) / 1e9), "rows/s");
    result("run_p50", (double)quantile(workers[0].times, kept, 0.5), "ns");
    result("run_p99", (double)quantile(workers[0].times, kept, 0.99), "ns");
    for (size_t i = 0; i < count; i++) free(workers[i].times);
    free(workers);
    if (allocator) RELEASE(ReleaseAllocator, allocator);
    if (pinned_memory) RELEASE(ReleaseMemoryInfo, pinned_memory);
    RELEASE(ReleaseSession, session);
    RELEASE(ReleaseSessionOptions, options);
    RELEASE(ReleaseMemoryInfo, memory);
    RELEASE(ReleaseEnv, environment);
    return 0;
}
