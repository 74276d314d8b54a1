/* Memory of the host's: who asks for it, that all of it comes back, and what happens when there is none.
 *
 * BLAZE_SHORT in the environment makes it short, for valgrind.
 */
#include "json.h"
#include <pthread.h>

/* A host's allocator that counts, checks what it is given, and fails on command. */
struct host {
    atomic_ullong calls, bytes, blocks, peak, frees, wrong;
    /* The call, from 0, that fails, and how many after it do too; none if `fails_for` is 0. */
    atomic_ullong fails_at, fails_for;
    /* Addresses are this much off. */
    size_t off;
};

/* In front of each block: as large as blocks are aligned. */
struct front {
    uint64_t magic;
    size_t size;
    void *base;
};
#define FRONT 64
#define MAGIC UINT64_C(0x626c617a65)
_Static_assert(sizeof(struct front) <= FRONT, "the front has room");

static void *host_allocate(void *user, size_t size, size_t alignment) {
    struct host *host = user;
    unsigned long long call = atomic_fetch_add(&host->calls, 1), first = atomic_load(&host->fails_at);
    if (!alignment || (alignment & (alignment - 1)) || size == 0) atomic_fetch_add(&host->wrong, 1);
    if (call >= first && call - first < atomic_load(&host->fails_for)) return NULL;
    if (size > SIZE_MAX / 2 || alignment > 4096) return NULL;
    char *base = malloc(size + FRONT + alignment + host->off);
    if (!base) return NULL;
    uintptr_t at = ((uintptr_t)base + FRONT + alignment - 1) & ~(uintptr_t)(alignment - 1);
    char *address = base + (at - (uintptr_t)base) + host->off;
    struct front front = {MAGIC, size, base};
    memcpy(address - FRONT, &front, sizeof front);
    memset(address, 0xA5, size); /* nobody may count on zeros */
    unsigned long long bytes = atomic_fetch_add(&host->bytes, size) + size, peak = atomic_load(&host->peak);
    while (bytes > peak && !atomic_compare_exchange_weak(&host->peak, &peak, bytes)) {}
    atomic_fetch_add(&host->blocks, 1);
    return address;
}

static void host_free(void *user, void *address, size_t size) {
    struct host *host = user;
    struct front front = {0, 0, NULL};
    if (address) memcpy(&front, (char *)address - FRONT, sizeof front);
    if (front.magic != MAGIC || front.size != size) {
        atomic_fetch_add(&host->wrong, 1);
        return;
    }
    memset((char *)address - FRONT, 0xDD, sizeof front); /* found out if it comes twice */
    memset(address, 0xDD, size);
    atomic_fetch_sub(&host->bytes, size);
    atomic_fetch_sub(&host->blocks, 1);
    atomic_fetch_add(&host->frees, 1);
    free(front.base);
}

static blaze_allocator allocator_of(struct host *host) {
    blaze_allocator allocator = BLAZE_ALLOCATOR_INIT;
    allocator.user = host;
    allocator.allocate = host_allocate;
    allocator.free = host_free;
    return allocator;
}

static blaze_engine *engine_with(struct host *host, const char *config) {
    blaze_allocator allocator = allocator_of(host);
    blaze_engine *engine = NULL;
    blaze_error error = {.status = 0};
    if (blaze_engine_create_with_allocator(config, &allocator, &engine, &error) != BLAZE_STATUS_OK)
        FAIL("engine: %s", error.message);
    memset(&allocator, 0xFF, sizeof allocator); /* "Read during the call only" */
    REQUIRE(engine);
    return engine;
}

#define ALL_FREED(host)                                \
    do {                                               \
        CHECK_INT(atomic_load(&(host)->blocks), 0);    \
        CHECK_INT(atomic_load(&(host)->bytes), 0);     \
        CHECK_INT(atomic_load(&(host)->wrong), 0);     \
    } while (0)

