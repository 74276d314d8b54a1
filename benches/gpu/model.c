/* A model in Blaze, measured through the C ABI: its answers, its throughput, its latency, and what it leaves behind.
 * gpu_model MODE --engine JSON --model JSON --columns N --results N …; with --driver PATH also what the device has left.
 */
#include "cuda.h"
#include <blaze.h>
#include <math.h>
#include <pthread.h>

#define PATIENCE UINT64_C(120000000000)

static blaze_engine *engine;
static size_t columns, results_columns;
static int has_driver;
static double device_unused; /* before there was an engine */

static void create(void) {
    blaze_error error = {.status = 0};
    if (blaze_engine_create(option("engine", "{}"), &engine, &error)) DIE("engine: %s", error.message);
}

static blaze_model load_that(const char *config) {
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    if (blaze_model_load(engine, config, &model, &error)) DIE("model: %s", error.message);
    return model;
}

static blaze_model load(void) {
    return load_that(needed("model"));
}

/* What is said about the model: which provider really runs it, and why not another. */
static void tell_provider(blaze_model model) {
    static char text[1 << 16];
    if (blaze_model_info(engine, model, text, sizeof text, NULL)) DIE("no info");
    static const char *const keys[] = {"\"provider\":\"", "\"providers_rejected\":", "\"provider_operators\":"};
    static const char *const names[] = {"provider", "providers_rejected", "provider_operators"};
    for (size_t i = 0; i < COUNT(keys); i++) {
        char *at = strstr(text, keys[i]), value[2048];
        if (!at) continue;
        at += strlen(keys[i]);
        size_t length = i ? strcspn(at, i == 1 ? "]" : "}") + 1 : strcspn(at, "\"");
        if (length >= sizeof value) length = sizeof value - 1;
        memcpy(value, at, length);
        value[length] = 0;
        result_text(names[i], value);
    }
}

/* A request with one f32 input. Points into itself. */
struct call {
    blaze_request request;
    blaze_tensor input;
    int64_t shape[2];
};

static blaze_request *prepare(struct call *call, blaze_model model, const float *data, size_t rows) {
    *call = (struct call){BLAZE_REQUEST_INIT, BLAZE_TENSOR_INIT, {(int64_t)rows, (int64_t)columns}};
    call->input.dtype = BLAZE_DTYPE_F32;
    call->input.shape = call->shape;
    call->input.rank = 2;
    call->input.data = (void *)(uintptr_t)data;
    call->input.size_bytes = rows * columns * sizeof *data;
    call->request.model = model;
    call->request.inputs = &call->input;
    call->request.inputs_count = 1;
    return &call->request;
}

static blaze_status try_infer(blaze_model model, const float *data, size_t rows, float *answer, blaze_error *error) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_tensor view = BLAZE_TENSOR_INIT;
    *error = (blaze_error){.status = 0};
    blaze_status status = blaze_infer(engine, prepare(&call, model, data, rows), PATIENCE, &event, error);
    if (status) {
        blaze_event_release(&event);
        return status;
    }
    if (blaze_event_output(&event, 0, &view)) DIE("no output");
    if (view.size_bytes != rows * results_columns * sizeof *answer)
        DIE("the answer has %zu bytes, not %zu", view.size_bytes, rows * results_columns * sizeof *answer);
    if (answer) memcpy(answer, view.data, view.size_bytes);
    blaze_event_release(&event);
    return BLAZE_STATUS_OK;
}

static void infer(blaze_model model, const float *data, size_t rows, float *answer) {
    blaze_error error;
    if (try_infer(model, data, rows, answer, &error)) DIE("run: %s", error.message);
}

/* What is not a number is the largest error, and stays. */
static void keep_largest(double *most, double error) {
    if (!isnan(*most) && !(error <= *most)) *most = error;
}

/* Holds answers against a reference in float64: the largest errors of all elements. */
static void compare(const float *answer, const double *expected, size_t count, double *most, double *most_relative) {
    double scale = 0;
    for (size_t i = 0; i < count; i++)
        if (fabs(expected[i]) > scale) scale = fabs(expected[i]);
    for (size_t i = 0; i < count; i++) {
        double error = fabs((double)answer[i] - expected[i]);
        keep_largest(most, error);
        keep_largest(most_relative, scale > 0 ? error / scale : error);
    }
}

