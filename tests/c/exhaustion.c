/* What runs out: descriptors, threads, memory. Each comes back as a status that says so, nothing that was accepted is lost, and
 * once there is some again everything works.
 *
 * Threads run out by a pthread_create of this program's own, which the library finds before the C library's. Each test of memory is a
 * process of its own, started with "--" and its name.
 */
#include "check.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define TINY "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}"

static int is_short(void) { return getenv("BLAZE_SHORT") != NULL; }

/* Threads -------------------------------------------------------------------------------------------------------- */

static atomic_int threads_left = INT32_MAX;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!real) {
        void *symbol = dlsym(RTLD_NEXT, "pthread_create");
        memcpy(&real, &symbol, sizeof real);
    }
    if (atomic_fetch_sub(&threads_left, 1) <= 0) return EAGAIN;
    return real(thread, attributes, start, argument);
}

static void engines_need_threads(void) {
    unsigned failed = 0;
    for (int left = 0; left < 12; left++) {
        blaze_engine *engine = NULL;
        blaze_error error = {0, "", 0};
        atomic_store(&threads_left, left);
        blaze_status status = blaze_engine_create("{\"threads\": 3, \"models\": [{\"name\": \"m\", \"backend\": \"mock\"}]}",
                                                  &engine, &error);
        if (status != BLAZE_STATUS_OK) {
            CHECK_INT(status, BLAZE_STATUS_OUT_OF_MEMORY);
            CHECK_TEXT(error.message, "thread");
            CHECK(!engine);
            failed++;
        } else {
            /* With fewer threads than it wanted, maybe; but it answers, also late ones. */
            blaze_model model = 0;
            struct call call;
            blaze_event event = BLAZE_EVENT_INIT;
            CHECK_STATUS(blaze_model_find(engine, "m", &model), OK);
            status = blaze_infer(engine, simple_call(&call, model), PATIENCE, &event, &error);
            if (status == BLAZE_STATUS_OK) blaze_event_release(&event);
            else CHECK_INT(status, BLAZE_STATUS_OUT_OF_MEMORY);
            call.request.deadline_ns = blaze_now_ns() + PATIENCE;
            status = blaze_infer(engine, &call.request, PATIENCE, &event, &error);
            if (status == BLAZE_STATUS_OK) blaze_event_release(&event);
            else CHECK_INT(status, BLAZE_STATUS_OUT_OF_MEMORY);
            blaze_engine_destroy(engine);
        }
    }
    atomic_store(&threads_left, INT32_MAX);
    printf("  %u of 12 engines could not be made\n", failed);
    struct rig rig = rig_up("{\"threads\": 3}", "", "");
    still_works(&rig);
    rig_down(&rig);
}

/* Everything that would start a thread, when there are none to be had: it is done all the same, or refused; never lost. */
static void without_new_threads_nothing_is_lost(void) {
    struct rig rig = rig_up("{\"threads\": 2}", "", "");
    struct call call;
    blaze_model tiny = 0;
    blaze_ticket ticket = 0;
    blaze_error error = {0, "", 0};
    atomic_store(&threads_left, 0);
    /* A deadline wants its keeper. */
    simple_call(&call, rig.model)->deadline_ns = blaze_now_ns() + PATIENCE;
    blaze_status status = blaze_submit(rig.engine, &call.request, rig.queue, &ticket, &error);
    if (status == BLAZE_STATUS_OK) EXPECT_EVENT(rig.queue, ticket, OK);
    else CHECK_INT(status, BLAZE_STATUS_OUT_OF_MEMORY);
    /* A load, an unload and a rescan in the background are done on this thread. */
    REQUIRE(blaze_model_load_async(rig.engine, TINY, rig.queue, 5, &ticket, &error) == BLAZE_STATUS_OK);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.user_data, 5);
    tiny = event.model;
    CHECK(event.status == BLAZE_STATUS_OK || event.status == BLAZE_STATUS_OUT_OF_MEMORY);
    status = event.status;
    blaze_event_release(&event);
    if (status == BLAZE_STATUS_OK) {
        CHECK_STATUS(blaze_model_unload(rig.engine, tiny, rig.queue, &ticket), OK);
        EXPECT_EVENT(rig.queue, ticket, OK);
    }
    /* ONNX Runtime's own: two threads for one run. */
    status = blaze_model_load(rig.engine, "{\"name\": \"t2\", \"path\": \"tests/models/tiny.onnx\", \"intra_op_threads\": 2}",
                              &tiny, &error);
    CHECK(status != BLAZE_STATUS_INTERNAL);
    if (status != BLAZE_STATUS_OK) CHECK(error.message[0] != 0);
    still_works(&rig);
    status = blaze_route_create(rig.engine, "{\"name\": \"r\", \"targets\": [{\"model\": \"mock\"}], \"hedge\": "
                                            "{\"quantile\": 0.9}, \"health\": {\"interval_ms\": 10}}", &tiny, &error);
    CHECK(status == BLAZE_STATUS_OK || status == BLAZE_STATUS_OUT_OF_MEMORY);
    if (status == BLAZE_STATUS_OK) {
        status = blaze_submit(rig.engine, simple_call(&call, tiny), rig.queue, &ticket, &error);
        if (status == BLAZE_STATUS_OK) EXPECT_EVENT(rig.queue, ticket, OK);
        else CHECK_INT(status, BLAZE_STATUS_OUT_OF_MEMORY);
    }
    atomic_store(&threads_left, INT32_MAX);
    still_works(&rig);
    rig_down(&rig);
}

