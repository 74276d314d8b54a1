/* Requests that are cancelled or expire, queued or running, and which of the waiting ones goes first. */
#include "check.h"

static void a_queued_request_is_cancelled_at_once_and_its_buffers_are_free(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    blaze_ticket blocker = submit_blocker(&rig);
    for (uint32_t flags = 0; flags <= BLAZE_REQUEST_BORROW; flags++) {
        struct call call;
        simple_call(&call, rig.model)->flags = flags;
        call.request.user_data = 5;
        blaze_ticket ticket = submit(&rig, &call.request);
        no_event(rig.queue);
        CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
        blaze_event event = BLAZE_EVENT_INIT;
        REQUIRE(blaze_poll(rig.queue, &event, sizeof event, 1) == 1); /* at once: no waiting */
        CHECK_INT(event.kind, BLAZE_EVENT_DONE);
        CHECK_STATUS(event.status, CANCELLED);
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        CHECK_INT(event.ticket, ticket);
        CHECK_INT(event.user_data, 5);
        CHECK_INT(event.model, rig.model);
        CHECK_INT(event.outputs_count, 0);
        blaze_event_release(&event);
        CHECK_STATUS(blaze_cancel(rig.engine, ticket), NOT_FOUND);
        no_event(rig.queue);
    }
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    rig_down(&rig);
}

static void a_running_request_is_cancelled_at_once(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    blaze_ticket ticket = submit_blocker(&rig);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    blaze_event event = BLAZE_EVENT_INIT;
    REQUIRE(blaze_poll(rig.queue, &event, sizeof event, 1) == 1);
    CHECK_INT(event.kind, BLAZE_EVENT_DONE);
    CHECK_STATUS(event.status, CANCELLED);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED); /* nothing was lent */
    blaze_event_release(&event);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), NOT_FOUND);
    no_event(rig.queue);
    rig_down(&rig);
}

/* Takes the terminal event of a request that borrows and runs, and then the event that its buffers are free. */
static void expect_terminal_then_released(struct rig *rig, blaze_ticket ticket, blaze_status status) {
    blaze_event event = next_event(rig->queue);
    CHECK_INT(event.kind, BLAZE_EVENT_DONE);
    CHECK_INT(event.ticket, ticket);
    CHECK_INT(event.status, status);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_MORE);
    CHECK_INT(event.user_data, 77);
    blaze_event_release(&event);
    event = next_event(rig->queue);
    CHECK_INT(event.kind, BLAZE_EVENT_BUFFERS_RELEASED);
    CHECK_INT(event.ticket, ticket);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
    CHECK_INT(event.user_data, 77);
    CHECK_INT(event.outputs_count, 0);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_cancel(rig->engine, ticket), NOT_FOUND);
    no_event(rig->queue);
}

static void a_cancel_while_running_frees_borrowed_buffers_with_an_event_of_its_own(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_BORROW;
    call.request.user_data = 77;
    blaze_ticket ticket = submit(&rig, &call.request);
    until_running(rig.engine);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    expect_terminal_then_released(&rig, ticket, BLAZE_STATUS_CANCELLED);
    rig_down(&rig);
}

static void a_deadline_while_running_frees_borrowed_buffers_with_an_event_of_its_own(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_BORROW;
    call.request.user_data = 77;
    call.request.deadline_ns = blaze_now_ns() + 200 * MILLISECOND;
    blaze_ticket ticket = submit(&rig, &call.request);
    expect_terminal_then_released(&rig, ticket, BLAZE_STATUS_EXPIRED);
    rig_down(&rig);
}

static void a_cancelled_requests_output_buffers_are_not_written(void) {
    struct rig rig = rig_up(NULL, "\"latency_us\": 200000", "");
    float buffer[4] = {-1, -1, -1, -1};
    blaze_tensor output = BLAZE_TENSOR_INIT;
    output.dtype = BLAZE_DTYPE_F32;
    output.data = buffer;
    output.size_bytes = sizeof buffer;
    struct call call;
    simple_call(&call, rig.model)->outputs = &output;
    call.request.outputs_count = 1;
    blaze_ticket ticket = submit(&rig, &call.request);
    struct call beside; /* keeps the batch wanted, so that it runs to its end if both are in it */
    blaze_ticket other = submit(&rig, simple_call(&beside, rig.model));
    until_running(rig.engine);
    if (blaze_cancel(rig.engine, ticket) == BLAZE_STATUS_OK) {
        EXPECT_EVENT(rig.queue, ticket, CANCELLED);
        EXPECT_EVENT(rig.queue, other, OK);
        CHECK_FLOATS(buffer, -1, -1, -1, -1);
    } else {
        printf("  too slow a machine to cancel in time\n");
    }
    rig_down(&rig);
}

