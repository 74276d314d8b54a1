/* Classifies every held-out handwritten digit through Blaze, asynchronously, and prints how well and how fast.
 *
 * usage: digits [MODEL [TEST-SET]]
 */
#include <blaze.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIXELS = 64, CLASSES = 10, IN_FLIGHT = 256, MAX_DIGITS = 4096, REPEATS = 20 };

static float images[MAX_DIGITS][PIXELS];
static unsigned char labels[MAX_DIGITS];

static void fail(const char *what, blaze_status status, const blaze_error *error) {
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), error ? error->message : "");
    exit(1);
}

/* Reads records of 64 pixel bytes (0 to 16) and a label; scales the pixels to 0..1, as the model was trained. */
static uint32_t read_digits(const char *path) {
    unsigned char record[PIXELS + 1];
    uint32_t count = 0;
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    while (count < MAX_DIGITS && fread(record, sizeof record, 1, file) == 1) {
        for (int i = 0; i < PIXELS; i++) images[count][i] = (float)record[i] / 16.0f;
        labels[count++] = record[PIXELS];
    }
    fclose(file);
    return count;
}

static void print_digit(uint32_t digit, int prediction) {
    for (int row = 0; row < 8; row++) {
        printf("    ");
        for (int column = 0; column < 8; column++) {
            int shade = (int)(images[digit][8 * row + column] * 4.0f + 0.5f);
            printf("%c%c", " .+*#"[shade], " .+*#"[shade]);
        }
        printf("\n");
    }
    printf("  the label says %d, the model %d\n\n", labels[digit], prediction);
}

static int best_class(const blaze_event *event) {
    blaze_tensor output = BLAZE_TENSOR_INIT;
    if (blaze_event_output(event, 0, &output) != BLAZE_STATUS_OK) return -1;
    const float *probabilities = output.data;
    int best = 0;
    for (int i = 1; i < CLASSES; i++)
        if (probabilities[i] > probabilities[best]) best = i;
    return best;
}

static void submit(blaze_engine *engine, blaze_queue *queue, blaze_model model, uint32_t digit) {
    const int64_t shape[] = {1, 1, 8, 8};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 4;
    input.data = images[digit];
    input.size_bytes = sizeof images[digit];

    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = model;
    request.user_data = digit;
    request.inputs = &input;
    request.inputs_count = 1;

    blaze_error error;
    blaze_status status = blaze_submit(engine, &request, queue, NULL, &error);
    if (status != BLAZE_STATUS_OK) fail("submit", status, &error);
}

static void print_text(const char *title, blaze_engine *engine, int metrics) {
    size_t needed = 0;
    char *text = NULL;
    blaze_status status;
    do { /* again if it grew between the two calls */
        text = realloc(text, needed + 1);
        status = metrics ? blaze_metrics_text(engine, BLAZE_METRICS_JSON, text, needed + 1, &needed)
                         : blaze_health_json(engine, text, needed + 1, &needed);
    } while (status == BLAZE_STATUS_BUFFER_TOO_SMALL);
    printf("%s: %s\n", title, text);
    free(text);
}

int main(int argc, char **argv) {
    const char *model_path = argc > 1 ? argv[1] : "models/digits/digits.onnx";
    const char *test_path = argc > 2 ? argv[2] : "models/digits/digits-test.bin";
    uint32_t digits = read_digits(test_path);
    char config[1024];
    blaze_error error;
    blaze_engine *engine = NULL;
    blaze_queue *queue = NULL;
    blaze_model model = 0;
    blaze_status status;

    if (blaze_abi_version() >> 16 != BLAZE_ABI_VERSION >> 16) {
        fprintf(stderr, "the library has another ABI than the header\n");
        return 1;
    }
    status = blaze_engine_create(NULL, &engine, &error);
    if (status != BLAZE_STATUS_OK) fail("engine", status, &error);
    status = blaze_queue_create(engine, IN_FLIGHT, &queue, &error);
    if (status != BLAZE_STATUS_OK) fail("queue", status, &error);
    snprintf(config, sizeof config, "{\"name\": \"digits\", \"path\": \"%s\"}", model_path);
    status = blaze_model_load(engine, config, &model, &error);
    if (status != BLAZE_STATUS_OK) fail("model", status, &error);

    uint32_t total = digits * REPEATS, sent = 0, done = 0, right = 0;
    uint64_t started = blaze_now_ns();
    while (done < total) {
        for (; sent < total && sent - done < IN_FLIGHT; sent++) submit(engine, queue, model, sent % digits);
        blaze_event events[64];
        uint32_t count = blaze_wait(queue, events, sizeof events[0], 64, UINT64_MAX);
        for (uint32_t i = 0; i < count; i++, done++) {
            uint32_t digit = (uint32_t)events[i].user_data;
            if (events[i].status != BLAZE_STATUS_OK) {
                fprintf(stderr, "digit %u: %s: %s\n", digit, blaze_status_name(events[i].status),
                        events[i].text ? events[i].text : "");
                return 1;
            }
            int prediction = best_class(&events[i]);
            right += prediction == labels[digit];
            if (done == 0) print_digit(digit, prediction);
            blaze_event_release(&events[i]);
        }
    }
    double seconds = (double)(blaze_now_ns() - started) / 1e9;

    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    blaze_metrics(engine, &metrics);
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    blaze_health(engine, &health);
    printf("accuracy: %.4f (%" PRIu32 " held-out digits, %d times)\n", (double)right / total, digits, REPEATS);
    printf("throughput: %.0f requests/s with %d in flight, %.1f rows per batch\n", total / seconds, IN_FLIGHT,
           (double)metrics.rows / (double)metrics.batches);
    printf("latency: p50 %.0f us, p90 %.0f us, p99 %.0f us, max %.0f us\n", (double)metrics.duration.p50_ns / 1e3,
           (double)metrics.duration.p90_ns / 1e3, (double)metrics.duration.p99_ns / 1e3,
           (double)metrics.duration_max_ns / 1e3);
    print_text("health", engine, 0);
    print_text("metrics", engine, 1);

    int healthy = health.state == BLAZE_HEALTH_OK && metrics.requests_ok == total;
    status = blaze_queue_destroy(queue);
    blaze_engine_destroy(engine);
    return right >= 0.95 * total && healthy && status == BLAZE_STATUS_OK ? 0 : 1;
}
