/* Everything at once, for a long time, with failures of all kinds: usage: soak [SECONDS].
 *
 * Producers submit to models that fail, hang, take long and are evicted, and to routes over them; others load and unload models,
 * change budgets, settings, routes and the log, profile, and make and destroy engines. Every accepted ticket has exactly one
 * terminal event; after the warm-up neither memory nor descriptors nor threads grow.
 */
#include "check.h"
#include <dirent.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PRODUCERS = 3, QUEUE_CAPACITY = 256, MODELS = 9, RECENT = 64 };

static blaze_engine *engine;
static blaze_queue *queues[PRODUCERS];
static atomic_int stop, producers_left;
static _Atomic(blaze_model) models[MODELS];
static atomic_ullong accepted[PRODUCERS], ended[PRODUCERS], released[PRODUCERS];
static atomic_ullong by_status[1000], refused_by[1000], engines_made, loads, changes;

static const char *const configs[MODELS] = {
    "{\"name\": \"plain\", \"backend\": \"mock\"}",
    "{\"name\": \"slow\", \"backend\": \"mock\", \"lanes\": 2, \"mock\": {\"latency_us\": 400, \"faults\": [{\"kind\": \"slow\", \"every\": "
    "50, \"latency_us\": 20000}]}}",
    "{\"name\": \"errs\", \"backend\": \"mock\", \"mock\": {\"faults\": [{\"kind\": \"error\", \"every\": 3}]}}",
    "{\"name\": \"panics\", \"backend\": \"mock\", \"mock\": {\"faults\": [{\"kind\": \"panic\", \"share\": 0.05}]}}",
    "{\"name\": \"oom\", \"backend\": \"mock\", \"mock\": {\"faults\": [{\"kind\": \"out_of_memory\", \"share\": 0.1}]}}",
    "{\"name\": \"lost\", \"backend\": \"mock\", \"mock\": {\"faults\": [{\"kind\": \"device_lost\", \"after\": 200, \"every\": 7}]}}",
    "{\"name\": \"hangs\", \"backend\": \"mock\", \"lanes\": 2, \"warmup\": false, \"mock\": {\"faults\": [{\"kind\": \"hang\", \"share\": 0.02}]}}",
    "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\", \"batching\": {\"max_rows\": 16}}",
    "{\"name\": \"large\", \"backend\": \"mock\", \"mock\": {\"memory_bytes\": 20000000}}",
};
static const char *const routes[] = {
    "{\"name\": \"route\", \"targets\": [{\"model\": \"plain\"}, {\"model\": \"errs\"}, {\"model\": \"slow\"}, {\"model\": \"lost\"}]}",
    "{\"name\": \"route\", \"strategy\": \"adaptive\", \"targets\": [{\"model\": \"panics\"}, {\"model\": \"oom\"}, {\"model\": \"plain\", "
    "\"tier\": 1}], \"retry\": {\"attempts\": 4}, \"hedge\": {\"quantile\": 0.8}}",
    "{\"name\": \"route\", \"strategy\": \"least_loaded\", \"targets\": [{\"model\": \"plain\", \"concurrency\": 2}, {\"model\": \"slow\"}], "
    "\"limits\": {\"concurrency\": 8, \"waiting\": 16}}",
};

static uint32_t next_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static int allowed(blaze_status status) {
    switch (status) {
    case BLAZE_STATUS_OK: case BLAZE_STATUS_CANCELLED: case BLAZE_STATUS_EXPIRED: case BLAZE_STATUS_BACKEND_FAILED:
    case BLAZE_STATUS_OUT_OF_MEMORY: case BLAZE_STATUS_OVER_BUDGET: case BLAZE_STATUS_DEVICE_LOST: case BLAZE_STATUS_INTERNAL:
    case BLAZE_STATUS_SHUT_DOWN: case BLAZE_STATUS_TIMEOUT: case BLAZE_STATUS_NOT_FOUND: case BLAZE_STATUS_OVER_QUOTA:
    case BLAZE_STATUS_QUEUE_FULL: case BLAZE_STATUS_RATE_LIMITED: return 1;
    default: return 0;
    }
}

