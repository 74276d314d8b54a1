/* A small device: one core, little memory, no network, and a main loop of its own.
 *
 * usage: edge [BUDGET-BYTES [MODEL...]]   models with an input of [batch, 64] and an output of [batch, 8] floats
 *
 * What it shows:
 * - "threads": 0: the engine has no thread at all, and nothing happens between calls. The main loop gives it slices of
 *   SLICE_NS with blaze_pump, between reading sensors and moving things: loads, runs, evictions and deadlines all happen in
 *   there. A slice ends after the piece of work that was begun in it, since a run cannot be interrupted; so the longest run
 *   (which is printed) is what the loop must be able to bear.
 * - "memory": {"budget_bytes"}: models and their buffers together take no more. The device has more models than fit: one that
 *   has nothing to do leaves for one that is asked, and comes back from its file when it is asked itself, within its
 *   request's deadline. Handles stay valid, and requests are the same as always; `evictions` in the metrics counts. Small
 *   "pool_bytes" and "idle_ms" keep little for later, "histograms" and "trends" are off, which saves their memory, and
 *   "warmup": false keeps loads short.
 * - What the process takes (its resident memory, which the system counts) is printed at each stage: before there is an
 *   engine, with an idle engine, with models at work, after blaze_engine_trim, and after the end. Most of what is left at
 *   the end is ONNX Runtime's library itself, which stays mapped: a process that never loads a model never loads it.
 * - Nothing is sent anywhere: Blaze turns the telemetry of ONNX Runtime's official builds off before it loads the library.
 *   At the end the program looks at its own descriptors, and fails if one is a socket, or if a thread has been left.
 *
 * It reads /proc for that, so the figures are of Linux; elsewhere they are left out.
 */
#define _GNU_SOURCE
#include <blaze.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MODELS = 6, COLUMNS = 64, RESULTS = 8, ROUNDS = 60 };

static const uint64_t slice_ns = 1000000;     /* of each turn of the main loop, for inference */
static const uint64_t deadline_ns = 2000000000;

static void require(const char *what, blaze_status status, const char *why) {
    if (status == BLAZE_STATUS_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), why ? why : "");
    exit(1);
}