/* Rows as one request, each as one of its own, and all of those at once, against what they must come to. */
static void check(void) {
    size_t in_bytes, out_bytes;
    float *input = read_file(needed("input"), &in_bytes);
    double *expected = read_file(needed("expected"), &out_bytes);
    size_t rows = in_bytes / sizeof *input / columns, count = rows * results_columns;
    if (!rows || out_bytes != count * sizeof *expected) DIE("the files do not fit together");
    float *answer = room(count * sizeof *answer);
    blaze_model model = load();
    tell_provider(model);
    double most = 0, relative = 0;
    infer(model, input, rows, answer);
    compare(answer, expected, count, &most, &relative);
    for (size_t row = 0; row < rows; row++) infer(model, input + row * columns, 1, answer + row * results_columns);
    compare(answer, expected, count, &most, &relative);
    blaze_queue *queue = NULL;
    blaze_error error = {.status = 0};
    if (blaze_queue_create(engine, (uint32_t)rows + 1, &queue, &error)) DIE("queue: %s", error.message);
    memset(answer, 0xff, count * sizeof *answer);
    for (size_t row = 0; row < rows; row++) {
        struct call call;
        blaze_ticket ticket;
        prepare(&call, model, input + row * columns, 1)->user_data = row;
        if (blaze_submit(engine, &call.request, queue, &ticket, &error)) DIE("submit: %s", error.message);
    }
    for (size_t row = 0; row < rows; row++) {
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_tensor view = BLAZE_TENSOR_INIT;
        if (blaze_wait(queue, &event, sizeof event, 1, PATIENCE) != 1 || event.status || blaze_event_output(&event, 0, &view))
            DIE("a request has failed: %s", blaze_status_name(event.status));
        memcpy(answer + event.user_data * results_columns, view.data, results_columns * sizeof *answer);
        blaze_event_release(&event);
    }
    compare(answer, expected, count, &most, &relative);
    result("rows", (double)rows, "");
    result("error", most, "");
    result("relative_error", relative, "");
    blaze_engine_destroy(engine);
    blaze_queue_destroy(queue);
    engine = NULL;
    free(input);
    free(expected);
    free(answer);
}

struct client {
    pthread_t thread;
    blaze_model model;
    size_t rows, depth, done;
    uint64_t warm_ns, until_ns, began_ns, ended_ns;
};

/* Keeps so many requests under way. */
static void *drive(void *argument) {
    struct client *client = argument;
    blaze_queue *queue = NULL;
    blaze_error error = {.status = 0};
    if (blaze_queue_create(engine, (uint32_t)client->depth + 1, &queue, &error)) DIE("queue: %s", error.message);
    float *data = room(client->rows * columns * sizeof *data);
    struct call call;
    blaze_event *events = room(client->depth * sizeof *events);
    blaze_ticket ticket;
    prepare(&call, client->model, data, client->rows);
    for (size_t i = 0; i < client->depth; i++)
        if (blaze_submit(engine, &call.request, queue, &ticket, &error)) DIE("submit: %s", error.message);
    size_t alive = client->depth;
    while (alive > 0) {
        size_t came = blaze_wait(queue, events, sizeof *events, (uint32_t)client->depth, PATIENCE);
        if (!came) DIE("nothing comes any more");
        uint64_t now = now_ns();
        for (size_t i = 0; i < came; i++) {
            if (events[i].status) DIE("a request has failed: %s", blaze_status_name(events[i].status));
            blaze_event_release(&events[i]);
            if (now >= client->warm_ns) {
                if (!client->began_ns) client->began_ns = now;
                else client->done++;
                client->ended_ns = now;
            }
            if (now < client->until_ns) {
                if (blaze_submit(engine, &call.request, queue, &ticket, &error)) DIE("submit: %s", error.message);
            } else {
                alive--;
            }
        }
    }
    blaze_queue_destroy(queue);
    free(events);
    free(data);
    return NULL;
}

static void throughput(void) {
    size_t count = number("threads", 2), rows = number("rows", 1), depth = number("depth", 128), done = 0;
    struct client *clients = room(count * sizeof *clients);
    blaze_model model = load();
    tell_provider(model);
    uint64_t began = UINT64_MAX, ended = 0, warm = now_ns() + 300000000u, until = warm + number("seconds", 2) * 1000000000u;
    for (size_t i = 0; i < count; i++) {
        clients[i] = (struct client){.model = model, .rows = rows, .depth = depth, .warm_ns = warm, .until_ns = until};
        if (pthread_create(&clients[i].thread, NULL, drive, &clients[i])) DIE("no thread");
    }
    for (size_t i = 0; i < count; i++) {
        pthread_join(clients[i].thread, NULL);
        done += clients[i].done;
        if (clients[i].began_ns && clients[i].began_ns < began) began = clients[i].began_ns;
        if (clients[i].ended_ns > ended) ended = clients[i].ended_ns;
    }
    if (ended <= began) DIE("too few requests have ended");
    double seconds = (double)(ended - began) / 1e9, rate = (double)(done * rows) / seconds;
    result("rows_per_s", rate, "rows/s");
    result("copied", rate * (double)((columns + results_columns) * sizeof(float)), "bytes/s");
    free(clients);
}

