/* Many requests of every kind from many threads, and a ledger of every ticket: usage: stress [REQUESTS].
 *
 * Eight producers submit to three models, two of them mocks, over four queues with a consumer each. Some requests
 * borrow, some have deadlines, some are cancelled. At the end every accepted ticket has had exactly one terminal event,
 * its buffers were released exactly once, and every answer was right.
 */
#include "check.h"
#include <pthread.h>

enum { PRODUCERS = 8, QUEUES = 4, QUEUE_CAPACITY = 512, MODELS = 3, MAX_ROWS = 3, WINDOW = 128 };

/* What is known about one request. A slot is never used again, so user_data names it. */
struct record {
    atomic_uchar accepted, terminal, released;
    unsigned char model, rows;
    float data[MAX_ROWS * 4]; /* lent, if the request borrows: stays as it is until the end */
};

static struct rig rig;
static blaze_queue *queues[QUEUES];
static blaze_model models[MODELS];
static struct record *records;
static uint32_t requests;
static atomic_uint accepted, terminal, released, producers_done, refused;
static atomic_uint by_status[1000], joined_rows;

/* A generator per thread: what happens differs from run to run anyway. */
static uint32_t next_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* The tiny model's answer has two probabilities per row; one row alone is the reference. */
static float tiny_reference[64][2];

static void fill(struct record *record, uint32_t seed) {
    for (int row = 0; row < record->rows; row++)
        for (int at = 0; at < 4; at++) record->data[4 * row + at] = (float)((seed + (uint32_t)row) % 64) / 8.0f + (float)at;
}

static void make_references(void) {
    for (uint32_t seed = 0; seed < 64; seed++) {
        struct record record = {.rows = 1};
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        fill(&record, seed);
        REQUIRE(blaze_infer(rig.engine, call_with(&call, models[2], record.data, 1, 4), PATIENCE, &event, NULL) ==
                BLAZE_STATUS_OK);
        memcpy(tiny_reference[seed], floats(&event, 0), sizeof tiny_reference[seed]);
        blaze_event_release(&event);
    }
}

static void check_answer(const blaze_event *event, const struct record *record) {
    blaze_tensor view = BLAZE_TENSOR_INIT;
    CHECK_STATUS(blaze_event_output(event, 0, &view), OK);
    int columns = record->model == 2 ? 2 : 4, wrong = 0;
    if (view.rank != 2 || view.shape[0] != record->rows || view.shape[1] != columns) {
        FAIL("request %" PRIu64 " has an answer of the wrong shape", event->user_data);
        return;
    }
    const float *answer = view.data;
    for (int row = 0; row < record->rows; row++) {
        uint32_t seed = (uint32_t)(record->data[4 * row] * 8.0f + 0.5f);
        for (int at = 0; at < columns; at++) {
            float want = columns == 2 ? tiny_reference[seed][at] : 2 * record->data[4 * row + at] + 1;
            float off = answer[columns * row + at] - want;
            wrong += !(off < 1e-4f && off > -1e-4f);
        }
    }
    if (wrong) FAIL("request %" PRIu64 ": %d of its elements are wrong", event->user_data, wrong);
}

static void account(const blaze_event *event) {
    if (event->user_data >= requests) {
        FAIL("an event for user_data %" PRIu64, event->user_data);
        return;
    }
    struct record *record = &records[event->user_data];
    if (event->kind == BLAZE_EVENT_DONE) {
        CHECK_INT(atomic_fetch_add(&record->terminal, 1), 0);
        atomic_fetch_add(&by_status[event->status], 1);
        atomic_fetch_add(&terminal, 1);
        if (event->status == BLAZE_STATUS_OK) {
            check_answer(event, record);
            if (event->timing.batch_rows > record->rows) atomic_fetch_add(&joined_rows, 1);
        } else if (event->status != BLAZE_STATUS_CANCELLED && event->status != BLAZE_STATUS_EXPIRED &&
                   event->status != BLAZE_STATUS_BACKEND_FAILED) {
            FAIL("request %" PRIu64 ": %s: %s", event->user_data, blaze_status_name(event->status),
                 event->text ? event->text : "");
        }
    } else {
        CHECK_INT(event->kind, BLAZE_EVENT_BUFFERS_RELEASED);
        CHECK_INT(atomic_load(&record->terminal), 1); /* comes after */
    }
    int now = (event->flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED) != 0;
    int later = (event->flags & BLAZE_EVENT_FLAG_MORE) != 0;
    CHECK(now != later); /* either the buffers are free, or another event will say so */
    if (now) {
        CHECK_INT(atomic_fetch_add(&record->released, 1), 0);
        atomic_fetch_add(&released, 1);
    }
}

