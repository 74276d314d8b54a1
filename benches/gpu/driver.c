/* What the driver does without Blaze: the baselines for models of CUDA kernels. gpu_driver MODE --driver PATH --ptx FILE … */
#include "cuda.h"

static void *module;

static void *function(const char *name) {
    void *found = NULL;
    DRIVER(cuModuleGetFunction, &found, module, name);
    return found;
}

static void *pinned(size_t bytes) {
    bytes = (bytes + 4095) / 4096 * 4096;
    void *memory = room(bytes);
    DRIVER(cuMemHostRegister_v2, memory, bytes, 1);
    return memory;
}

static void unpin(void *memory) {
    DRIVER(cuMemHostUnregister, memory);
    free(memory);
}

static uint64_t device_memory(size_t bytes) {
    uint64_t address = 0;
    DRIVER(cuMemAlloc_v2, &address, bytes);
    return address;
}

/* Waits as Blaze's plugin does: by asking. */
static void until_done(void *event) {
    for (;;) {
        int code = cuEventQuery(event);
        if (!code) return;
        if (code != NOT_READY) DIE("cuEventQuery: error %d", code);
    }
}

/* A place for batches: a stream, an event, memory. */
struct lane {
    void *stream, *event, *input, *output;
    uint64_t x, y;
};

static struct lane new_lane(size_t bytes_in, size_t bytes_out) {
    struct lane lane = {NULL, NULL, pinned(bytes_in), pinned(bytes_out), device_memory(bytes_in), device_memory(bytes_out)};
    DRIVER(cuStreamCreate, &lane.stream, NON_BLOCKING);
    DRIVER(cuEventCreate, &lane.event, NO_TIMING);
    return lane;
}

static void free_lane(struct lane *lane) {
    DRIVER(cuStreamSynchronize, lane->stream);
    DRIVER(cuEventDestroy_v2, lane->event);
    DRIVER(cuStreamDestroy_v2, lane->stream);
    DRIVER(cuMemFree_v2, lane->x);
    DRIVER(cuMemFree_v2, lane->y);
    unpin(lane->input);
    unpin(lane->output);
}

static void launch_scale(struct lane *lane, void *scale, size_t floats) {
    unsigned count = (unsigned)floats;
    float factor = 3;
    void *arguments[] = {&lane->x, &lane->y, &count, &factor};
    DRIVER(cuLaunchKernel, scale, (count + 255) / 256, 1, 1, 256, 1, 1, 0, lane->stream, arguments, NULL);
}

static void submit_scale(struct lane *lane, void *scale, size_t floats) {
    DRIVER(cuMemcpyHtoDAsync_v2, lane->x, lane->input, floats * sizeof(float), lane->stream);
    launch_scale(lane, scale, floats);
    DRIVER(cuMemcpyDtoHAsync_v2, lane->output, lane->y, floats * sizeof(float), lane->stream);
    DRIVER(cuEventRecord, lane->event, lane->stream);
}

static void info(void) {
    char name[256] = "";
    int version = 0, count = 0, multiprocessors = 0, khz = 0;
    DRIVER(cuDeviceGetName, name, sizeof name, gpu_device);
    DRIVER(cuDriverGetVersion, &version);
    DRIVER(cuDeviceGetCount, &count);
    result_text("device", name);
    result("driver_version", version, "");
    result("devices", count, "");
    result("free", (double)device_free_bytes(), "bytes");
    /* A device that says neither has no peak to be compared with. */
    if (!cuDeviceGetAttribute(&multiprocessors, MULTIPROCESSORS, gpu_device)
        && !cuDeviceGetAttribute(&khz, CLOCK_KHZ, gpu_device) && khz > 0)
        /* 128 lanes in each multiprocessor of all devices since compute capability 8.6, and of 9.0: two operations each. */
        result("f32_peak", multiprocessors * 128.0 * 2 * khz * 1e3, "flop/s");
}

/* One small request at a time: copies both ways and one kernel; and the kernel alone. */
static void launch(void) {
    size_t rounds = number("rounds", 2000), floats = number("columns", 4);
    struct lane lane = new_lane(floats * sizeof(float), floats * sizeof(float));
    void *scale = function("scale");
    uint64_t *times = room(rounds * sizeof *times);
    for (int whole = 1; whole >= 0; whole--) {
        for (size_t i = 0; i < rounds + rounds / 10; i++) {
            uint64_t began = now_ns();
            if (whole) {
                submit_scale(&lane, scale, floats);
            } else {
                launch_scale(&lane, scale, floats);
                DRIVER(cuEventRecord, lane.event, lane.stream);
            }
            until_done(lane.event);
            if (i >= rounds / 10) times[i - rounds / 10] = now_ns() - began;
        }
        qsort(times, rounds, sizeof *times, compare_u64);
        result(whole ? "request_p50" : "kernel_p50", (double)quantile(times, rounds, 0.5), "ns");
        result(whole ? "request_p99" : "kernel_p99", (double)quantile(times, rounds, 0.99), "ns");
    }
    free(times);
    free_lane(&lane);
}

