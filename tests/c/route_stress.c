/* Requests of every kind go by routes to models that fail in every way, while routes, targets and models come and go:
 * usage: route_stress [REQUESTS].
 *
 * At the end every accepted ticket has had exactly one terminal event, its buffers were released exactly once and not
 * written afterwards, every answer was right, and nothing is under way.
 */
#include "routes.h"
#include <pthread.h>

enum { PRODUCERS = 3, ROUTES = 2, WINDOW = 64, FAULTY = 4 };

struct record {
    unsigned char accepted, terminal, released, has_output;
    float input[4], output[4];
};

static blaze_engine *engine;
static _Atomic blaze_model routes[ROUTES];
static struct record *records;
static uint32_t requests;
static atomic_uint producers_done, changes, accepted, inferred, refused;
static atomic_uint by_status[1000];

struct producer {
    uint32_t number, outstanding;
    blaze_queue *queue;
};

static uint32_t next_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void is_released(struct record *record) {
    CHECK_INT(record->released++, 0);
    for (int i = 0; i < 4; i++) record->output[i] = -7; /* stays so */
}

/* What may become of a request here; anything else is a bug. */
static int is_usual(blaze_status status) {
    const blaze_status usual[] = {BLAZE_STATUS_NOT_FOUND, BLAZE_STATUS_QUEUE_FULL, BLAZE_STATUS_OVER_QUOTA,
                                  BLAZE_STATUS_RATE_LIMITED, BLAZE_STATUS_BACKEND_FAILED, BLAZE_STATUS_INTERNAL,
                                  BLAZE_STATUS_CANCELLED, BLAZE_STATUS_EXPIRED, BLAZE_STATUS_TIMEOUT, BLAZE_STATUS_OK};
    for (size_t i = 0; i < COUNT(usual); i++)
        if (status == usual[i]) return 1;
    return 0;
}

static void account(struct producer *producer, const blaze_event *event) {
    if (event->user_data >= requests) {
        FAIL("an event for user_data %" PRIu64, event->user_data);
        return;
    }
    struct record *record = &records[event->user_data];
    CHECK_INT(record->accepted, 1);
    if (event->kind == BLAZE_EVENT_DONE) {
        CHECK_INT(record->terminal++, 0);
        producer->outstanding--;
        atomic_fetch_add(&by_status[event->status], 1);
        if (!is_usual(event->status)) FAIL("an event of %s: %s", blaze_status_name(event->status), event->text);
        if (event->status == BLAZE_STATUS_OK) {
            const float *answer = floats(event, 0);
            CHECK(!record->has_output || answer == record->output);
            for (int i = 0; answer && i < 4; i++)
                if (answer[i] < 2 * record->input[i] + 1 || answer[i] > 2 * record->input[i] + 1)
                    FAIL("request %" PRIu64 ": element %d is %g", event->user_data, i, (double)answer[i]);
        }
    } else {
        CHECK_INT(event->kind, BLAZE_EVENT_BUFFERS_RELEASED);
        CHECK_INT(record->terminal, 1);
    }
    int now = (event->flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED) != 0;
    CHECK(now != ((event->flags & BLAZE_EVENT_FLAG_MORE) != 0));
    if (now) is_released(record);
}

static void take_events(struct producer *producer, uint64_t timeout_ns) {
    blaze_event events[32];
    uint32_t count = blaze_wait(producer->queue, events, sizeof events[0], 32, timeout_ns);
    for (uint32_t i = 0; i < count; i++) {
        account(producer, &events[i]);
        blaze_event_release(&events[i]);
    }
}