#define TINY "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}"
#define SMALL "{\"name\": \"small\", \"path\": \"tests/models/small.onnx\"}"

/* Weights, inputs, outputs, and what runs need: mocks, real models, all kinds of requests. */
static void all_memory_comes_back(void) {
    struct host host = {0};
    struct rig rig = {engine_with(&host, NULL), NULL, 0};
    rig.queue = new_queue(rig.engine, 64);
    rig.model = load_mock(rig.engine, "mock", "", "");
    unsigned long long before = atomic_load(&host.bytes);
    blaze_model small = load_model(rig.engine, SMALL), tiny = load_model(rig.engine, TINY);
    CHECK(atomic_load(&host.bytes) - before > 350000); /* the weights of `small` alone */
    static float data[64 * 64];
    for (int64_t rows = 1; rows <= 64; rows *= 4) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        still_works(&rig);
        CHECK_STATUS(blaze_infer(rig.engine, call_with(&call, small, data, rows, 64), PATIENCE, &event, NULL), OK);
        blaze_event_release(&event);
        call_with(&call, tiny, data, rows, 4)->flags = BLAZE_REQUEST_BORROW;
        submit(&rig, &call.request);
        event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK(event.flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        blaze_event_release(&event);
    }
    CHECK(atomic_load(&host.calls) > 0);
    CHECK_INT(health_number(rig.engine, "memory.buffers_bytes") > 0, 1);
    CHECK_STATUS(blaze_model_unload(rig.engine, small, NULL, NULL), OK);
    CHECK_STATUS(blaze_model_unload(rig.engine, tiny, NULL, NULL), OK);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
    CHECK_INT(atomic_load(&host.bytes), 0); /* unloads give it back, not only the engine's end */
    rig_down(&rig);
    ALL_FREED(&host);
}

static void an_event_that_outlives_the_engine_keeps_its_memory(void) {
    struct host host = {0};
    struct rig rig = {engine_with(&host, NULL), NULL, 0};
    rig.queue = new_queue(rig.engine, 64);
    rig.model = load_mock(rig.engine, "mock", "", "");
    struct call call;
    blaze_event first = BLAZE_EVENT_INIT, second, third = BLAZE_EVENT_INIT;
    blaze_model tiny = load_model(rig.engine, TINY);
    REQUIRE(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &first, NULL) == BLAZE_STATUS_OK);
    REQUIRE(blaze_infer(rig.engine, simple_call(&call, tiny), PATIENCE, &third, NULL) == BLAZE_STATUS_OK);
    submit_simple(&rig, 0);
    second = next_event(rig.queue);
    submit_simple(&rig, 0); /* an event that nobody takes */
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, PATIENCE), OK);
    blaze_engine_destroy(rig.engine);
    CHECK(atomic_load(&host.blocks) > 0);
    CHECK_FLOATS(floats(&first, 0), 3, 5, 7, 9);
    CHECK_FLOATS(floats(&second, 0), 3, 5, 7, 9);
    blaze_event_release(&first);
    CHECK_FLOATS(floats(&second, 0), 3, 5, 7, 9);
    blaze_event_release(&second);
    CHECK(floats(&third, 0)[0] >= 0);
    blaze_event_release(&third);
    CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    ALL_FREED(&host);
}

/* Two engines with an allocator each, and one without: nobody gets another's memory. */
static void each_engine_asks_its_own_allocator(void) {
    struct host hosts[2] = {{0}, {0}};
    blaze_engine *engines[3] = {engine_with(&hosts[0], NULL), engine_with(&hosts[1], NULL), new_engine(NULL)};
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 3; i++) {
            struct rig rig = {engines[i], NULL, 0};
            blaze_model small = load_model(engines[i], SMALL);
            CHECK_STATUS(blaze_model_load(engines[i], "{\"name\": \"mock\", \"backend\": \"mock\"}", &rig.model, NULL), OK);
            still_works(&rig);
            CHECK_STATUS(blaze_model_unload(engines[i], small, NULL, NULL), OK);
        }
    blaze_engine_destroy(engines[0]);
    ALL_FREED(&hosts[0]);
    CHECK(atomic_load(&hosts[1].blocks) > 0);
    blaze_engine_destroy(engines[2]);
    blaze_engine_destroy(engines[1]);
    ALL_FREED(&hosts[1]);
}

