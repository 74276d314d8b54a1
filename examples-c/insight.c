/* Finds out why an engine is slow: profiles it, asks for advice, changes what was advised while it works, and looks again.
 * Logs what the engine has to say as JSON lines to stderr, from the level "info" on.
 *
 * usage: insight [SECONDS [PROFILE.html]]
 */
#include <blaze.h>
#include <stdio.h>
#include <stdlib.h>

enum { PIXELS = 64, IN_FLIGHT = 256 };

static const uint64_t second = 1000000000;
static float images[IN_FLIGHT][PIXELS];

static void check(const char *what, blaze_status status, const blaze_error *error) {
    if (status == BLAZE_STATUS_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), error ? error->message : "");
    exit(1);
}

/* Keeps IN_FLIGHT requests in flight for a while; returns how many were answered in a second. */
static double run(blaze_engine *engine, blaze_queue *queue, blaze_model model, double seconds) {
    const int64_t shape[] = {1, 1, 8, 8};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32, input.shape = shape, input.rank = 4, input.size_bytes = sizeof images[0];
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = model, request.inputs = &input, request.inputs_count = 1;

    blaze_error error;
    blaze_event events[64];
    uint64_t started = blaze_now_ns(), until = started + (uint64_t)(seconds * (double)second), done = 0, sent = 0;
    while (sent == 0 || done < sent) {
        for (; sent - done < IN_FLIGHT && blaze_now_ns() < until; sent++) {
            input.data = images[sent % IN_FLIGHT];
            check("submit", blaze_submit(engine, &request, queue, NULL, &error), &error);
        }
        uint32_t count = blaze_wait(queue, events, sizeof events[0], 64, UINT64_MAX);
        for (uint32_t i = 0; i < count; i++, done++) {
            check("a request", events[i].status, NULL);
            blaze_event_release(&events[i]);
        }
    }
    return (double)done / ((double)(blaze_now_ns() - started) / 1e9);
}

/* A text of the engine's, to be freed. */
static char *advice_of(blaze_engine *engine) {
    size_t needed = 0;
    char *text = NULL;
    blaze_status status;
    do { /* again if it grew between the two calls */
        text = realloc(text, needed + 1);
        status = blaze_advice_json(engine, text, needed + 1, &needed);
    } while (status == BLAZE_STATUS_BUFFER_TOO_SMALL);
    check("advice", status, NULL);
    return text;
}

static void write_page(blaze_engine *engine, const char *path) {
    size_t needed = 0;
    char *text = NULL;
    blaze_error error;
    blaze_status status;
    do {
        text = realloc(text, needed + 1);
        status = blaze_profile_report(engine, BLAZE_REPORT_HTML, text, needed + 1, &needed, &error);
    } while (status == BLAZE_STATUS_BUFFER_TOO_SMALL);
    check("report", status, &error);
    FILE *file = fopen(path, "wb");
    if (!file || fputs(text, file) < 0 || fclose(file)) {
        perror(path);
        exit(1);
    }
    printf("where the time goes: %s\n", path);
    free(text);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1.5;
    blaze_error error;
    blaze_engine *engine = NULL;
    blaze_queue *queue = NULL;
    blaze_model model = 0;
    for (int i = 0; i < IN_FLIGHT; i++)
        for (int pixel = 0; pixel < PIXELS; pixel++) images[i][pixel] = (float)((i + pixel) % 17) / 16.0f;

    /* Two rows in a batch are few for 256 requests at once. */
    check("engine", blaze_engine_create("{\"log\": {\"target\": \"stderr\", \"format\": \"json\", \"level\": \"info\"},"
                                        " \"models\": [{\"name\": \"digits\", \"path\": \"models/digits/digits.onnx\","
                                        "               \"batching\": {\"max_rows\": 2}}]}", &engine, &error), &error);
    check("queue", blaze_queue_create(engine, IN_FLIGHT, &queue, &error), &error);
    check("model", blaze_model_find(engine, "digits", &model), NULL);
    check("profile", blaze_profile_start(engine, "{\"level\": \"detailed\"}", &error), &error);

    double before = run(engine, queue, model, seconds);
    char *advice = advice_of(engine);
    printf("%.0f requests/s; what holds them back: %s\n", before, advice);
    free(advice);
    if (argc > 2) write_page(engine, argv[2]);

    check("configure", blaze_model_configure(engine, model, "{\"batching\": {\"max_rows\": 64}}", &error), &error);
    double after = run(engine, queue, model, seconds);
    printf("%.0f requests/s with what was advised, %.1f times as many\n", after, after / before);

    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    check("health", blaze_health(engine, &health), NULL);
    check("stop", blaze_profile_stop(engine, &error), &error);
    check("the queue's end", blaze_queue_destroy(queue), NULL);
    blaze_engine_destroy(engine);
    return health.live && health.ready ? 0 : 1;
}
