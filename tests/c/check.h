/* A few lines of test framework, and the helpers that the C tests share.
 *
 * A test is a function whose name says what is so. A failed CHECK is printed and counted, and the test goes on; a
 * failed REQUIRE ends the test. A program runs all its tests, or those whose names are given as arguments.
 *
 * Include this first: it asks the system's headers for POSIX.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <blaze.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SECOND UINT64_C(1000000000)
#define MILLISECOND UINT64_C(1000000)
/* Long enough for a slow machine under valgrind. Only a failing test ever waits this long. */
#define PATIENCE (60 * SECOND)

static atomic_uint check_failures;
static jmp_buf check_abandon;

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define FAIL(...)                                                                              \
    (printf("  %s:%d: ", __FILE__, __LINE__), printf(__VA_ARGS__), printf("\n"), fflush(stdout), \
     atomic_fetch_add(&check_failures, 1))

#define CHECK(condition) \
    do {                 \
        if (!(condition)) FAIL("not so: %s", #condition); \
    } while (0)

/* Ends the test, for what makes going on pointless. Only on the test's own thread. */
#define REQUIRE(condition)                          \
    do {                                            \
        if (!(condition)) {                         \
            FAIL("not so: %s", #condition);         \
            longjmp(check_abandon, 1);              \
        }                                           \
    } while (0)

#define CHECK_INT(actual, expected)                                                                       \
    do {                                                                                                  \
        long long check_a = (long long)(actual), check_e = (long long)(expected);                         \
        if (check_a != check_e) FAIL("%s is %lld, not %lld (%s)", #actual, check_a, check_e, #expected);  \
    } while (0)

#define CHECK_STATUS(actual, expected)                                                                          \
    do {                                                                                                        \
        blaze_status check_s = (actual);                                                                        \
        if (check_s != (BLAZE_STATUS_##expected))                                                               \
            FAIL("%s is %s, not %s", #actual, blaze_status_name(check_s), #expected);                           \
    } while (0)

/* The text has the part in it. */
#define CHECK_TEXT(text, part)                                                                            \
    do {                                                                                                  \
        const char *check_t = (text);                                                                     \
        if (!check_t || !strstr(check_t, (part)))                                                         \
            FAIL("%s is \"%s\", without \"%s\"", #text, check_t ? check_t : "(NULL)", (part));            \
    } while (0)

#define CHECK_FLOATS(actual, ...)                                                                     \
    do {                                                                                              \
        const float check_e[] = {__VA_ARGS__};                                                        \
        const float *check_a = (actual);                                                              \
        for (size_t check_i = 0; check_i < COUNT(check_e); check_i++)                                 \
            if (!check_a || check_a[check_i] < check_e[check_i] || check_a[check_i] > check_e[check_i]) \
                FAIL("%s[%zu] is %g, not %g", #actual, check_i, check_a ? (double)check_a[check_i] : 0.0, \
                     (double)check_e[check_i]);                                                       \
    } while (0)

struct test {
    const char *name;
    void (*run)(void);
};
#define TEST(name) {#name, name}

/* On its own, so that the longjmp finds no variables to forget. */
static inline int run_test(const struct test *test) {
    unsigned before = atomic_load(&check_failures);
    if (setjmp(check_abandon) == 0) test->run();
    return atomic_load(&check_failures) == before;
}

static inline int run_tests(const struct test *tests, size_t count, int argc, char **argv) {
    unsigned passed = 0, failed = 0;
    for (size_t i = 0; i < count; i++) {
        int wanted = argc < 2;
        for (int arg = 1; arg < argc; arg++) wanted |= !strcmp(argv[arg], tests[i].name);
        if (!wanted) continue;
        printf("%s\n", tests[i].name);
        fflush(stdout);
        if (run_test(&tests[i])) passed++;
        else failed++;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed == 0 && passed > 0 ? 0 : 1;
}
#define RUN_TESTS(tests, argc, argv) run_tests(tests, COUNT(tests), argc, argv)

static inline void sleep_ns(uint64_t ns) {
    struct timespec time = {(time_t)(ns / SECOND), (long)(ns % SECOND)};
    nanosleep(&time, NULL);
}

/* Making things ------------------------------------------------------------------------------------------------ */

static inline blaze_engine *new_engine(const char *config) {
    blaze_engine *engine = NULL;
    blaze_error error;
    if (blaze_engine_create(config, &engine, &error) != BLAZE_STATUS_OK) FAIL("engine: %s", error.message);
    REQUIRE(engine);
    return engine;
}

static inline blaze_queue *new_queue(blaze_engine *engine, uint32_t capacity) {
    blaze_queue *queue = NULL;
    blaze_error error;
    if (blaze_queue_create(engine, capacity, &queue, &error) != BLAZE_STATUS_OK) FAIL("queue: %s", error.message);
    REQUIRE(queue);
    return queue;
}

static inline blaze_model load_model(blaze_engine *engine, const char *config) {
    blaze_model model = 0;
    blaze_error error;
    if (blaze_model_load(engine, config, &model, &error) != BLAZE_STATUS_OK) FAIL("model: %s", error.message);
    REQUIRE(model);
    return model;
}

/* A mock model: one input x and one output y = 2x + 1, both f32 [batch, 4], unless `mock` says otherwise. */
static inline blaze_model load_mock(blaze_engine *engine, const char *name, const char *mock, const char *more) {
    char config[2048];
    snprintf(config, sizeof config, "{\"name\": \"%s\", \"backend\": \"mock\", \"mock\": {%s}%s%s}", name, mock,
             *more ? ", " : "", more);
    return load_model(engine, config);
}
/* For `more`: every request runs alone. */
#define ALONE "\"batching\": {\"max_rows\": 1}"
/* For `mock`: runs number 0 to `count` - 1 do not end by themselves. */
#define HANGS(count) "\"faults\": [{\"kind\": \"hang\", \"count\": " #count "}]"
#define HANGS_ALWAYS "\"faults\": [{\"kind\": \"hang\"}]"

/* What most tests need. */
struct rig {
    blaze_engine *engine;
    blaze_queue *queue;
    blaze_model model;
};

static inline struct rig rig_up(const char *engine, const char *mock, const char *more) {
    struct rig rig = {new_engine(engine), NULL, 0};
    rig.queue = new_queue(rig.engine, 1024);
    rig.model = load_mock(rig.engine, "mock", mock, more);
    return rig;
}

/* Ends with every event taken, so that the queue's destruction must succeed. */
static inline void rig_down(struct rig *rig) {
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_engine_shutdown(rig->engine, 0), OK);
    while (blaze_wait(rig->queue, &event, sizeof event, 1, 0) == 1) blaze_event_release(&event);
    blaze_engine_destroy(rig->engine);
    CHECK_STATUS(blaze_queue_destroy(rig->queue), OK);
}

/* A request with one f32 input, of `axes` axes. Points into itself: do not copy. */
struct call {
    blaze_request request;
    blaze_tensor input;
    int64_t shape[8];
};

static inline blaze_request *call_with(struct call *call, blaze_model model, const float *data, int64_t rows,
                                       int64_t columns) {
    *call = (struct call){BLAZE_REQUEST_INIT, BLAZE_TENSOR_INIT, {rows, columns}};
    call->input.dtype = BLAZE_DTYPE_F32;
    call->input.shape = call->shape;
    call->input.rank = 2;
    call->input.data = (void *)(uintptr_t)data;
    call->input.size_bytes = (size_t)(rows * columns) * sizeof *data;
    call->request.model = model;
    call->request.inputs = &call->input;
    call->request.inputs_count = 1;
    return &call->request;
}

static const float ones_to_four[] = {1, 2, 3, 4};

/* The simplest request there is for a mock model: [1, 4] with 1, 2, 3, 4. Its answer is 3, 5, 7, 9. */
static inline blaze_request *simple_call(struct call *call, blaze_model model) {
    return call_with(call, model, ones_to_four, 1, 4);
}

static inline blaze_ticket submit(struct rig *rig, const blaze_request *request) {
    blaze_ticket ticket = 0;
    blaze_error error;
    if (blaze_submit(rig->engine, request, rig->queue, &ticket, &error) != BLAZE_STATUS_OK)
        FAIL("submit: %s: %s", blaze_status_name(error.status), error.message);
    REQUIRE(ticket);
    return ticket;
}

static inline blaze_ticket submit_simple(struct rig *rig, uint64_t user_data) {
    struct call call;
    simple_call(&call, rig->model)->user_data = user_data;
    return submit(rig, &call.request);
}

/* Waiting for things ------------------------------------------------------------------------------------------- */

static inline blaze_event next_event(blaze_queue *queue) {
    blaze_event event = BLAZE_EVENT_INIT;
    REQUIRE(blaze_wait(queue, &event, sizeof event, 1, PATIENCE) == 1);
    CHECK_INT(event.struct_size, sizeof event);
    return event;
}

static inline void no_event(blaze_queue *queue) {
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_INT(blaze_poll(queue, &event, sizeof event, 1), 0);
    blaze_event_release(&event);
}

/* Takes the next event, holds it against what is expected, and releases it. */
#define EXPECT_EVENT(queue, ticket_, status_)           \
    do {                                                \
        blaze_ticket check_ticket = (ticket_);          \
        blaze_event check_event = next_event(queue);    \
        CHECK_INT(check_event.kind, BLAZE_EVENT_DONE);  \
        CHECK_INT(check_event.ticket, check_ticket);    \
        CHECK_STATUS(check_event.status, status_);      \
        blaze_event_release(&check_event);              \
    } while (0)

static inline uint64_t queue_depth(blaze_engine *engine) {
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    CHECK_STATUS(blaze_health(engine, &health), OK);
    return health.queue_depth;
}

/* Returns when nothing is queued any more: what was submitted is inside the backend. Between a lane's taking a request
 * and its run are some microseconds that nothing shows, hence the pause. */
static inline void until_running(blaze_engine *engine) {
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (queue_depth(engine) > 0 && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    CHECK_INT(queue_depth(engine), 0);
    sleep_ns(50 * MILLISECOND);
}

/* Submits a request that hangs, and returns when it does. The model's next run must be one that hangs. */
static inline blaze_ticket submit_blocker(struct rig *rig) {
    blaze_ticket ticket = submit_simple(rig, 0);
    until_running(rig->engine);
    return ticket;
}

/* The data of an f32 output, or NULL. */
static inline const float *floats(const blaze_event *event, uint32_t index) {
    blaze_tensor view = BLAZE_TENSOR_INIT;
    CHECK_STATUS(blaze_event_output(event, index, &view), OK);
    CHECK_INT(view.dtype, BLAZE_DTYPE_F32);
    return view.data;
}

/* The engine does what it is for. */
static inline void still_works(struct rig *rig) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    blaze_status status = blaze_infer(rig->engine, simple_call(&call, rig->model), PATIENCE, &event, &error);
    if (status != BLAZE_STATUS_OK) {
        FAIL("the engine does not work any more: %s: %s", blaze_status_name(status), error.message);
        return;
    }
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    blaze_event_release(&event);
}

/* Being refused ------------------------------------------------------------------------------------------------ */

/* A request that is wrong in one place: `change` breaks a good one. */
struct wrong {
    blaze_status status;
    const char *text;
    void (*change)(struct call *);
};

static inline void expect_refused(struct rig *rig, const struct wrong *cases, size_t count, uint32_t flags) {
    for (size_t i = 0; i < count; i++) {
        struct call call;
        blaze_ticket ticket = 0;
        blaze_error error = {.status = 0};
        blaze_event event = BLAZE_EVENT_INIT;
        simple_call(&call, rig->model)->flags = flags;
        cases[i].change(&call);
        for (int way = 0; way < 2; way++) {
            error.message[0] = 0;
            blaze_status status = way ? blaze_infer(rig->engine, &call.request, PATIENCE, &event, &error)
                                      : blaze_submit(rig->engine, &call.request, rig->queue, &ticket, &error);
            if (status != cases[i].status || error.status != status || !strstr(error.message, cases[i].text))
                FAIL("case %zu (%s): %s: \"%s\", not %s with \"%s\"", i, way ? "infer" : "submit",
                     blaze_status_name(status), error.message, blaze_status_name(cases[i].status), cases[i].text);
        }
        CHECK_INT(ticket, 0);
    }
}

#endif