/* A whole life in which anything may fail for want of memory; what fails must say so. */
static void live(struct host *host) {
    blaze_allocator allocator = allocator_of(host);
    blaze_engine *engine = NULL;
    blaze_error error = {.status = 0};
    blaze_status status = blaze_engine_create_with_allocator(NULL, &allocator, &engine, &error);
#define OK_OR_NO_MEMORY(status, text)                                                                             \
    do {                                                                                                          \
        blaze_status check_s = (status);                                                                          \
        if (check_s != BLAZE_STATUS_OK && check_s != BLAZE_STATUS_OUT_OF_MEMORY)                                  \
            FAIL("call %llu failing: %s: %s", atomic_load(&host->fails_at), blaze_status_name(check_s), (text) ? (text) : ""); \
        if (check_s != BLAZE_STATUS_OK) CHECK((text) && *(text));                                                 \
    } while (0)
    OK_OR_NO_MEMORY(status, error.message);
    if (status != BLAZE_STATUS_OK) {
        CHECK(!engine);
        return;
    }
    blaze_queue *queue = new_queue(engine, 16);
    const char *const configs[] = {"{\"name\": \"mock\", \"backend\": \"mock\"}", TINY, SMALL};
    static const float data[128] = {1, 2, 3, 4};
    for (int i = 0; i < 3; i++) {
        blaze_model model = 0;
        error.message[0] = 0;
        status = blaze_model_load(engine, configs[i], &model, &error);
        OK_OR_NO_MEMORY(status, error.message);
        if (status != BLAZE_STATUS_OK) {
            CHECK_INT(model, 0);
            continue;
        }
        struct call call;
        for (int way = 0; way < 4; way++) {
            blaze_event event = BLAZE_EVENT_INIT;
            call_with(&call, model, data, way == 3 ? 2 : 1, i == 2 ? 64 : 4)->flags = way == 2 ? BLAZE_REQUEST_BORROW : 0;
            if (way == 0) {
                status = blaze_infer(engine, &call.request, PATIENCE, &event, &error);
                OK_OR_NO_MEMORY(status, error.message);
                if (status != BLAZE_STATUS_OK) continue;
            } else {
                status = blaze_submit(engine, &call.request, queue, NULL, &error);
                OK_OR_NO_MEMORY(status, error.message);
                if (status != BLAZE_STATUS_OK) continue;
                event = next_event(queue);
                OK_OR_NO_MEMORY(event.status, event.text);
            }
            if (event.status == BLAZE_STATUS_OK && i == 0) CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            blaze_event_release(&event);
        }
        if (i == 1) { /* leaves, and comes back, maybe */
            CHECK_STATUS(blaze_engine_set_budget(engine, 0), OK);
            CHECK_STATUS(blaze_engine_set_budget(engine, BLAZE_BUDGET_UNLIMITED), OK);
            blaze_event event = BLAZE_EVENT_INIT;
            call_with(&call, model, data, 1, 4);
            status = blaze_infer(engine, &call.request, PATIENCE, &event, &error);
            OK_OR_NO_MEMORY(status, error.message);
            if (status == BLAZE_STATUS_OK) blaze_event_release(&event);
        }
    }
    blaze_engine_destroy(engine);
    CHECK_STATUS(blaze_queue_destroy(queue), OK);
}

