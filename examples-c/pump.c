/* A game's frame loop: an engine without threads, which works for 2 ms in each frame, on the frame's own thread.
 *
 * usage: pump [MODEL [TEST-SET]]         (Linux: it looks into /proc to count its threads)
 */
#define _GNU_SOURCE
#include <blaze.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PIXELS = 64, CLASSES = 10, FRAMES = 20, PER_FRAME = 6, DIGITS = FRAMES * PER_FRAME };

static const uint64_t frame_ns = 1000000000 / 60, budget_ns = 2000000;
static unsigned char records[DIGITS][PIXELS + 1]; /* 64 pixel bytes (0 to 16) and a label */

static void require(const char *what, blaze_status status, const char *why) {
    if (status == BLAZE_STATUS_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), why ? why : "");
    exit(1);
}

static int count_threads(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks) return -1;
    for (struct dirent *task; (task = readdir(tasks));) count += task->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static void submit(blaze_engine *engine, blaze_queue *queue, blaze_model model, unsigned digit) {
    const int64_t shape[] = {1, 1, 8, 8};
    float pixels[PIXELS]; /* submit copies them */
    for (int i = 0; i < PIXELS; i++) pixels[i] = (float)records[digit][i] / 16.0f;
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 4;
    input.data = pixels;
    input.size_bytes = sizeof pixels;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = model;
    request.user_data = digit;
    request.inputs = &input;
    request.inputs_count = 1;
    blaze_error error;
    require("submit", blaze_submit(engine, &request, queue, NULL, &error), error.message);
}

/* Takes the answers that are there; returns how many, and adds those that are right. */
static uint32_t collect(blaze_queue *queue, unsigned *right) {
    blaze_event events[DIGITS];
    uint32_t count = blaze_poll(queue, events, sizeof events[0], DIGITS);
    for (uint32_t i = 0; i < count; i++) {
        blaze_tensor output = BLAZE_TENSOR_INIT;
        require("answer", events[i].status, events[i].text);
        require("output", blaze_event_output(&events[i], 0, &output), NULL);
        const float *probabilities = output.data;
        int best = 0;
        for (int j = 1; j < CLASSES; j++)
            if (probabilities[j] > probabilities[best]) best = j;
        *right += best == records[events[i].user_data][PIXELS];
        blaze_event_release(&events[i]);
    }
    return count;
}

static void sleep_until(uint64_t time_ns) {
    uint64_t now = blaze_now_ns();
    if (now >= time_ns) return; /* the frame took too long */
    struct timespec left = {.tv_sec = 0, .tv_nsec = (long)(time_ns - now)};
    nanosleep(&left, NULL);
}

int main(int argc, char **argv) {
    const char *model_path = argc > 1 ? argv[1] : "models/digits/digits.onnx";
    const char *test_path = argc > 2 ? argv[2] : "models/digits/digits-test.bin";
    char config[1024];
    blaze_error error;
    blaze_engine *engine = NULL;
    blaze_queue *queue = NULL;
    blaze_ticket load = 0;
    blaze_model model = 0;
    FILE *file = fopen(test_path, "rb");
    if (!file || fread(records, sizeof records[0], DIGITS, file) != DIGITS) {
        perror(test_path);
        return 1;
    }
    fclose(file);

    require("engine", blaze_engine_create("{\"threads\": 0}", &engine, &error), error.message);
    require("queue", blaze_queue_create(engine, DIGITS, &queue, &error), error.message);
    snprintf(config, sizeof config, "{\"name\": \"digits\", \"path\": \"%s\"}", model_path);
    require("model", blaze_model_load_async(engine, config, queue, 0, &load, &error), error.message);

    unsigned sent = 0, answered = 0, right = 0, threads_were_one = 1;
    uint64_t frame_at = blaze_now_ns();
    for (int frame = 0; answered < DIGITS; frame++) {
        /* The game moves and draws here. Then, if its model is there, it asks for something. */
        for (int i = 0; model && i < PER_FRAME && sent < DIGITS; i++) submit(engine, queue, model, sent++);

        uint32_t pieces = 0, answers = 0;
        uint64_t started = blaze_now_ns();
        require("pump", blaze_pump(engine, budget_ns, &pieces), NULL);
        uint64_t took = blaze_now_ns() - started;

        if (model) {
            answers = collect(queue, &right);
        } else { /* the first event is that of the load */
            blaze_event loaded;
            if (blaze_poll(queue, &loaded, sizeof loaded, 1) == 1) {
                require("loading", loaded.status, loaded.text);
                model = loaded.model;
                blaze_event_release(&loaded);
            }
        }
        answered += answers;
        int threads = count_threads();
        threads_were_one &= threads == 1;
        printf("frame %2d: %u pieces of work in %.2f ms, %u answers, %d thread%s\n", frame, pieces,
               (double)took / 1e6, answers, threads, threads == 1 ? "" : "s");
        sleep_until(frame_at += frame_ns);
    }
    printf("%u digits, %u right\n", answered, right);

    blaze_status status = blaze_queue_destroy(queue);
    blaze_engine_destroy(engine);
    return threads_were_one && right * 100 >= DIGITS * 95 && status == BLAZE_STATUS_OK ? 0 : 1;
}