static void *produce(void *argument) {
    struct producer *producer = argument;
    uint32_t state = 88172645u + producer->number * 7919u;
    blaze_ticket recent[WINDOW] = {0};
    for (uint32_t i = producer->number; i < requests; i += PRODUCERS) {
        struct record *record = &records[i];
        uint32_t dice = next_random(&state);
        struct call call;
        blaze_error error = {.status = 0};
        for (int at = 0; at < 4; at++) record->input[at] = (float)((dice >> at) % 100);
        blaze_tensor output = BLAZE_TENSOR_INIT;
        output.dtype = BLAZE_DTYPE_F32;
        output.data = record->output;
        output.size_bytes = sizeof record->output;
        call_with(&call, atomic_load(&routes[dice % ROUTES]), record->input, 1, 4)->user_data = i;
        record->has_output = (dice >> 3) % 4 == 0;
        if (record->has_output) {
            call.request.outputs = &output;
            call.request.outputs_count = 1;
        }
        if ((dice >> 5) % 3 == 0) call.request.flags = BLAZE_REQUEST_BORROW;
        /* All have one: who is with a hanging model when the route is destroyed stays there. */
        call.request.deadline_ns = blaze_now_ns() + ((dice >> 7) % 6 ? 200 * MILLISECOND : (dice >> 8) % (8 * MILLISECOND));
        call.request.priority = (blaze_priority)((dice >> 11) % 4) - 1;
        call.request.session_id = (dice >> 13) % 16;
        call.request.tenant_id = (dice >> 17) % 4;
        call.request.route_key = (dice >> 19) % 16;
        blaze_status status;
        if ((dice >> 21) % 8 == 0) {
            blaze_event event = BLAZE_EVENT_INIT;
            uint64_t timeout_ns = (dice >> 24) % 4 ? PATIENCE : 3 * MILLISECOND;
            status = blaze_infer(engine, &call.request, timeout_ns, &event, &error);
            if (status == BLAZE_STATUS_OK) {
                const float *answer = floats(&event, 0);
                CHECK(answer && answer[3] >= 2 * record->input[3] + 1 && answer[3] <= 2 * record->input[3] + 1);
                blaze_event_release(&event);
            }
            atomic_fetch_add(&inferred, 1);
            is_released(record);
            record->accepted = record->terminal = 1;
        } else {
            blaze_ticket ticket = 0;
            status = blaze_submit(engine, &call.request, producer->queue, &ticket, &error);
            if (status == BLAZE_STATUS_OK) {
                record->accepted = 1;
                producer->outstanding++;
                atomic_fetch_add(&accepted, 1);
                recent[i / PRODUCERS % WINDOW] = ticket;
            } else {
                atomic_fetch_add(&refused, 1);
                sleep_ns(MILLISECOND / 20);
            }
        }
        if (!is_usual(status)) FAIL("request %u: %s: %s", i, blaze_status_name(status), error.message);
        if (next_random(&state) % 5 == 0) {
            status = blaze_cancel(engine, recent[next_random(&state) % WINDOW]);
            CHECK(status == BLAZE_STATUS_OK || status == BLAZE_STATUS_NOT_FOUND);
        }
        take_events(producer, 0);
        while (producer->outstanding >= WINDOW) take_events(producer, 10 * MILLISECOND);
    }
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (producer->outstanding > 0 && blaze_now_ns() < until) take_events(producer, 10 * MILLISECOND);
    CHECK_INT(producer->outstanding, 0);
    atomic_fetch_add(&producers_done, 1);
    return NULL;
}

static const char *const kinds[FAULTY] = {"error", "panic", "hang", "slow"};

static void load_faulty(int number) {
    char name[8], mock[256];
    snprintf(name, sizeof name, "f%d", number);
    snprintf(mock, sizeof mock, "\"faults\": [{\"kind\": \"%s\", \"share\": 0.15, \"latency_us\": 3000}]", kinds[number]);
    load_mock(engine, name, mock, number % 2 ? "\"lanes\": 2" : "");
}

static const char *route_json(int number, uint32_t dice) {
    static const char *const strategies[] = {"round_robin", "least_connections", "least_loaded", "power_of_two", "adaptive",
                                             "consistent_hash", "weighted_round_robin", "least_response_time"};
    static char text[1024];
    snprintf(text, sizeof text,
             "{\"name\": \"r%d\", \"strategy\": \"%s\", \"targets\": [{\"model\": \"f0\"}, {\"model\": \"f1\", \"weight\": 2},"
             " {\"model\": \"f2\"}, {\"model\": \"f3\", \"tier\": %u}, {\"model\": \"good\", \"tier\": %u}], \"sticky\":"
             " {\"enabled\": %s}, \"retry\": {\"attempt_timeout_ms\": 5, \"attempts\": 4, \"budget\": 1.0}, \"hedge\":"
             " {\"quantile\": %s, \"budget\": 0.5}, \"health\": {\"interval_ms\": %s}, \"limits\": {\"concurrency\": %u,"
             " \"waiting\": %u}}",
             number, strategies[dice % COUNT(strategies)], (dice >> 3) % 2, (dice >> 4) % 2, (dice >> 5) % 2 ? "true" : "false",
             (dice >> 6) % 2 ? "0.9" : "null", (dice >> 7) % 2 ? "5" : "null", 4 + (dice >> 8) % 64, (dice >> 14) % 100);
    return text;
}