static void one_request_of_a_batch_can_be_cancelled_and_the_others_go_on(void) {
    struct rig rig = rig_up(NULL, "\"faults\": [{\"kind\": \"hang\", \"count\": 1},"
                                  "{\"kind\": \"slow\", \"latency_us\": 300000}]", "");
    blaze_ticket blocker = submit_blocker(&rig), tickets[3];
    for (int i = 0; i < 3; i++) tickets[i] = submit_simple(&rig, (uint64_t)i);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    until_running(rig.engine);
    if (blaze_cancel(rig.engine, tickets[1]) == BLAZE_STATUS_OK) {
        EXPECT_EVENT(rig.queue, tickets[1], CANCELLED);
        for (int i = 0; i < 2; i++) {
            blaze_event event = next_event(rig.queue);
            CHECK_STATUS(event.status, OK);
            CHECK_INT(event.timing.batch_rows, 3);
            CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
            blaze_event_release(&event);
        }
    }
    rig_down(&rig);
}

static void a_finished_request_cannot_be_cancelled(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_ticket ticket = submit_simple(&rig, 0);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), NOT_FOUND); /* its event is taken, not yet released */
    CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), NOT_FOUND);
    no_event(rig.queue);
    rig_down(&rig);
}

static void a_deadline_expires_a_queued_request(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    blaze_ticket blocker = submit_blocker(&rig);
    struct call call;
    uint64_t deadline = blaze_now_ns() + 50 * MILLISECOND;
    simple_call(&call, rig.model)->deadline_ns = deadline;
    call.request.flags = BLAZE_REQUEST_BORROW;
    blaze_ticket ticket = submit(&rig, &call.request);
    blaze_event event = next_event(rig.queue);
    CHECK(blaze_now_ns() >= deadline);
    CHECK_INT(event.ticket, ticket);
    CHECK_STATUS(event.status, EXPIRED);
    CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    no_event(rig.queue);
    rig_down(&rig);
}

static void deadlines_expire_in_their_own_order(void) {
    struct rig rig = rig_up(NULL, HANGS_ALWAYS, ALONE);
    blaze_ticket blocker = submit_blocker(&rig);
    const uint64_t order[] = {3, 0, 2, 1};
    uint64_t now = blaze_now_ns() + 100 * MILLISECOND; /* all are submitted before the first is due */
    for (size_t i = 0; i < COUNT(order); i++) {
        struct call call;
        simple_call(&call, rig.model)->deadline_ns = now + order[i] * 100 * MILLISECOND; /* machines pause */
        call.request.user_data = order[i];
        submit(&rig, &call.request);
    }
    unsigned expired = 0;
    for (uint64_t i = 0; i < COUNT(order); i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, EXPIRED);
        /* After a pause of the machine several may be due at once, in any order. */
        if (blaze_now_ns() < now + (i + 1) * 100 * MILLISECOND) CHECK_INT(event.user_data, i);
        if (event.user_data < COUNT(order)) expired |= 1u << event.user_data;
        blaze_event_release(&event);
    }
    CHECK_INT(expired, 15);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    rig_down(&rig);
}

/* A deadline in the past is no error of submit's: there is one event, and it says so. Nothing runs. */
static void a_deadline_that_is_past_expires_the_request(void) {
    struct rig rig = rig_up(NULL, "", "");
    const int requests = getenv("BLAZE_SHORT") ? 100 : 4000; /* a lane that waits for one may be quick to take it */
    sleep_ns(MILLISECOND); /* the clock may have started just now */
    for (int i = 0; i < requests; i++) {
        struct call call;
        simple_call(&call, rig.model)->deadline_ns = i % 2 ? 1 : blaze_now_ns() - 1;
        call.request.flags = i % 4 < 2 ? BLAZE_REQUEST_BORROW : 0;
        blaze_ticket ticket = submit(&rig, &call.request);
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.ticket, ticket);
        CHECK_STATUS(event.status, EXPIRED);
        CHECK_INT(event.flags, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
        blaze_event_release(&event);
    }
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.requests_expired, requests);
    CHECK_INT(metrics.batches, 0);
    rig_down(&rig);
}

static void a_far_deadline_changes_nothing(void) {
    struct rig rig = rig_up(NULL, "", "");
    const uint64_t deadlines[] = {UINT64_MAX, UINT64_MAX - 1, blaze_now_ns() + PATIENCE, UINT64_C(1) << 63};
    for (size_t i = 0; i < COUNT(deadlines); i++) {
        struct call call;
        simple_call(&call, rig.model)->deadline_ns = deadlines[i];
        blaze_ticket ticket = submit(&rig, &call.request);
        EXPECT_EVENT(rig.queue, ticket, OK);
    }
    rig_down(&rig);
}