static void whichever_call_fails_the_host_is_told_and_nothing_leaks(void) {
    struct host whole = {0};
    live(&whole);
    ALL_FREED(&whole);
    unsigned long long calls = atomic_load(&whole.calls), step = getenv("BLAZE_SHORT") ? 20 : 1;
    printf("  %llu calls in all\n", calls);
    for (unsigned long long n = 0; n <= 200; n += step) {
        struct host host = {.fails_at = n, .fails_for = 1};
        live(&host);
        ALL_FREED(&host);
    }
    for (unsigned long long n = 0; n <= 60; n += 1 + step / 2) { /* and none succeeds any more */
        struct host host = {.fails_at = n, .fails_for = UINT64_MAX};
        live(&host);
        ALL_FREED(&host);
    }
}

static void a_reload_that_finds_no_memory_fails_its_requests_and_a_later_one_works(void) {
    struct host host = {0};
    struct rig rig = {engine_with(&host, NULL), NULL, 0};
    rig.queue = new_queue(rig.engine, 64);
    rig.model = load_model(rig.engine, TINY);
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_engine_set_budget(rig.engine, 0), OK);
    CHECK_STATUS(blaze_engine_set_budget(rig.engine, BLAZE_BUDGET_UNLIMITED), OK);
    CHECK_TEXT(residence(rig.engine, "tiny"), "evicted");
    blaze_ticket ticket = submit(&rig, simple_call(&call, rig.model));
    EXPECT_EVENT(rig.queue, ticket, OK);
    until_residence(rig.engine, "tiny", "idle");
    CHECK_STATUS(blaze_engine_set_budget(rig.engine, 0), OK);
    CHECK_STATUS(blaze_engine_set_budget(rig.engine, BLAZE_BUDGET_UNLIMITED), OK);
    atomic_store(&host.fails_at, atomic_load(&host.calls));
    atomic_store(&host.fails_for, UINT64_MAX);
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), OUT_OF_MEMORY);
    CHECK(error.message[0]);
    atomic_store(&host.fails_for, 0);
    blaze_status status;
    uint64_t until = blaze_now_ns() + 20 * SECOND;
    while ((status = blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error)) != BLAZE_STATUS_OK &&
           blaze_now_ns() < until)
        sleep_ns(20 * MILLISECOND);
    if (status != BLAZE_STATUS_OK) FAIL("does not come back: %s", error.message);
    else blaze_event_release(&event);
    rig_down(&rig);
    ALL_FREED(&host);
}

static void an_address_that_is_not_aligned_is_no_memory(void) {
    for (size_t off = 1; off <= 32; off *= 2) {
        struct host host = {.off = off};
        blaze_allocator allocator = allocator_of(&host);
        blaze_engine *engine = NULL;
        blaze_error error = {.status = 0};
        blaze_model model = 0;
        blaze_status status = blaze_engine_create_with_allocator(NULL, &allocator, &engine, &error);
        if (status == BLAZE_STATUS_OK)
            status = blaze_model_load(engine, "{\"name\": \"mock\", \"backend\": \"mock\"}", &model, &error);
        if (status == BLAZE_STATUS_OK) {
            struct call call;
            status = blaze_infer(engine, simple_call(&call, model), PATIENCE, &(blaze_event)BLAZE_EVENT_INIT, &error);
        }
        CHECK_STATUS(status, OUT_OF_MEMORY);
        CHECK(error.message[0]);
        blaze_engine_destroy(engine);
        CHECK(atomic_load(&host.frees) > 0); /* what could not be used was given back */
        ALL_FREED(&host);
    }
}