static void account(int producer, const blaze_event *event) {
    if (event->kind == BLAZE_EVENT_DONE) {
        atomic_fetch_add(&ended[producer], 1);
        atomic_fetch_add(&by_status[event->status], 1);
        if (!allowed(event->status))
            FAIL("an event: %s: %s", blaze_status_name(event->status), event->text ? event->text : "");
        if (event->status == BLAZE_STATUS_INTERNAL) CHECK_TEXT(event->text, "injected panic");
        if (event->status == BLAZE_STATUS_OK && event->outputs_count) {
            blaze_tensor view = BLAZE_TENSOR_INIT;
            CHECK_STATUS(blaze_event_output(event, 0, &view), OK);
            const float *y = view.data;
            /* Mocks answer 3 for 1; the other model has two probabilities. */
            if (view.shape[1] == 4 ? !(y[0] > 2.9f && y[0] < 3.1f) : !(y[0] >= 0 && y[0] <= 1)) FAIL("an answer is %g", (double)y[0]);
        }
    }
    if (event->flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED) atomic_fetch_add(&released[producer], 1);
}

/* Takes events as they come; sometimes holds on to some. */
static void *consume(void *argument) {
    int producer = *(int *)argument;
    blaze_event held[RECENT];
    uint32_t count = 0, state = 77;
    uint64_t quiet_since = blaze_now_ns();
    while (atomic_load(&producers_left) || atomic_load(&released[producer]) < atomic_load(&accepted[producer])) {
        uint32_t got = blaze_wait(queues[producer], held + count, sizeof held[0], RECENT - count, 20 * MILLISECOND);
        for (uint32_t i = 0; i < got; i++) account(producer, &held[count + i]);
        if (got) quiet_since = blaze_now_ns();
        count += got;
        if (count == RECENT || next_random(&state) % 4) {
            for (uint32_t i = 0; i < count; i++) blaze_event_release(&held[i]);
            count = 0;
        }
        if (blaze_now_ns() - quiet_since > PATIENCE) {
            FAIL("producer %d: no events any more, %llu accepted, %llu ended, %llu released", producer,
                 atomic_load(&accepted[producer]), atomic_load(&ended[producer]), atomic_load(&released[producer]));
            break;
        }
    }
    for (uint32_t i = 0; i < count; i++) blaze_event_release(&held[i]);
    return NULL;
}

static float ones[64 * 4];

static void *produce(void *argument) {
    int producer = *(int *)argument;
    uint32_t state = 99991u + (uint32_t)producer;
    blaze_ticket recent[RECENT] = {0};
    for (uint32_t i = 0; !atomic_load(&stop); i++) {
        struct call call;
        blaze_error error;
        uint32_t dice = next_random(&state);
        call_with(&call, atomic_load(&models[dice % MODELS]), ones, 1 + (dice >> 4) % 3, 4);
        if ((dice >> 6) % 4 == 0) blaze_model_find(engine, "route", &call.request.model);
        call.request.priority = (blaze_priority)((dice >> 8) % 4) - 1;
        call.request.tenant_id = (dice >> 10) % 3;
        call.request.session_id = (dice >> 12) % 8;
        if ((dice >> 16) % 3 == 0) call.request.flags = BLAZE_REQUEST_BORROW; /* from memory that never changes */
        /* A run that hangs ends with its last request, so all have an end. */
        call.request.deadline_ns = blaze_now_ns() + MILLISECOND * (1 + (dice >> 18) % 60);
        blaze_status status;
        if ((dice >> 20) % 50 == 0) {
            blaze_event event = BLAZE_EVENT_INIT;
            status = blaze_infer(engine, &call.request, MILLISECOND * ((dice >> 3) % 30), &event, &error);
            if (status == BLAZE_STATUS_OK) blaze_event_release(&event);
        } else {
            blaze_ticket ticket = 0;
            status = blaze_submit(engine, &call.request, queues[producer], &ticket, &error);
            if (status == BLAZE_STATUS_OK) {
                atomic_fetch_add(&accepted[producer], 1);
                recent[i % RECENT] = ticket;
            }
        }
        if (status != BLAZE_STATUS_OK) {
            atomic_fetch_add(&refused_by[status], 1);
            if (!allowed(status)) FAIL("submit: %s: %s", blaze_status_name(status), error.message);
            if (status == BLAZE_STATUS_QUEUE_FULL) sleep_ns(MILLISECOND / 5);
        }
        if ((dice >> 24) % 16 == 0) blaze_cancel(engine, recent[next_random(&state) % RECENT]);
        if (dice % 64 == 0) sleep_ns(MILLISECOND);
    }
    atomic_fetch_sub(&producers_left, 1);
    return NULL;
}