/* Descriptors ---------------------------------------------------------------------------------------------------- */

static struct rlimit before;

static void leave_descriptors(rlim_t count) {
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (!before.rlim_max) before = limit;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    int lowest = dup(0); /* the next one there would be */
    REQUIRE(lowest >= 0);
    close(lowest);
    limit.rlim_cur = (rlim_t)lowest + count;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void give_descriptors(void) { REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0); }

static void without_descriptors_it_is_said_and_nothing_is_lost(void) {
    struct rig rig = rig_up("{\"threads\": 2}", "", "");
    blaze_model tiny = load_model(rig.engine, TINY), model = 0;
    blaze_error error = {0, "", 0};
    blaze_engine *engine = NULL;
    blaze_queue *queue = NULL;
    int fd = -1;
    blaze_ticket ticket = submit_simple(&rig, 1);
    leave_descriptors(0);
    CHECK_STATUS(blaze_queue_fd(rig.queue, &fd), OUT_OF_MEMORY);
    CHECK_INT(fd, -1);
    CHECK_STATUS(blaze_queue_create(rig.engine, 8, &queue, &error), OK); /* which takes none yet */
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"other\", \"path\": \"tests/models/small.onnx\"}", &model, &error),
                 MODEL_NOT_FOUND);
    CHECK_TEXT(error.message, "Too many open files");
    CHECK_STATUS(blaze_log_configure(rig.engine, "{\"target\": \"file\", \"file\": {\"path\": \"target/c/exhaustion.log\"}}",
                                     &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "Too many open files");
    CHECK_STATUS(blaze_engine_create("{\"repository\": {\"directory\": \"models\"}}", &engine, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "Too many open files");
    CHECK_STATUS(blaze_engine_create("{\"threads\": 1}", &engine, &error), OK);
    blaze_engine_destroy(engine);
    still_works(&rig);
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, tiny), PATIENCE, &event, &error), OK);
    blaze_event_release(&event);
    char text[65536];
    CHECK_STATUS(blaze_health_json(rig.engine, text, sizeof text, NULL), OK);
    CHECK_STATUS(blaze_profile_start(rig.engine, "{\"level\": \"comprehensive\"}", NULL), OK);
    for (int i = 0; i < 50; i++) {
        CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, tiny), PATIENCE, &event, &error), OK);
        blaze_event_release(&event);
    }
    CHECK_STATUS(blaze_profile_stop(rig.engine, NULL), OK);
    EXPECT_EVENT(rig.queue, ticket, OK);
    leave_descriptors(1); /* one end of a pipe is not enough, and is not left behind */
    for (int i = 0; i < 4; i++) CHECK_STATUS(blaze_queue_fd(rig.queue, &fd), OUT_OF_MEMORY);
    leave_descriptors(2);
    CHECK_STATUS(blaze_queue_fd(rig.queue, &fd), OK);
    give_descriptors();
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"other\", \"path\": \"tests/models/small.onnx\"}", &model, &error),
                 OK);
    CHECK_STATUS(blaze_queue_destroy(queue), OK);
    still_works(&rig);
    rig_down(&rig);
}

/* Memory --------------------------------------------------------------------------------------------------------- */

