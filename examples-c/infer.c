/* Reads one handwritten digit with blaze_infer, the call that submits and waits, and measures how long that takes.
 *
 * usage: infer [MODEL [TEST-SET]]
 */
#include <blaze.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PIXELS = 64, CLASSES = 10, CALLS = 1000 };

static const uint64_t second = 1000000000;

static void fail(const char *what, blaze_status status, const blaze_error *error) {
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), error->message);
    exit(1);
}

/* Reads the first record: 64 pixel bytes (0 to 16) and a label. Returns the label. */
static int read_digit(const char *path, float *pixels) {
    unsigned char record[PIXELS + 1];
    FILE *file = fopen(path, "rb");
    if (!file || fread(record, sizeof record, 1, file) != 1) {
        perror(path);
        exit(1);
    }
    fclose(file);
    for (int i = 0; i < PIXELS; i++) pixels[i] = (float)record[i] / 16.0f;
    return record[PIXELS];
}

/* Writes the probabilities of the ten digits. */
static void infer(blaze_engine *engine, const blaze_request *request, float *probabilities) {
    blaze_error error;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_status status = blaze_infer(engine, request, 10 * second, &event, &error);
    if (status != BLAZE_STATUS_OK) fail("infer", status, &error);
    blaze_tensor output = BLAZE_TENSOR_INIT;
    status = blaze_event_output(&event, 0, &output);
    if (status != BLAZE_STATUS_OK || output.size_bytes != CLASSES * sizeof(float)) {
        fprintf(stderr, "output: %s, %zu bytes\n", blaze_status_name(status), output.size_bytes);
        exit(1);
    }
    const float *values = output.data;
    for (int i = 0; i < CLASSES; i++) probabilities[i] = values[i];
    blaze_event_release(&event); /* `output` is gone with it */
}

static int compare(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

int main(int argc, char **argv) {
    const char *model_path = argc > 1 ? argv[1] : "models/digits/digits.onnx";
    const char *test_path = argc > 2 ? argv[2] : "models/digits/digits-test.bin";
    char config[1024];
    blaze_error error;
    blaze_engine *engine = NULL;
    blaze_model model = 0;

    /* An engine may also load its models as it is made. */
    snprintf(config, sizeof config, "{\"models\": [{\"name\": \"digits\", \"path\": \"%s\"}]}", model_path);
    blaze_status status = blaze_engine_create(config, &engine, &error);
    if (status != BLAZE_STATUS_OK) fail("engine", status, &error);
    status = blaze_model_find(engine, "digits", &model);
    if (status != BLAZE_STATUS_OK) {
        fprintf(stderr, "model: %s\n", blaze_status_name(status));
        return 1;
    }

    float pixels[PIXELS];
    int label = read_digit(test_path, pixels);
    const int64_t shape[] = {1, 1, 8, 8};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.name = "image";
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 4;
    input.data = pixels;
    input.size_bytes = sizeof pixels;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.flags = BLAZE_REQUEST_BORROW; /* the pixels stay where they are until the call returns */
    request.model = model;
    request.inputs = &input;
    request.inputs_count = 1;

    float probabilities[CLASSES], sum = 0;
    infer(engine, &request, probabilities);
    int best = 0;
    for (int i = 0; i < CLASSES; i++) {
        if (probabilities[i] > probabilities[best]) best = i;
        sum += probabilities[i];
    }
    for (int i = 0; i < CLASSES; i++)
        printf("%d  %.4f%s%s\n", i, (double)probabilities[i], i == best ? "  <- the model" : "",
               i == label ? "  <- the label" : "");

    static uint64_t took[CALLS];
    int same = 1;
    for (int call = 0; call < CALLS; call++) {
        float again[CLASSES];
        uint64_t started = blaze_now_ns();
        infer(engine, &request, again);
        took[call] = blaze_now_ns() - started;
        for (int i = 0; i < CLASSES; i++) same &= fabsf(again[i] - probabilities[i]) < 1e-5f;
    }
    qsort(took, CALLS, sizeof took[0], compare);
    printf("%d calls: p50 %.1f us, p99 %.1f us\n", CALLS, (double)took[CALLS / 2] / 1e3,
           (double)took[CALLS * 99 / 100] / 1e3);

    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    int counted = blaze_metrics(engine, &metrics) == BLAZE_STATUS_OK && metrics.requests_ok == CALLS + 1;
    blaze_engine_destroy(engine);
    return best == label && same && counted && sum > 0.999f && sum < 1.001f ? 0 : 1;
}