static void a_description_that_is_wrong_is_refused(void) {
    struct host host = {0};
    const blaze_allocator good = allocator_of(&host);
    blaze_engine *engine = NULL;
    blaze_error error = {.status = 0};
    blaze_allocator wrong = good;
    wrong.allocate = NULL;
    CHECK_STATUS(blaze_engine_create_with_allocator(NULL, &wrong, &engine, &error), NULL_POINTER);
    CHECK_TEXT(error.message, "allocate");
    wrong = good;
    wrong.free = NULL;
    CHECK_STATUS(blaze_engine_create_with_allocator(NULL, &wrong, &engine, &error), NULL_POINTER);
    CHECK_TEXT(error.message, "free");
    CHECK_STATUS(blaze_engine_create_with_allocator(NULL, NULL, &engine, &error), NULL_POINTER);
    CHECK_TEXT(error.message, "allocator");
    CHECK_STATUS(blaze_engine_create_with_allocator(NULL, &good, NULL, &error), NULL_POINTER);
    CHECK_STATUS(blaze_engine_create_with_allocator("{", &good, &engine, &error), INVALID_CONFIG);
    CHECK_STATUS(blaze_engine_create_with_allocator("\xFF", &good, &engine, &error), INVALID_ARGUMENT);
    CHECK_STATUS(blaze_engine_create_with_allocator("{", &good, &engine, NULL), INVALID_CONFIG);
    const uint32_t sizes[] = {0, 1, 3, 4097, UINT32_MAX};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        wrong = good;
        wrong.struct_size = sizes[i];
        CHECK_STATUS(blaze_engine_create_with_allocator(NULL, &wrong, &engine, &error), INVALID_STRUCT);
        CHECK_TEXT(error.message, "struct_size");
    }
    wrong = good; /* before the functions: they are not there */
    wrong.struct_size = (uint32_t)offsetof(blaze_allocator, allocate);
    blaze_status status = blaze_engine_create_with_allocator(NULL, &wrong, &engine, &error);
    CHECK(status == BLAZE_STATUS_INVALID_STRUCT || status == BLAZE_STATUS_NULL_POINTER);
    wrong = good;
    wrong.reserved = 1;
    CHECK_STATUS(blaze_engine_create_with_allocator(NULL, &wrong, &engine, &error), INVALID_STRUCT);
    CHECK(!engine);
    struct { blaze_allocator allocator; uint64_t more; } longer = {good, 0}; /* a newer host */
    longer.allocator.struct_size = sizeof longer;
    CHECK_STATUS(blaze_engine_create_with_allocator(NULL, &longer.allocator, &engine, &error), OK);
    blaze_engine_destroy(engine);
    engine = NULL;
    longer.more = 1;
    CHECK_STATUS(blaze_engine_create_with_allocator(NULL, &longer.allocator, &engine, &error), INVALID_STRUCT);
    CHECK(!engine);
    ALL_FREED(&host);
}

static void *work(void *argument) {
    struct rig *rig = argument;
    for (int i = 0; i < 200; i++) still_works(rig);
    return NULL;
}

static void many_threads_use_it_at_once(void) {
    struct host host = {0};
    struct rig rig = {engine_with(&host, "{\"memory\": {\"pool_bytes\": 0}}"), NULL, 0};
    rig.queue = new_queue(rig.engine, 64);
    rig.model = load_mock(rig.engine, "mock", "", "\"lanes\": 2, \"batching\": {\"max_rows\": 2}");
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++) REQUIRE(pthread_create(&threads[i], NULL, work, &rig) == 0);
    for (int i = 0; i < 20; i++) CHECK_STATUS(blaze_engine_trim(rig.engine), OK);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    rig_down(&rig);
    ALL_FREED(&host);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(all_memory_comes_back),
        TEST(an_event_that_outlives_the_engine_keeps_its_memory),
        TEST(each_engine_asks_its_own_allocator),
        TEST(whichever_call_fails_the_host_is_told_and_nothing_leaks),
        TEST(a_reload_that_finds_no_memory_fails_its_requests_and_a_later_one_works),
        TEST(an_address_that_is_not_aligned_is_no_memory),
        TEST(a_description_that_is_wrong_is_refused),
        TEST(many_threads_use_it_at_once),
    };
    return RUN_TESTS(tests, argc, argv);
}