/* Ready-made batches of scale, on so many streams at a time: rows and bytes per second. */
static void batches(void) {
    size_t rows = number("rows", 64), columns = number("columns", 4), count = number("lanes", 2), rounds = number("rounds", 2000);
    struct lane *lanes = room(count * sizeof *lanes);
    void *scale = function("scale");
    for (size_t i = 0; i < count; i++) lanes[i] = new_lane(rows * columns * sizeof(float), rows * columns * sizeof(float));
    for (size_t i = 0; i < count; i++) submit_scale(&lanes[i], scale, rows * columns);
    uint64_t began = now_ns();
    for (size_t i = 0; i < rounds; i++) {
        until_done(lanes[i % count].event);
        submit_scale(&lanes[i % count], scale, rows * columns);
    }
    for (size_t i = 0; i < count; i++) until_done(lanes[i].event);
    double seconds = (double)(now_ns() - began) / 1e9;
    result("rows_per_s", (double)(rounds * rows) / seconds, "rows/s");
    result("copied", 2.0 * (double)(rounds * rows * columns * sizeof(float)) / seconds, "bytes/s");
    for (size_t i = 0; i < count; i++) free_lane(&lanes[i]);
    free(lanes);
}

/* Copies one way, as fast as they go. */
static void bandwidth(void) {
    size_t bytes = number("bytes", 64 << 20), rounds = number("rounds", 50);
    struct lane lane = new_lane(bytes, bytes);
    for (int down = 0; down < 2; down++) {
        for (int warm = 1; warm >= 0; warm--) {
            uint64_t began = now_ns();
            for (size_t i = 0; i < (warm ? 2 : rounds); i++)
                if (down) DRIVER(cuMemcpyDtoHAsync_v2, lane.output, lane.y, bytes, lane.stream);
                else DRIVER(cuMemcpyHtoDAsync_v2, lane.x, lane.input, bytes, lane.stream);
            DRIVER(cuStreamSynchronize, lane.stream);
            double seconds = (double)(now_ns() - began) / 1e9;
            if (!warm) result(down ? "from_device" : "to_device", (double)(bytes * rounds) / seconds, "bytes/s");
        }
    }
    free_lane(&lane);
}

/* Multiplies matrices that are on the device. */
static void matmul(void) {
    unsigned m = (unsigned)number("rows", 4096), n = (unsigned)number("columns", 4096), k = (unsigned)number("depth", 4096);
    size_t rounds = number("rounds", 20);
    uint64_t x = device_memory((size_t)m * k * 4), w = device_memory((size_t)k * n * 4), y = device_memory((size_t)m * n * 4);
    void *kernel = function("matmul"), *stream = NULL;
    void *arguments[] = {&x, &w, &y, &m, &n, &k};
    DRIVER(cuStreamCreate, &stream, NON_BLOCKING);
    for (int warm = 1; warm >= 0; warm--) {
        uint64_t began = now_ns();
        for (size_t i = 0; i < (warm ? 2 : rounds); i++)
            DRIVER(cuLaunchKernel, kernel, n / 64, m / 64, 1, 256, 1, 1, 0, stream, arguments, NULL);
        DRIVER(cuStreamSynchronize, stream);
        double seconds = (double)(now_ns() - began) / 1e9;
        if (!warm) result("matmul", 2.0 * m * n * k * (double)rounds / seconds, "flop/s");
    }
    DRIVER(cuStreamDestroy_v2, stream);
    DRIVER(cuMemFree_v2, x);
    DRIVER(cuMemFree_v2, w);
    DRIVER(cuMemFree_v2, y);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } modes[] = {
        {"info", info}, {"launch", launch}, {"batches", batches}, {"bandwidth", bandwidth}, {"matmul", matmul},
    };
    option_count = argc, option_values = argv;
    for (size_t i = 0; i < COUNT(modes); i++) {
        if (argc < 2 || strcmp(argv[1], modes[i].name) != 0) continue;
        open_driver(option("driver", "libcuda.so.1"), (int)number("device", 0));
        size_t bytes;
        char *ptx = read_file(needed("ptx"), &bytes);
        DRIVER(cuModuleLoadDataEx, &module, ptx, 0, NULL, NULL);
        modes[i].run();
        DRIVER(cuModuleUnload, module);
        free(ptx);
        close_driver();
        return 0;
    }
    DIE("usage: gpu_driver info|launch|batches|bandwidth|matmul --ptx FILE [--driver PATH] [--device N] …");
}