static size_t address_space(void) {
    size_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%zu", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* So many bytes besides what is mapped, once that does not change any more: threads that have just begun map heaps. */
static void leave_memory(size_t bytes) {
    size_t mapped = 0;
    for (int same = 0; same < 5;) {
        size_t now = address_space();
        same = now == mapped ? same + 1 : 0;
        mapped = now;
        sleep_ns(50 * MILLISECOND);
    }
    struct rlimit limit = {mapped + bytes, RLIM_INFINITY};
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* Tensors too large for what is left: the request is refused or fails, others go on. */
static void scene_tensors(void) {
    struct rig rig = rig_up("{\"threads\": 1}", "", "\"batching\": {\"max_rows\": 1}");
    still_works(&rig);
    size_t rows = 4 << 20, bytes = rows * 4 * sizeof(float);
    float *data = calloc(rows * 4, sizeof *data);
    REQUIRE(data);
    leave_memory(48 << 20);
    for (int i = 0; i < 5; i++) {
        struct call call;
        blaze_error error = {0, "", 0};
        blaze_event event = BLAZE_EVENT_INIT;
        call_with(&call, rig.model, data, (int64_t)rows, 4);
        CHECK_INT(call.input.size_bytes, bytes);
        call.request.flags = i % 2 ? BLAZE_REQUEST_BORROW : 0;
        blaze_status status = blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error);
        CHECK_INT(status, BLAZE_STATUS_OUT_OF_MEMORY);
        CHECK_TEXT(error.message, "bytes");
        still_works(&rig);
    }
    free(data);
    rig_down(&rig);
}

/* A model whose weights do not fit. */
static void scene_weights(void) {
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    blaze_model tiny = load_model(rig.engine, TINY), model = 0;
    blaze_error error = {0, "", 0};
    /* Its output takes 64 MB: ONNX Runtime asks for them in the middle of a run. */
    model = load_model(rig.engine, "{\"name\": \"o\", \"path\": \"tests/models/hostile_output.onnx\"}");
    leave_memory(24 << 20);
    for (int i = 0; i < 5; i++) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        int64_t size = 16 << 20;
        call_with(&call, model, NULL, 1, 1);
        call.input.dtype = BLAZE_DTYPE_I64;
        call.input.rank = 1;
        call.input.data = &size;
        call.input.size_bytes = sizeof size;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), OUT_OF_MEMORY);
        CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, tiny), PATIENCE, &event, &error), OK);
        blaze_event_release(&event);
    }
    still_works(&rig);
    rig_down(&rig);
}

/* Threads' stacks do not fit. */
static void scene_stacks(void) {
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    still_works(&rig);
    leave_memory((2 << 20) - 65536); /* a stack takes two megabytes, and the rest needs little */
    blaze_engine *engine = NULL;
    blaze_error error = {0, "", 0};
    CHECK_STATUS(blaze_engine_create("{\"threads\": 2, \"queue\": {\"capacity\": 64}, \"models\": [{\"name\": \"m\", "
                                     "\"backend\": \"mock\"}]}", &engine, &error), OUT_OF_MEMORY);
    CHECK_TEXT(error.message, "thread");
    still_works(&rig);
    rig_down(&rig);
}

static int play(const char *name) {
    if (setjmp(check_abandon) == 0) {
        if (!strcmp(name, "tensors")) scene_tensors();
        else if (!strcmp(name, "weights")) scene_weights();
        else if (!strcmp(name, "stacks")) scene_stacks();
        else FAIL("no scene %s", name);
    }
    return atomic_load(&check_failures) ? 1 : 0;
}

static void without_memory_requests_and_loads_fail_and_the_process_lives(void) {
    static const char *const scenes[] = {"tensors", "weights", "stacks"};
#if defined(__SANITIZE_ADDRESS__)
    printf("  left out: AddressSanitizer takes all address space for itself\n");
    return;
#endif
    for (size_t i = 0; i < COUNT(scenes) && !is_short(); i++) {
        fflush(stdout);
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            alarm(is_short() ? 600 : 60); /* valgrind is slow */
            execl("/proc/self/exe", "exhaustion", "--", scenes[i], (char *)NULL);
            _exit(127);
        }
        int status = 0;
        while (waitpid(child, &status, 0) < 0) REQUIRE(errno == EINTR);
        if (status) FAIL("%s: the process ended with %#x", scenes[i], (unsigned)status);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--")) return play(argv[2]);
    static const struct test tests[] = {
        TEST(engines_need_threads),
        TEST(without_new_threads_nothing_is_lost),
        TEST(without_descriptors_it_is_said_and_nothing_is_lost),
        TEST(without_memory_requests_and_loads_fail_and_the_process_lives),
    };
    return RUN_TESTS(tests, argc, argv);
}
