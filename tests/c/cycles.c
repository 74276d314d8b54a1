/* An engine's whole life, a thousand times over in one process: nothing may be left. usage: cycles [CYCLES] */
#include "check.h"
#include <dirent.h>
#include <unistd.h>

enum { NOISE_KIB = 2048 };
static unsigned cycles;

static void one_life(void) {
    struct rig rig = {new_engine(NULL), NULL, 0};
    rig.queue = new_queue(rig.engine, 8);
    rig.model = load_model(rig.engine, "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}");
    int fd = -1;
    CHECK_STATUS(blaze_queue_fd(rig.queue, &fd), OK); /* has descriptors to close */
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    simple_call(&call, rig.model)->deadline_ns = blaze_now_ns() + PATIENCE; /* has a thread for deadlines to end */
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, NULL), OK);
    blaze_event_release(&event);
    blaze_ticket ticket = submit(&rig, &call.request), unload = 0;
    EXPECT_EVENT(rig.queue, ticket, OK);
    call.request.flags = BLAZE_REQUEST_BORROW;
    ticket = submit(&rig, &call.request);
    event = next_event(rig.queue); /* released after its engine's end */
    CHECK_STATUS(event.status, OK);
    blaze_model mock = load_mock(rig.engine, "mock", "\"faults\": [{\"kind\": \"panic\"}]", "");
    EXPECT_EVENT(rig.queue, submit(&rig, simple_call(&call, mock)), INTERNAL);
    CHECK_STATUS(blaze_model_unload(rig.engine, mock, rig.queue, &unload), OK);
    EXPECT_EVENT(rig.queue, unload, OK);
    submit(&rig, simple_call(&call, rig.model)); /* whose event nobody takes */
    blaze_engine_destroy(rig.engine);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
}

#ifdef __linux__
static unsigned entries(const char *path) {
    unsigned count = 0;
    DIR *directory = opendir(path);
    REQUIRE(directory);
    while (readdir(directory)) count++;
    closedir(directory);
    return count - 3; /* ".", "..", and for descriptors the directory's own */
}

static unsigned threads(void) {
    return entries("/proc/self/task") + 1;
}

static unsigned descriptors(void) {
    return entries("/proc/self/fd");
}

static long resident_kib(void) {
    long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    REQUIRE(file && fscanf(file, "%ld %ld", &total, &resident) == 2);
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}
#else /* elsewhere only what can be seen through the API is checked */
static unsigned threads(void) {
    return 1;
}
static unsigned descriptors(void) {
    return 0;
}
static long resident_kib(void) {
    return 0;
}
#endif

/* The system forgets a thread a moment after it was joined. */
static void wait_for_threads(unsigned most) {
    for (int look = 0; look < 1000 && threads() > most; look++) sleep_ns(MILLISECOND);
}

/* Before ONNX Runtime is in the process, every thread is the program's or Blaze's. Must be the first test. */
static void blaze_itself_leaves_no_thread_and_no_descriptor(void) {
    unsigned threads_before = threads(), descriptors_before = descriptors();
    for (int i = 0; i < 20; i++) {
        struct rig rig = rig_up(NULL, HANGS_ALWAYS, "\"lanes\": 4");
        int fd = -1;
        CHECK_STATUS(blaze_queue_fd(rig.queue, &fd), OK);
        struct call call;
        simple_call(&call, rig.model)->deadline_ns = blaze_now_ns() + PATIENCE;
        submit(&rig, &call.request);
        blaze_ticket ticket = 0;
        CHECK_STATUS(blaze_model_load_async(rig.engine, "{\"name\": \"slow\", \"backend\": \"mock\","
                                            " \"mock\": {\"load_latency_us\": 600000000}}", rig.queue, 0, &ticket, NULL), OK);
        rig_down(&rig);
        wait_for_threads(threads_before);
        CHECK_INT(threads(), threads_before);
        CHECK_INT(descriptors(), descriptors_before);
    }
}

/* The first cycles load libraries and warm allocators up. From then on a leak of a few hundred bytes per cycle would
 * show: 900 cycles may grow by 2 MiB, which the allocator's arenas need for the threads that come and go. */
static void a_thousand_lives_leave_nothing_behind(void) {
    unsigned settled = cycles / 10 ? cycles / 10 : 1, descriptors_before = descriptors(), threads_before = threads();
    long at_start = resident_kib(), at_settled = 0, at_half = 0;
    uint64_t started = blaze_now_ns();
    for (unsigned i = 1; i <= cycles; i++) {
        one_life();
        if (i == 1) { /* ONNX Runtime stays in the process, and may keep a little of its own: once */
            CHECK(descriptors() <= descriptors_before + 8);
            wait_for_threads(threads_before); /* or one second, for one that stays */
            CHECK(threads() <= threads_before + 1);
            descriptors_before = descriptors();
            threads_before = threads();
        }
        if (i == settled) at_settled = resident_kib();
        if (i == cycles / 2) at_half = resident_kib();
    }
    long at_end = resident_kib();
    printf("  %u cycles in %.1f s; KiB resident: %ld at the start, %ld after %u, %ld after %u, %ld after %u\n", cycles,
           (double)(blaze_now_ns() - started) / 1e9, at_start, at_settled, settled, at_half, cycles / 2, at_end, cycles);
    printf("  threads: %u (after one cycle: %u), descriptors: %u (%u)\n", threads(), threads_before, descriptors(),
           descriptors_before);
    /* A few lives do not tell; AddressSanitizer keeps what is freed for a while, and finds leaks by itself. */
#ifdef __SANITIZE_ADDRESS__
    int tells = 0;
#else
    int tells = cycles >= 200;
#endif
    CHECK(!tells || at_end - at_settled <= NOISE_KIB);
    wait_for_threads(threads_before);
    CHECK_INT(threads(), threads_before);
    CHECK_INT(descriptors(), descriptors_before);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(blaze_itself_leaves_no_thread_and_no_descriptor),
        TEST(a_thousand_lives_leave_nothing_behind),
    };
    cycles = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1000;
    return RUN_TESTS(tests, 1, argv);
}