/* Models go and come back. */
static void *load_and_unload(void *unused) {
    uint32_t state = 5;
    while (!atomic_load(&stop)) {
        uint32_t which = next_random(&state) % MODELS;
        blaze_error error;
        blaze_model model = atomic_load(&models[which]);
        blaze_status status = blaze_model_unload(engine, model, NULL, NULL);
        if (status != BLAZE_STATUS_OK) FAIL("unload: %s", blaze_status_name(status));
        for (int tries = 0; tries < 200; tries++) {
            status = blaze_model_load(engine, configs[which], &model, &error);
            if (status != BLAZE_STATUS_OVER_BUDGET) break; /* the budget may be small just now */
            sleep_ns(5 * MILLISECOND);
        }
        if (status != BLAZE_STATUS_OK) {
            FAIL("load: %s: %s", blaze_status_name(status), error.message);
            return unused;
        }
        atomic_store(&models[which], model);
        atomic_fetch_add(&loads, 1);
        sleep_ns(MILLISECOND * (next_random(&state) % 20));
    }
    return NULL;
}

/* Turns every knob there is. */
static void *change(void *unused) {
    static char text[1 << 22];
    static const char *const logs[] = {"{\"level\": \"trace\", \"target\": \"file\", \"file\": {\"path\": \"target/c/soak.log\", "
                                       "\"max_bytes\": 100000, \"keep\": 1}}", "{\"level\": \"off\"}", "{\"target\": \"none\"}"};
    static const char *const settings[] = {"{\"batching\": {\"max_rows\": 4}}", "{\"batching\": {\"max_rows\": 64, \"max_delay_us\": 50}}",
                                           "{\"lanes\": 3}", "{\"lanes\": 1}"};
    uint32_t state = 9;
    size_t needed;
    blaze_model route = 0;
    while (!atomic_load(&stop)) {
        uint32_t dice = next_random(&state);
        blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
        blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
        switch (dice % 12) {
        case 0: CHECK_STATUS(blaze_engine_set_budget(engine, dice % 2 ? BLAZE_BUDGET_UNLIMITED : 30000000), OK); break;
        case 1: CHECK_STATUS(blaze_log_configure(engine, logs[dice / 12 % 3], NULL), OK); break;
        case 2: CHECK_STATUS(blaze_profile_start(engine, dice % 2 ? "{\"level\": \"detailed\", \"spans\": 4096}" : NULL, NULL), OK); break;
        case 3: blaze_profile_stop(engine, NULL); break;
        case 4: blaze_profile_report(engine, 1 + dice / 12 % 3, text, sizeof text, &needed, NULL); break;
        case 5: blaze_model_configure(engine, atomic_load(&models[dice / 12 % 6]), settings[dice / 7 % 4], NULL); break;
        case 6:
            if (blaze_model_find(engine, "route", &route) == BLAZE_STATUS_OK)
                CHECK_STATUS(blaze_route_update(engine, route, routes[dice / 12 % 3], NULL), OK);
            break;
        case 7:
            if (dice / 12 % 8 == 0 && blaze_model_find(engine, "route", &route) == BLAZE_STATUS_OK) {
                CHECK_STATUS(blaze_route_destroy(engine, route), OK);
                CHECK_STATUS(blaze_route_create(engine, routes[dice / 12 % 3], &route, NULL), OK);
            }
            break;
        case 8: CHECK_STATUS(blaze_health_json(engine, text, sizeof text, &needed), OK); break;
        case 9: CHECK_STATUS(blaze_metrics_text(engine, 1 + dice / 12 % 3, text, sizeof text, &needed), OK); break;
        case 10: CHECK_STATUS(blaze_advice_json(engine, text, sizeof text, &needed), OK); break;
        default:
            CHECK_STATUS(blaze_health(engine, &health), OK);
            CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
            CHECK_STATUS(blaze_engine_trim(engine), OK);
        }
        atomic_fetch_add(&changes, 1);
        sleep_ns(MILLISECOND * (dice % 8));
    }
    return unused;
}

