/* One name for several models: reads digits through a route with two variants of a classifier that share the work, and a
 * third one for when neither can. Meanwhile one tenant asks more than it may, and a variant is taken away to be replaced.
 *
 * usage: routing [MODEL [TEST-SET]]
 */
#include <blaze.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIXELS = 64, CLASSES = 10, DIGITS = 200, GUEST = 7 };

static unsigned char records[DIGITS][PIXELS + 1]; /* 64 pixel bytes (0 to 16) and a label */

static void require(const char *what, blaze_status status, const blaze_error *error) {
    if (status == BLAZE_STATUS_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), error ? error->message : "");
    exit(1);
}

/* A variant of the classifier. In earnest they would be models of different sizes, or on different devices. */
static blaze_model load(blaze_engine *engine, const char *name, const char *path, const char *more) {
    char json[512];
    blaze_model model = 0;
    blaze_error error;
    snprintf(json, sizeof json, "{\"name\": \"%s\", \"path\": \"%s\"%s}", name, path, more);
    require(name, blaze_model_load(engine, json, &model, &error), &error);
    return model;
}

/* Has one digit read, by whoever the route asks. Returns the status; on success `event` is to be released. */
static blaze_status read_digit(blaze_engine *engine, blaze_model route, uint64_t tenant, int digit, blaze_event *event,
                               blaze_error *error) {
    const int64_t shape[] = {1, 1, 8, 8};
    float pixels[PIXELS];
    for (int i = 0; i < PIXELS; i++) pixels[i] = (float)records[digit][i] / 16.0f;
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 4;
    input.data = pixels;
    input.size_bytes = sizeof pixels;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = route; /* where a model's handle would be */
    request.tenant_id = tenant;
    request.inputs = &input;
    request.inputs_count = 1;
    return blaze_infer(engine, &request, UINT64_C(10000000000), event, error);
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

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "models/digits/digits.onnx";
    const char *test_path = argc > 2 ? argv[2] : "models/digits/digits-test.bin";
    FILE *file = fopen(test_path, "rb");
    if (!file || fread(records, sizeof records[0], DIGITS, file) != DIGITS) {
        fprintf(stderr, "%s cannot be read\n", test_path);
        return 1;
    }
    fclose(file);

    blaze_error error;
    blaze_engine *engine = NULL;
    require("engine", blaze_engine_create(NULL, &engine, &error), &error);
    blaze_model small = load(engine, "small", path, ", \"batching\": {\"max_rows\": 8}");
    blaze_model large = load(engine, "large", path, ", \"lanes\": 2");
    blaze_model spare = load(engine, "spare", path, "");

    /* Three parts of the work go to "large", one to "small", and "spare" is asked only when neither can be. A request that
     * one of them fails, or that takes it too long, goes to another one; nobody who asks notices. */
    blaze_model route = 0;
    require("route", blaze_route_create(engine, "{\"name\": \"digits\", \"strategy\": \"weighted_round_robin\", \"targets\": ["
                                        "{\"model\": \"large\", \"weight\": 3}, {\"model\": \"small\"},"
                                        " {\"model\": \"spare\", \"tier\": 1}], \"retry\": {\"attempts\": 3}}", &route, &error),
            &error);
    /* Guests may ask for 20 digits at once, and then for one in ten seconds. */
    require("tenant", blaze_tenant_set(engine, "{\"id\": 7, \"class\": \"guests\", \"limits\":"
                                       " {\"requests_per_second\": 0.1, \"burst\": 20}}", &error), &error);

    int right = 0, by_large = 0, by_small = 0, by_spare = 0, refused = 0;
    uint64_t again_ns = 0;
    for (int digit = 0; digit < DIGITS; digit++) {
        /* Halfway, the two variants are taken away, to be replaced, say: they end what they have, and the spare one helps
         * out. */
        if (digit == DIGITS / 2) {
            require("drain", blaze_route_target_drain(engine, route, "large", 1), NULL);
            require("remove", blaze_route_target_remove(engine, route, "small"), NULL);
        }
        blaze_event event = BLAZE_EVENT_INIT;
        require("read", read_digit(engine, route, 0, digit, &event, &error), &error);
        right += best_class(&event) == records[digit][PIXELS];
        by_large += event.model == large; /* the event says who has answered */
        by_small += event.model == small;
        by_spare += event.model == spare;
        blaze_event_release(&event);

        blaze_status status = read_digit(engine, route, GUEST, digit, &event, &error);
        if (status == BLAZE_STATUS_RATE_LIMITED) {
            refused++;
            again_ns = error.retry_after_ns;
        } else {
            require("read for a guest", status, &error);
            blaze_event_release(&event);
        }
    }
    printf("%d of %d digits are right; read by large: %d, small: %d, spare: %d\n", right, DIGITS, by_large, by_small, by_spare);
    printf("the guest was let in %d times and refused %d times, the last time for %.1f s\n", DIGITS - refused, refused,
           (double)again_ns / 1e9);

    /* What is known of the route and each of its targets. */
    size_t needed = 0;
    require("info", blaze_route_info(engine, route, NULL, 0, &needed), NULL);
    char *text = malloc(needed + 256); /* numbers may have become longer */
    if (!text) return 1;
    require("info", blaze_route_info(engine, route, text, needed + 256, NULL), NULL);
    printf("%s\n", text);
    free(text);

    require("destroy", blaze_route_destroy(engine, route), NULL); /* the models stay */
    blaze_engine_destroy(engine);
    int as_told = by_large > by_small && by_small > 0 && by_spare == DIGITS / 2 && refused >= DIGITS - 40;
    return right >= 0.95 * DIGITS && as_told ? 0 : 1;
}