/* Changes everything that can be changed, until the producers are done. */
static void *change(void *argument) {
    uint32_t state = 2463534242u;
    (void)argument;
    while (atomic_load(&producers_done) < PRODUCERS) {
        uint32_t dice = next_random(&state);
        int number = (int)(dice >> 16) % ROUTES;
        blaze_model route = atomic_load(&routes[number]), model = 0;
        blaze_error error = {.status = 0};
        const char *target = (dice >> 20) % 2 ? "f1" : "good";
        char json[64], name[8];
        switch ((dice >> 24) % 7) {
        case 0:
            CHECK_STATUS(blaze_route_update(engine, route, route_json(number, dice), &error), OK);
            break;
        case 1:
            CHECK_STATUS(blaze_route_destroy(engine, route), OK);
            atomic_store(&routes[number], new_route(engine, route_json(number, dice)));
            break;
        case 2:
            CHECK_STATUS(blaze_route_target_drain(engine, route, target, 1), OK);
            sleep_ns(MILLISECOND);
            CHECK_STATUS(blaze_route_target_drain(engine, route, target, 0), OK);
            break;
        case 3:
            CHECK_STATUS(blaze_route_target_remove(engine, route, target), OK);
            sleep_ns(MILLISECOND);
            snprintf(json, sizeof json, "{\"model\": \"%s\", \"weight\": 3}", target);
            CHECK_STATUS(blaze_route_target_add(engine, route, json, &error), OK);
            break;
        case 4:
            snprintf(name, sizeof name, "f%u", (dice >> 20) % FAULTY);
            CHECK_STATUS(blaze_model_find(engine, name, &model), OK);
            CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), OK);
            load_faulty((int)((dice >> 20) % FAULTY));
            break;
        case 5:
            snprintf(json, sizeof json, "{\"id\": %u, \"weight\": %u}", 1 + (dice >> 20) % 4, 1 + (dice >> 9) % 9);
            CHECK_STATUS(blaze_tenant_set(engine, json, &error), OK);
            break;
        default:
            CHECK(json_is_valid(info(engine, route)));
            CHECK(json_is_valid(health_text(engine)));
        }
        atomic_fetch_add(&changes, 1);
        sleep_ns((dice >> 2) % (MILLISECOND / 2));
    }
    return NULL;
}

static void every_ticket_ends_once_while_everything_changes(void) {
    pthread_t threads[PRODUCERS], changer;
    struct producer producers[PRODUCERS];
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    engine = new_engine("{\"tenants\": {\"default\": {\"concurrency\": 100}}}");
    records = calloc(requests, sizeof *records);
    REQUIRE(records);
    load_mock(engine, "good", "\"latency_us\": 50", "");
    for (int i = 0; i < FAULTY; i++) load_faulty(i);
    for (int i = 0; i < ROUTES; i++) atomic_store(&routes[i], new_route(engine, route_json(i, 0x0ff00u)));
    uint64_t started = blaze_now_ns();
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){i, 0, new_queue(engine, 4 * WINDOW)};
        REQUIRE(pthread_create(&threads[i], NULL, produce, &producers[i]) == 0);
    }
    REQUIRE(pthread_create(&changer, NULL, change, NULL) == 0);
    for (int i = 0; i < PRODUCERS; i++) pthread_join(threads[i], NULL);
    pthread_join(changer, NULL);
    for (int i = 0; i < ROUTES; i++) at_rest(engine, atomic_load(&routes[i]));
    printf("  %u requests in %.2f s, %u inferred, %u refused, %u changes meanwhile\n", atomic_load(&accepted),
           (double)(blaze_now_ns() - started) / 1e9, atomic_load(&inferred), atomic_load(&refused), atomic_load(&changes));
    for (int status = 0; status < 1000; status++)
        if (atomic_load(&by_status[status])) printf("  %8u %s\n", atomic_load(&by_status[status]), blaze_status_name(status));

    /* Buffers of requests that were given up while they ran are released when the runs have ended. */
    uint64_t until = blaze_now_ns() + PATIENCE;
    uint32_t open;
    do {
        open = 0;
        for (int i = 0; i < PRODUCERS; i++) take_events(&producers[i], 0);
        for (uint32_t i = 0; i < requests; i++) open += records[i].accepted && !records[i].released;
    } while (open > 0 && blaze_now_ns() < until);
    CHECK_INT(open, 0);
    uint32_t lost = 0, written = 0;
    for (uint32_t i = 0; i < requests; i++) {
        if (!records[i].accepted) continue;
        lost += records[i].terminal != 1 || records[i].released != 1;
        for (int at = 0; at < 4; at++) written += records[i].output[at] > -7;
    }
    CHECK_INT(lost, 0);
    CHECK_INT(written, 0);

    CHECK_STATUS(blaze_engine_shutdown(engine, PATIENCE), OK);
    CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
    CHECK_INT(metrics.in_flight, 0);
    CHECK_INT(metrics.requests_accepted, metrics.requests_ok + metrics.requests_failed + metrics.requests_cancelled +
                                             metrics.requests_expired + metrics.requests_shut_down);
    CHECK_STATUS(blaze_health(engine, &health), OK);
    CHECK_INT(health.in_flight, 0);
    for (int i = 0; i < PRODUCERS; i++) {
        no_event(producers[i].queue);
        CHECK_STATUS(blaze_queue_destroy(producers[i].queue), OK);
    }
    blaze_engine_destroy(engine);
    free(records);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {TEST(every_ticket_ends_once_while_everything_changes)};
    requests = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 40000;
    return RUN_TESTS(tests, 1, argv);
}