/* Other engines come and go, with requests in them. */
static void *make_engines(void *unused) {
    while (!atomic_load(&stop)) {
        blaze_engine *other = NULL;
        blaze_queue *queue = NULL;
        blaze_model model = 0;
        int fd;
        if (blaze_engine_create("{\"threads\": 2, \"profile\": {}}", &other, NULL) != BLAZE_STATUS_OK ||
            blaze_queue_create(other, 64, &queue, NULL) != BLAZE_STATUS_OK ||
            blaze_model_load(other, configs[atomic_load(&engines_made) % 2 ? 7 : 1], &model, NULL) != BLAZE_STATUS_OK) {
            FAIL("an engine cannot be made");
            return unused;
        }
        CHECK_STATUS(blaze_queue_fd(queue, &fd), OK);
        uint32_t sent = 0, came = 0;
        for (int i = 0; i < 20; i++) {
            struct call call;
            sent += blaze_submit(other, call_with(&call, model, ones, 1, 4), queue, NULL, NULL) == BLAZE_STATUS_OK;
        }
        CHECK_STATUS(blaze_engine_shutdown(other, 0), OK);
        blaze_event event = BLAZE_EVENT_INIT;
        while (blaze_wait(queue, &event, sizeof event, 1, PATIENCE) == 1) {
            came += event.kind == BLAZE_EVENT_DONE;
            blaze_event_release(&event);
        }
        CHECK_INT(came, sent);
        blaze_engine_destroy(other);
        CHECK_STATUS(blaze_queue_destroy(queue), OK);
        atomic_fetch_add(&engines_made, 1);
        sleep_ns(10 * MILLISECOND);
    }
    return NULL;
}

/* What the process takes ------------------------------------------------------------------------------------------- */

static unsigned entries(const char *path) {
    unsigned count = 0;
    DIR *directory = opendir(path);
    while (directory && readdir(directory)) count++;
    if (directory) closedir(directory);
    return count;
}

