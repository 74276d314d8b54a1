/* One thread, one epoll: a timer that submits digits, and a completion queue that says when answers are there.
 *
 * usage: epoll [MODEL [TEST-SET]]        (Linux)
 */
#define _GNU_SOURCE
#include <blaze.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { PIXELS = 64, CLASSES = 10, DIGITS = 200, PER_TICK = 5, TICK_NS = 2000000 };

struct loop {
    blaze_engine *engine;
    blaze_queue *queue;
    blaze_model model;
    unsigned sent, answered, right, wakes;
};

static unsigned char records[DIGITS][PIXELS + 1]; /* 64 pixel bytes (0 to 16) and a label */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void require(const char *what, blaze_status status, const char *why) {
    if (status == BLAZE_STATUS_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), why ? why : "");
    exit(1);
}

static void submit(struct loop *loop) {
    const int64_t shape[] = {1, 1, 8, 8};
    float pixels[PIXELS]; /* submit copies them */
    for (int i = 0; i < PIXELS; i++) pixels[i] = (float)records[loop->sent][i] / 16.0f;
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 4;
    input.data = pixels;
    input.size_bytes = sizeof pixels;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = loop->model;
    request.user_data = loop->sent++;
    request.inputs = &input;
    request.inputs_count = 1;
    blaze_error error;
    require("submit", blaze_submit(loop->engine, &request, loop->queue, NULL, &error), error.message);
}

static void on_timer(struct loop *loop, int timer) {
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) != sizeof ticks) fail("timer");
    for (int i = 0; i < PER_TICK && loop->sent < DIGITS; i++) submit(loop);
    if (loop->sent == DIGITS) { /* nothing more to send: stop the timer */
        const struct itimerspec never = {0};
        if (timerfd_settime(timer, 0, &never, NULL)) fail("timer");
    }
}

/* The descriptor stays readable while events are left, so not all need to be taken at once. */
static void on_answers(struct loop *loop) {
    blaze_event events[16];
    uint32_t count = blaze_poll(loop->queue, events, sizeof events[0], 16);
    loop->wakes++;
    for (uint32_t i = 0; i < count; i++) {
        blaze_tensor output = BLAZE_TENSOR_INIT;
        require("answer", events[i].status, events[i].text);
        require("output", blaze_event_output(&events[i], 0, &output), NULL);
        const float *probabilities = output.data;
        int best = 0;
        for (int j = 1; j < CLASSES; j++)
            if (probabilities[j] > probabilities[best]) best = j;
        loop->right += best == records[events[i].user_data][PIXELS];
        loop->answered++;
        blaze_event_release(&events[i]);
    }
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void run(struct loop *loop) {
    int answers, epoll = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    const struct itimerspec every = {.it_interval = {.tv_nsec = TICK_NS}, .it_value = {.tv_nsec = TICK_NS}};
    if (epoll < 0 || timer < 0 || timerfd_settime(timer, 0, &every, NULL)) fail("setting up");
    require("descriptor", blaze_queue_fd(loop->queue, &answers), NULL);
    watch(epoll, timer);
    watch(epoll, answers);
    while (loop->answered < DIGITS) {
        struct epoll_event ready[2];
        int count = epoll_wait(epoll, ready, 2, 10000);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) fail("nothing happens for ten seconds");
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == timer) on_timer(loop, timer);
            if (ready[i].data.fd == answers) on_answers(loop);
        }
    }
    struct epoll_event none;
    if (epoll_wait(epoll, &none, 1, 20) != 0) fail("readable without events");
    close(timer);
    close(epoll); /* `answers` belongs to the queue */
}

int main(int argc, char **argv) {
    const char *model_path = argc > 1 ? argv[1] : "models/digits/digits.onnx";
    const char *test_path = argc > 2 ? argv[2] : "models/digits/digits-test.bin";
    struct loop loop = {0};
    char config[1024];
    blaze_error error;
    FILE *file = fopen(test_path, "rb");
    if (!file || fread(records, sizeof records[0], DIGITS, file) != DIGITS) fail(test_path);
    fclose(file);

    require("engine", blaze_engine_create(NULL, &loop.engine, &error), error.message);
    require("queue", blaze_queue_create(loop.engine, DIGITS, &loop.queue, &error), error.message);
    snprintf(config, sizeof config, "{\"name\": \"digits\", \"path\": \"%s\"}", model_path);
    require("model", blaze_model_load(loop.engine, config, &loop.model, &error), error.message);
    run(&loop);
    printf("%u digits, %u right, in %u wake-ups for answers\n", loop.answered, loop.right, loop.wakes);

    require("destroying the queue", blaze_queue_destroy(loop.queue), NULL);
    blaze_engine_destroy(loop.engine);
    return loop.sent == DIGITS && loop.right * 100 >= DIGITS * 95 && loop.wakes > 0 ? 0 : 1;
}