static void latency(void) {
    size_t rounds = number("rounds", 2000), rows = number("rows", 1);
    uint64_t *times = room(rounds * sizeof *times);
    float *data = room(rows * columns * sizeof *data);
    blaze_model model = load();
    tell_provider(model);
    for (size_t i = 0; i < rounds + rounds / 10; i++) {
        uint64_t began = now_ns();
        infer(model, data, rows, NULL);
        if (i >= rounds / 10) times[i - rounds / 10] = now_ns() - began;
    }
    qsort(times, rounds, sizeof *times, compare_u64);
    result("latency_p50", (double)quantile(times, rounds, 0.5), "ns");
    result("latency_p99", (double)quantile(times, rounds, 0.99), "ns");
    free(times);
    free(data);
}

static double on_device(void) {
    return has_driver ? (double)device_free_bytes() : NAN;
}

/* What is left of a device's memory and of the process's after so many loads, each with a run, or as many as so many seconds allow. */
static void loads(void) {
    size_t rounds = number("rounds", 1000), seconds_most = number("seconds", 0), done = 0;
    int is_settled = 0;
    float *data = room(columns * sizeof *data);
    double device_before = 0, most = 0;
    size_t resident_before = 0;
    uint64_t began = now_ns(), most_ns = seconds_most ? seconds_most * 1000000000u : UINT64_MAX;
    for (size_t i = 0; i < rounds && now_ns() - began < most_ns; i++) {
        double unused = on_device();
        blaze_model model = load();
        if (!i) tell_provider(model);
        infer(model, data, 1, NULL);
        if (!i) most = unused - on_device();
        if (blaze_model_unload(engine, model, NULL, NULL)) DIE("unload");
        done++;
        if (!is_settled && (done >= rounds / 10 || now_ns() - began >= most_ns / 10)) { /* all that is made once is there */
            device_before = on_device(), resident_before = resident_bytes();
            is_settled = 1;
        }
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    result("loads", (double)done, "");
    result("loads_per_s", (double)done / seconds, "1/s");
    result("process_growth", (double)resident_bytes() - (double)resident_before, "bytes");
    if (has_driver) {
        result("device_taken", most, "bytes");
        result("device_growth", device_before - on_device(), "bytes");
        blaze_engine_destroy(engine);
        engine = NULL;
        result("device_left", device_unused - on_device(), "bytes"); /* buffers that are kept for a while are gone, too */
    }
    free(data);
}

/* Loses the device by a kernel that writes where nothing is, and waits until another model answers again, and the same. */
static void loss(void) {
    float *data = room(columns * sizeof *data), *before = room(results_columns * sizeof *before),
          *after = room(results_columns * sizeof *after);
    for (size_t i = 0; i < columns; i++) data[i] = (float)i / (float)columns;
    blaze_model victim = load(), culprit = load_that(needed("culprit"));
    blaze_error error;
    infer(victim, data, 1, before);
    blaze_status status = try_infer(culprit, data, 1, NULL, &error);
    if (!status) DIE("the broken kernel has done no harm");
    result_text("status", blaze_status_name(status));
    result_text("message", error.message);
    blaze_model_unload(engine, culprit, NULL, NULL);
    uint64_t began = now_ns(), failed = 0;
    while ((status = try_infer(victim, data, 1, after, &error))) {
        failed++;
        if (now_ns() - began > PATIENCE) DIE("the device has not come back: %s", error.message);
        struct timespec pause = {0, 5000000};
        nanosleep(&pause, NULL);
    }
    if (memcmp(before, after, results_columns * sizeof *before)) DIE("the answers are not as before");
    result("failed_meanwhile", (double)failed, "");
    result("back_after", (double)(now_ns() - began) / 1e9, "s");
    free(data);
    free(before);
    free(after);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } modes[] = {
        {"check", check}, {"throughput", throughput}, {"latency", latency}, {"loads", loads}, {"loss", loss},
    };
    option_count = argc, option_values = argv;
    for (size_t i = 0; i < COUNT(modes); i++) {
        if (argc < 2 || strcmp(argv[1], modes[i].name) != 0) continue;
        columns = number("columns", 4), results_columns = number("results", 4);
        has_driver = option("driver", NULL) != NULL;
        if (has_driver) open_driver(option("driver", NULL), (int)number("device", 0));
        device_unused = has_driver ? (double)device_free_bytes() : 0;
        create();
        modes[i].run();
        if (engine) blaze_engine_destroy(engine);
        if (has_driver) close_driver();
        return 0;
    }
    DIE("usage: gpu_model check|throughput|latency|loads|loss --engine JSON --model JSON --columns N --results N …");
}