static size_t resident(void) {
    size_t all = 0, pages = 0;
    malloc_trim(0);
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%zu %zu", &all, &pages) != 2) pages = 0;
    if (file) fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static uint64_t seconds;

/* One after the other takes each place from time to time: the least of some is what stays. */
static size_t least_resident(void) {
    size_t least = SIZE_MAX;
    for (int i = 0; i < 10; i++) {
        size_t now = resident();
        if (now < least) least = now;
        sleep_ns(seconds * SECOND / 200);
    }
    return least;
}

static unsigned most_descriptors(void) {
    unsigned most = 0;
    for (int i = 0; i < 20; i++) {
        unsigned now = entries("/proc/self/fd");
        if (now > most) most = now;
        sleep_ns(MILLISECOND);
    }
    return most;
}

static unsigned long long sum(atomic_ullong *numbers) {
    unsigned long long all = 0;
    for (int i = 0; i < PRODUCERS; i++) all += atomic_load(&numbers[i]);
    return all;
}

static void everything_works_for_a_long_time(void) {
    pthread_t producers[PRODUCERS], consumers[PRODUCERS], others[3];
    void *(*const roles[3])(void *) = {load_and_unload, change, make_engines};
    int numbers[PRODUCERS];
    blaze_model route = 0;
    for (size_t i = 0; i < COUNT(ones); i++) ones[i] = 1;
    unsigned descriptors_before = entries("/proc/self/fd");
    engine = new_engine("{\"threads\": 3, \"queue\": {\"capacity\": 1024}, \"tenants\": {\"list\": [{\"id\": 1, \"weight\": 3}, {\"id\": 2, "
                        "\"limits\": {\"concurrency\": 16}}]}}");
    for (int i = 0; i < MODELS; i++) atomic_store(&models[i], load_model(engine, configs[i]));
    REQUIRE(blaze_route_create(engine, routes[0], &route, NULL) == BLAZE_STATUS_OK);
    atomic_store(&producers_left, PRODUCERS);
    for (int i = 0; i < PRODUCERS; i++) {
        numbers[i] = i;
        queues[i] = new_queue(engine, QUEUE_CAPACITY);
        REQUIRE(pthread_create(&producers[i], NULL, produce, &numbers[i]) == 0);
        REQUIRE(pthread_create(&consumers[i], NULL, consume, &numbers[i]) == 0);
    }
    for (int i = 0; i < 3; i++) REQUIRE(pthread_create(&others[i], NULL, roles[i], NULL) == 0);

    /* Heaps of threads, buffers and histories fill up first. */
    sleep_ns(seconds * SECOND / 3);
    size_t memory = least_resident();
    unsigned descriptors = most_descriptors();
    sleep_ns(seconds * SECOND * 17 / 30);
    size_t memory_later = least_resident();
    unsigned descriptors_later = most_descriptors();
    atomic_store(&stop, 1);

    for (int i = 0; i < 3; i++) pthread_join(others[i], NULL);
    for (int i = 0; i < PRODUCERS; i++) pthread_join(producers[i], NULL);
    for (int i = 0; i < PRODUCERS; i++) pthread_join(consumers[i], NULL);
    printf("  %llu requests, %llu loads, %llu engines, %llu changes; %zu MiB, later %zu MiB; %u descriptors, later %u\n", sum(accepted),
           atomic_load(&loads), atomic_load(&engines_made), atomic_load(&changes), memory >> 20, memory_later >> 20, descriptors,
           descriptors_later);
    for (int status = 0; status < 1000; status++)
        if (atomic_load(&by_status[status]) + atomic_load(&refused_by[status]))
            printf("  %10llu events, %10llu calls: %s\n", atomic_load(&by_status[status]), atomic_load(&refused_by[status]),
                   blaze_status_name(status));
    for (int i = 0; i < PRODUCERS; i++) {
        CHECK_INT(atomic_load(&ended[i]), atomic_load(&accepted[i]));
        CHECK_INT(atomic_load(&released[i]), atomic_load(&accepted[i]));
    }
    /* Noise is a few MiB; a leak of a hundred bytes a request is more than that in a long run. */
    size_t margin = memory / 10 + (16 << 20);
    if (memory_later > memory + margin) FAIL("the process has grown from %zu to %zu bytes", memory, memory_later);
    CHECK(descriptors_later <= descriptors + 4);
    CHECK_STATUS(blaze_engine_shutdown(engine, PATIENCE), OK);
    for (int i = 0; i < PRODUCERS; i++) {
        no_event(queues[i]);
        CHECK_STATUS(blaze_queue_destroy(queues[i]), OK);
    }
    blaze_engine_destroy(engine);
    CHECK(entries("/proc/self/fd") <= descriptors_before);
    CHECK_INT(entries("/proc/self/task"), 3); /* ".", ".." and this one: ONNX Runtime keeps none */
    unlink("target/c/soak.log");
    unlink("target/c/soak.log.1");
}

int main(int argc, char **argv) {
    static const struct test tests[] = {TEST(everything_works_for_a_long_time)};
    seconds = argc > 1 ? strtoull(argv[1], NULL, 10) : 20;
    return RUN_TESTS(tests, 1, argv);
}