static void *consume(void *argument) {
    blaze_queue *queue = *(blaze_queue **)argument;
    blaze_event events[32];
    uint64_t quiet_since = blaze_now_ns();
    for (uint32_t turn = 0;; turn++) {
        uint32_t room = 1 + turn % 32;
        uint32_t count = blaze_wait(queue, events, sizeof events[0], room, 10 * MILLISECOND);
        for (uint32_t i = 0; i < count; i++) {
            account(&events[i]);
            blaze_event_release(&events[i]);
        }
        if (count) quiet_since = blaze_now_ns();
        int done = atomic_load(&producers_done) == PRODUCERS && atomic_load(&released) == atomic_load(&accepted);
        if (done || blaze_now_ns() - quiet_since > PATIENCE) return NULL;
    }
}

static void *produce(void *argument) {
    uint32_t first = *(uint32_t *)argument, state = 2463534242u + first * 77u;
    blaze_ticket recent[WINDOW] = {0};
    for (uint32_t i = first; i < requests; i += PRODUCERS) {
        struct record *record = &records[i];
        uint32_t dice = next_random(&state);
        struct call call;
        record->model = (unsigned char)(dice % MODELS);
        record->rows = (unsigned char)(1 + (dice >> 4) % MAX_ROWS);
        fill(record, dice >> 8);
        float copied[COUNT(record->data)]; /* what is not lent is overwritten right after submit */
        int lends = (dice >> 16) % 3 == 0;
        memcpy(copied, record->data, sizeof copied);
        call_with(&call, models[record->model], lends ? record->data : copied, record->rows, 4)->user_data = i;
        call.request.priority = (blaze_priority)((dice >> 12) % 4) - 1;
        if (lends) call.request.flags = BLAZE_REQUEST_BORROW;
        if ((dice >> 20) % 8 == 0) call.request.deadline_ns = blaze_now_ns() + (dice >> 8) % (2 * MILLISECOND);
        blaze_queue *queue = queues[next_random(&state) % QUEUES];
        blaze_ticket ticket = 0;
        blaze_status status;
        blaze_error error;
        /* Before submit: the event may come before it returns. */
        atomic_store(&record->accepted, 1);
        while ((status = blaze_submit(rig.engine, &call.request, queue, &ticket, &error)) == BLAZE_STATUS_QUEUE_FULL) {
            atomic_fetch_add(&refused, 1);
            sleep_ns(MILLISECOND / 20);
        }
        if (status != BLAZE_STATUS_OK) {
            atomic_store(&record->accepted, 0);
            FAIL("submit: %s: %s", blaze_status_name(status), error.message);
            continue;
        }
        atomic_fetch_add(&accepted, 1);
        memset(copied, 0xFF, sizeof copied);
        recent[i / PRODUCERS % WINDOW] = ticket;
        if (next_random(&state) % 6 == 0) { /* maybe running, maybe done, maybe cancelled before */
            blaze_status answer = blaze_cancel(rig.engine, recent[next_random(&state) % WINDOW]);
            CHECK(answer == BLAZE_STATUS_OK || answer == BLAZE_STATUS_NOT_FOUND);
        }
    }
    atomic_fetch_add(&producers_done, 1);
    return NULL;
}