/* Submits four requests to a model that hangs, `pause_ns` after the first, lets them go, and checks their order. */
static void check_order(const char *batching, uint64_t pause_ns, const blaze_priority *submitted,
                        const blaze_priority *expected) {
    struct rig rig = rig_up(NULL, HANGS(1), batching);
    blaze_ticket blocker = submit_blocker(&rig);
    for (int i = 0; i < 4; i++) {
        struct call call;
        simple_call(&call, rig.model)->priority = submitted[i];
        call.request.user_data = (uint64_t)(submitted[i] + 1);
        submit(&rig, &call.request);
        if (i == 0) sleep_ns(pause_ns);
    }
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    for (int i = 0; i < 4; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.user_data, expected[i] + 1);
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

static void what_is_more_urgent_overtakes(void) {
    const blaze_priority submitted[] = {BLAZE_PRIORITY_LOW, BLAZE_PRIORITY_NORMAL, BLAZE_PRIORITY_HIGH,
                                        BLAZE_PRIORITY_CRITICAL};
    const blaze_priority expected[] = {BLAZE_PRIORITY_CRITICAL, BLAZE_PRIORITY_HIGH, BLAZE_PRIORITY_NORMAL,
                                       BLAZE_PRIORITY_LOW};
    check_order("\"batching\": {\"max_rows\": 1, \"priority_aging_ms\": 600000}", 0, submitted, expected);
}

static void what_has_waited_long_enough_overtakes_any_priority(void) {
    /* Three levels lie between low and critical; 100 of them pass. A slow machine only makes it older. */
    const blaze_priority submitted[] = {BLAZE_PRIORITY_LOW, BLAZE_PRIORITY_CRITICAL, BLAZE_PRIORITY_CRITICAL,
                                        BLAZE_PRIORITY_CRITICAL};
    check_order("\"batching\": {\"max_rows\": 1, \"priority_aging_ms\": 1}", 100 * MILLISECOND, submitted, submitted);
}

static void requests_of_one_priority_run_in_the_order_of_submission(void) {
    struct rig rig = rig_up(NULL, HANGS(1), ALONE);
    blaze_ticket blocker = submit_blocker(&rig), tickets[100];
    for (size_t i = 0; i < COUNT(tickets); i++) tickets[i] = submit_simple(&rig, i);
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    EXPECT_EVENT(rig.queue, blocker, CANCELLED);
    for (size_t i = 0; i < COUNT(tickets); i++) EXPECT_EVENT(rig.queue, tickets[i], OK);
    rig_down(&rig);
}

/* A real run is told to stop, too: n = 10^9 takes over an hour. */
static void a_run_inside_onnx_runtime_is_stopped(void) {
    struct rig rig = {new_engine(NULL), NULL, 0};
    rig.queue = new_queue(rig.engine, 16);
    rig.model = load_model(rig.engine, "{\"name\": \"slow\", \"path\": \"tests/models/slow_loop.onnx\"}");
    char info[4096];
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, info, sizeof info, NULL), OK);
    int64_t n[] = {1000000000};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_I64;
    input.data = n;
    input.size_bytes = sizeof n;
    input.rank = strstr(info, "\"shape\":[]") ? 0 : 1;
    int64_t shape[] = {1};
    input.shape = shape;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = rig.model;
    request.flags = BLAZE_REQUEST_BORROW;
    request.user_data = 77;
    request.inputs = &input;
    request.inputs_count = 1;
    blaze_ticket ticket = submit(&rig, &request);
    until_running(rig.engine);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    expect_terminal_then_released(&rig, ticket, BLAZE_STATUS_CANCELLED);
    n[0] = 3; /* ours again */
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_infer(rig.engine, &request, PATIENCE, &event, NULL), OK);
    blaze_event_release(&event);
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_queued_request_is_cancelled_at_once_and_its_buffers_are_free),
        TEST(a_running_request_is_cancelled_at_once),
        TEST(a_cancel_while_running_frees_borrowed_buffers_with_an_event_of_its_own),
        TEST(a_deadline_while_running_frees_borrowed_buffers_with_an_event_of_its_own),
        TEST(a_cancelled_requests_output_buffers_are_not_written),
        TEST(one_request_of_a_batch_can_be_cancelled_and_the_others_go_on),
        TEST(a_finished_request_cannot_be_cancelled),
        TEST(a_deadline_expires_a_queued_request),
        TEST(deadlines_expire_in_their_own_order),
        TEST(a_deadline_that_is_past_expires_the_request),
        TEST(a_far_deadline_changes_nothing),
        TEST(what_is_more_urgent_overtakes),
        TEST(what_has_waited_long_enough_overtakes_any_priority),
        TEST(requests_of_one_priority_run_in_the_order_of_submission),
        TEST(a_run_inside_onnx_runtime_is_stopped),
    };
    return RUN_TESTS(tests, argc, argv);
}