/* Resident memory in bytes; 0: not known. */
static uint64_t resident_bytes(void) {
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%*s %llu", &pages) != 1) pages = 0;
    fclose(file);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void print_memory(const char *when, blaze_engine *engine) {
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    if (engine) blaze_health(engine, &health);
    printf("%-34s resident %7.2f MB, of which models and buffers %6.2f MB\n", when, (double)resident_bytes() / 1e6,
           (double)health.memory_bytes / 1e6);
}

static int count_threads(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks) return 1;
    for (struct dirent *task; (task = readdir(tasks));) count += task->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static int count_sockets(void) {
    int count = 0;
    DIR *files = opendir("/proc/self/fd");
    if (!files) return 0;
    for (struct dirent *file; (file = readdir(files));) {
        char path[300], target[64] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%s", file->d_name);
        if (readlink(path, target, sizeof target - 1) > 0) count += strncmp(target, "socket:", 7) == 0;
    }
    closedir(files);
    return count;
}

/* Stands for what the device is for: reads its sensors. */
static void read_sensors(uint32_t turn, float *values) {
    for (int i = 0; i < COLUMNS; i++) values[i] = (float)((turn * 31 + (uint32_t)i * 17) % 100) / 100.0f;
}

/* Models of the same file share their weights, so that nothing would have to be evicted: these are copies of one that stand
 * for six different ones. */
static void copy_model(const char *from, const char *to) {
    char block[65536];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    if (!in || !out) perror(in ? to : from), exit(1);
    for (size_t size; (size = fread(block, 1, sizeof block, in)) > 0;) fwrite(block, 1, size, out);
    fclose(in);
    if (fclose(out)) perror(to), exit(1);
}

/* One question to one model; the main loop goes on in slices until its answer is there. Returns the longest slice. */
static uint64_t ask(blaze_engine *engine, blaze_queue *queue, blaze_model model, const float *values, float *answer,
                    uint32_t *turns) {
    const int64_t shape[] = {1, COLUMNS};
    blaze_error error;
    blaze_tensor input = BLAZE_TENSOR_INIT, output = BLAZE_TENSOR_INIT;
    input.dtype = output.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 2;
    input.data = (void *)(uintptr_t)values;
    input.size_bytes = COLUMNS * sizeof *values;
    output.data = answer;
    output.size_bytes = RESULTS * sizeof *answer;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = model;
    request.deadline_ns = blaze_now_ns() + deadline_ns;
    request.inputs = &input;
    request.outputs = &output;
    request.inputs_count = request.outputs_count = 1;
    require("submit", blaze_submit(engine, &request, queue, NULL, &error), error.message);

    uint64_t longest = 0;
    for (;;) {
        uint64_t started = blaze_now_ns(), took;
        require("pump", blaze_pump(engine, slice_ns, NULL), NULL);
        took = blaze_now_ns() - started;
        if (took > longest) longest = took;
        ++*turns; /* here the device would do its other work, and then sleep until its next turn */

        blaze_event event;
        if (blaze_poll(queue, &event, sizeof event, 1) == 1) {
            require("answer", event.status, event.text);
            blaze_event_release(&event); /* the output is in `answer` */
            return longest;
        }
    }
}

int main(int argc, char **argv) {
    uint64_t budget = argc > 1 ? strtoull(argv[1], NULL, 10) : 1600000;
    char path[256];
    blaze_engine *engine = NULL;
    blaze_queue *queue = NULL;
    blaze_model models[MODELS];
    blaze_error error;
    char config[1024];
    float values[COLUMNS], answer[RESULTS], first[MODELS][RESULTS];
    uint32_t turns = 0;
    uint64_t longest = 0;

    print_memory("without an engine", NULL);
    snprintf(config, sizeof config,
             "{\"threads\": 0, \"memory\": {\"budget_bytes\": %" PRIu64 ", \"pool_bytes\": 65536, \"idle_ms\": 100},"
             " \"queue\": {\"capacity\": 64}, \"metrics\": {\"histograms\": false, \"trends\": false}}", budget);
    require("engine", blaze_engine_create(config, &engine, &error), error.message);
    require("queue", blaze_queue_create(engine, 16, &queue, &error), error.message);
    print_memory("an idle engine", engine);

    for (int i = 0; i < MODELS; i++) { /* loading the third or so pushes the first one out */
        snprintf(path, sizeof path, "target/edge-%d.onnx", i);
        if (argc > 2) snprintf(path, sizeof path, "%s", argv[2 + i % (argc - 2)]);
        else copy_model("tests/models/small.onnx", path);
        snprintf(config, sizeof config,
                 "{\"name\": \"model-%d\", \"path\": \"%s\", \"warmup\": false, \"batching\": {\"max_rows\": 1}}", i,
                 path);
        require("load", blaze_model_load(engine, config, &models[i], &error), error.message);
    }
    snprintf(config, sizeof config, "%d models loaded, one after another", MODELS);
    print_memory(config, engine);

    read_sensors(0, values);
    for (int i = 0; i < MODELS; i++) {
        uint64_t slice = ask(engine, queue, models[i], values, first[i], &turns);
        if (slice > longest) longest = slice;
    }
    /* One model is asked most of the time and stays; the others come now and then. */
    for (uint32_t round = 0; round < ROUNDS; round++) {
        read_sensors(round, values);
        uint64_t slice = ask(engine, queue, models[round % 5 ? 0 : round / 5 % MODELS], values, answer, &turns);
        if (slice > longest) longest = slice;
    }
    print_memory("after the work", engine);

    /* What has come back from its file answers as it did before. */
    int same = 1;
    read_sensors(0, values);
    for (int i = 0; i < MODELS; i++) {
        ask(engine, queue, models[i], values, answer, &turns);
        same &= memcmp(answer, first[i], sizeof answer) == 0;
    }

    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    blaze_metrics(engine, &metrics);
    int within = metrics.memory_bytes <= budget;
    blaze_engine_trim(engine);
    print_memory("after a trim", engine);
    int threads = count_threads(), sockets = count_sockets();
    require("queue", blaze_queue_destroy(queue), NULL);
    blaze_engine_destroy(engine);
    print_memory("after the end", NULL);
    printf("%" PRIu64 " requests in %" PRIu32 " slices, the longest %.2f ms; %" PRIu64 " evictions; budget %.2f MB %s\n",
           metrics.requests_ok, turns, (double)longest / 1e6, metrics.evictions, (double)budget / 1e6,
           within ? "kept" : "exceeded");
    printf("%d thread%s, %d sockets; models that came back answer %s\n", threads, threads == 1 ? "" : "s", sockets,
           same ? "as before" : "DIFFERENTLY");
    return same && within && threads == 1 && sockets == 0 && metrics.evictions > 0 ? 0 : 1;
}