static void report(double seconds) {
    printf("  %u requests in %.2f s: %.0f per second, %u times QUEUE_FULL, %u answers from joined batches\n",
           atomic_load(&accepted), seconds, atomic_load(&accepted) / seconds, atomic_load(&refused),
           atomic_load(&joined_rows));
    for (int status = 0; status < 1000; status++)
        if (atomic_load(&by_status[status]))
            printf("  %8u %s\n", atomic_load(&by_status[status]), blaze_status_name(status));
}

static void every_ticket_ends_once_and_every_answer_is_right(void) {
    rig.engine = new_engine("{\"threads\": null}");
    models[0] = load_mock(rig.engine, "plain", "", "");
    models[1] = load_mock(rig.engine, "slow", "\"latency_us\": 300, \"faults\": [{\"kind\": \"error\", \"after\": 13,"
                          " \"every\": 97}]", "\"lanes\": 2, \"batching\": {\"max_rows\": 32, \"max_delay_us\": 1000}");
    models[2] = load_model(rig.engine, "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}");
    make_references();
    blaze_metrics_info before = BLAZE_METRICS_INFO_INIT, after = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(rig.engine, &before), OK);
    records = calloc(requests, sizeof *records);
    REQUIRE(records);

    pthread_t producers[PRODUCERS], consumers[QUEUES];
    uint32_t numbers[PRODUCERS];
    uint64_t started = blaze_now_ns();
    for (int i = 0; i < QUEUES; i++) {
        queues[i] = new_queue(rig.engine, QUEUE_CAPACITY);
        REQUIRE(pthread_create(&consumers[i], NULL, consume, &queues[i]) == 0);
    }
    /* A queue is created before any producer runs: each of them uses all. */
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        numbers[i] = i;
        REQUIRE(pthread_create(&producers[i], NULL, produce, &numbers[i]) == 0);
    }
    for (int i = 0; i < PRODUCERS; i++) pthread_join(producers[i], NULL);
    for (int i = 0; i < QUEUES; i++) pthread_join(consumers[i], NULL);
    report((double)(blaze_now_ns() - started) / 1e9);

    CHECK_INT(atomic_load(&accepted), requests);
    CHECK_INT(atomic_load(&terminal), requests);
    CHECK_INT(atomic_load(&released), requests);
    uint32_t lost = 0;
    for (uint32_t i = 0; i < requests; i++)
        lost += !(atomic_load(&records[i].accepted) == 1 && atomic_load(&records[i].terminal) == 1 &&
                  atomic_load(&records[i].released) == 1);
    CHECK_INT(lost, 0);

    CHECK_STATUS(blaze_engine_shutdown(rig.engine, PATIENCE), OK);
    CHECK_STATUS(blaze_metrics(rig.engine, &after), OK);
    CHECK_INT(after.requests_accepted - before.requests_accepted, requests);
    CHECK_INT(after.requests_ok - before.requests_ok, atomic_load(&by_status[BLAZE_STATUS_OK]));
    CHECK_INT(after.requests_cancelled, atomic_load(&by_status[BLAZE_STATUS_CANCELLED]));
    CHECK_INT(after.requests_expired, atomic_load(&by_status[BLAZE_STATUS_EXPIRED]));
    CHECK_INT(after.requests_failed, atomic_load(&by_status[BLAZE_STATUS_BACKEND_FAILED]));
    CHECK_INT(after.requests_rejected, atomic_load(&refused));
    CHECK_INT(after.in_flight, 0);
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    CHECK_STATUS(blaze_health(rig.engine, &health), OK);
    CHECK_INT(health.in_flight, 0);
    for (int i = 0; i < QUEUES; i++) {
        no_event(queues[i]);
        CHECK_STATUS(blaze_queue_destroy(queues[i]), OK);
    }
    blaze_engine_destroy(rig.engine);
    free(records);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {TEST(every_ticket_ends_once_and_every_answer_is_right)};
    requests = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 100000;
    return RUN_TESTS(tests, 1, argv);
}
