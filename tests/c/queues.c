/* Completion queues: their capacity and the engine's, waiting, polling from several threads, and the descriptor. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif

static void a_full_completion_queue_refuses_requests_and_recovers(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_queue *small = new_queue(rig.engine, 3);
    struct call call;
    blaze_error error = {.status = 0};
    simple_call(&call, rig.model);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++) CHECK_STATUS(blaze_submit(rig.engine, &call.request, small, NULL, NULL), OK);
        blaze_ticket ticket = 0;
        CHECK_STATUS(blaze_submit(rig.engine, &call.request, small, &ticket, &error), QUEUE_FULL);
        CHECK_TEXT(error.message, "3"); /* the capacity */
        CHECK_INT(ticket, 0);
        still_works(&rig); /* other queues are not full */
        for (int i = 0; i < 3; i++) {
            blaze_event event = next_event(small);
            CHECK_STATUS(event.status, OK);
            blaze_event_release(&event);
        }
        no_event(small);
    }
    CHECK_STATUS(blaze_queue_destroy(small), OK);
    rig_down(&rig);
}

/* Of one that is joined with others the data is copied at once, so that no second event can follow. */
static void a_request_that_borrows_takes_room_for_two_events(void) {
    struct rig rig = rig_up(NULL, "", ALONE);
    blaze_queue *one = new_queue(rig.engine, 1), *two = new_queue(rig.engine, 2);
    struct call call;
    simple_call(&call, rig.model)->flags = BLAZE_REQUEST_BORROW;
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, one, NULL, NULL), QUEUE_FULL);
    for (int i = 0; i < 20; i++) { /* and gives both places back */
        CHECK_STATUS(blaze_submit(rig.engine, &call.request, two, NULL, NULL), OK);
        CHECK_STATUS(blaze_submit(rig.engine, &call.request, two, NULL, NULL), QUEUE_FULL);
        blaze_event event = next_event(two);
        blaze_event_release(&event);
    }
    CHECK_STATUS(blaze_queue_destroy(one), OK);
    CHECK_STATUS(blaze_queue_destroy(two), OK);
    rig_down(&rig);
}

static void a_full_engine_refuses_requests_until_events_are_released(void) {
    struct rig rig = rig_up("{\"queue\": {\"capacity\": 4}}", "", "");
    struct call call;
    blaze_error error = {.status = 0};
    blaze_event events[4];
    simple_call(&call, rig.model);
    for (int i = 0; i < 4; i++) submit(&rig, &call.request);
    for (int i = 0; i < 4; i++) events[i] = next_event(rig.queue);
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), QUEUE_FULL);
    CHECK_TEXT(error.message, "queue.capacity");
    blaze_event event = BLAZE_EVENT_INIT;
    CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error), QUEUE_FULL);
    blaze_event_release(&events[2]);
    blaze_ticket ticket = submit(&rig, &call.request);
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), QUEUE_FULL);
    EXPECT_EVENT(rig.queue, ticket, OK);
    still_works(&rig);
    for (int i = 0; i < 4; i++) blaze_event_release(&events[i]);
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.requests_rejected, 3);
    CHECK_INT(metrics.requests_accepted, 6);
    CHECK_INT(metrics.requests_ok, 6);
    rig_down(&rig);
}

/* "poll, release events, try again": who has done all that has room again, though the lane is still busy. */
static void cancelled_requests_whose_events_are_released_leave_room_in_the_engine(void) {
    struct rig rig = rig_up("{\"queue\": {\"capacity\": 4}}", HANGS_ALWAYS, ALONE);
    blaze_ticket blocker = submit_blocker(&rig);
    struct call call;
    blaze_error error = {.status = 0};
    simple_call(&call, rig.model);
    for (int round = 0; round < 3; round++) {
        blaze_ticket tickets[3] = {0};
        for (int i = 0; i < 3; i++)
            if (blaze_submit(rig.engine, &call.request, rig.queue, &tickets[i], &error) != BLAZE_STATUS_OK)
                FAIL("round %d: %s", round, error.message);
        for (int i = 0; i < 3 && tickets[i]; i++) {
            CHECK_STATUS(blaze_cancel(rig.engine, tickets[i]), OK);
            EXPECT_EVENT(rig.queue, tickets[i], CANCELLED);
        }
        CHECK_INT(queue_depth(rig.engine), 0);
    }
    CHECK_STATUS(blaze_cancel(rig.engine, blocker), OK);
    rig_down(&rig);
}

/* "Accepted tickets without a terminal event": who has the event must not find its ticket counted still. */
static void a_ticket_whose_event_is_taken_is_not_in_flight(void) {
    struct rig rig = rig_up(NULL, "", "");
    int counted = 0;
    for (int i = 0; i < 2000; i++) {
        blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
        EXPECT_EVENT(rig.queue, submit_simple(&rig, 0), OK);
        CHECK_STATUS(blaze_health(rig.engine, &health), OK);
        counted += health.in_flight != 0;
    }
    CHECK_INT(counted, 0);
    rig_down(&rig);
}

static void waiting_ends_at_its_time(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_event event = BLAZE_EVENT_INIT;
    uint64_t started = blaze_now_ns();
    CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 1, 50 * MILLISECOND), 0);
    CHECK(blaze_now_ns() - started >= 50 * MILLISECOND);
    CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 1, 0), 0);
    CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 0, PATIENCE), 0); /* no room: nothing to wait for */
    CHECK(blaze_now_ns() - started < 30 * SECOND);
    rig_down(&rig);
}

static void events_come_in_portions_of_the_callers_choice(void) {
    struct rig rig = rig_up(NULL, "", ALONE);
    blaze_event events[8];
    for (uint64_t i = 0; i < 7; i++) submit_simple(&rig, i);
    uint64_t next = 0;
    while (next < 7) {
        uint32_t count = blaze_wait(rig.queue, events, sizeof events[0], 3, PATIENCE);
        REQUIRE(count >= 1 && count <= 3);
        for (uint32_t i = 0; i < count; i++, next++) {
            CHECK_INT(events[i].user_data, next);
            blaze_event_release(&events[i]);
        }
    }
    no_event(rig.queue);
    rig_down(&rig);
}

struct waiter {
    blaze_queue *queue;
    uint32_t count;
    atomic_uint about_to_wait;
    blaze_event event;
};

static void *wait_for_one(void *argument) {
    struct waiter *waiter = argument;
    atomic_store(&waiter->about_to_wait, 1);
    waiter->count = blaze_wait(waiter->queue, &waiter->event, sizeof waiter->event, 1, PATIENCE);
    return NULL;
}

static void a_second_consumer_gets_nothing_at_once(void) {
    struct rig rig = rig_up(NULL, "", "");
    struct waiter waiter = {.queue = rig.queue};
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, wait_for_one, &waiter) == 0);
    while (!atomic_load(&waiter.about_to_wait)) sleep_ns(MILLISECOND);
    sleep_ns(100 * MILLISECOND); /* until it waits */
    blaze_event event = BLAZE_EVENT_INIT;
    uint64_t started = blaze_now_ns();
    CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 1, PATIENCE), 0);
    CHECK_INT(blaze_poll(rig.queue, &event, sizeof event, 1), 0);
    CHECK(blaze_now_ns() - started < 30 * SECOND);
    blaze_ticket ticket = submit_simple(&rig, 0);
    pthread_join(thread, NULL);
    CHECK_INT(waiter.count, 1);
    CHECK_INT(waiter.event.ticket, ticket);
    blaze_event_release(&waiter.event);
    rig_down(&rig);
}

enum { MANY = 5000 };
static atomic_uchar seen[MANY];
static atomic_uint seen_count;

static void *poll_many(void *argument) {
    blaze_queue *queue = argument;
    blaze_event events[7];
    uint64_t until = blaze_now_ns() + PATIENCE;
    for (uint32_t turn = 0; atomic_load(&seen_count) < MANY && blaze_now_ns() < until; turn++) {
        uint32_t count = turn % 2 ? blaze_poll(queue, events, sizeof events[0], 7)
                                  : blaze_wait(queue, events, sizeof events[0], 7, MILLISECOND);
        for (uint32_t i = 0; i < count; i++) {
            if (events[i].user_data >= MANY) FAIL("user_data %" PRIu64, events[i].user_data);
            else CHECK_INT(atomic_fetch_add(&seen[events[i].user_data], 1), 0);
            blaze_event_release(&events[i]);
        }
        atomic_fetch_add(&seen_count, count);
        if (count == 0) sleep_ns(MILLISECOND / 50); /* turned away: let the other one work */
    }
    return NULL;
}

/* One at a time is the rule; breaking it must neither crash nor lose or double events. */
static void every_event_is_delivered_once_though_two_threads_poll(void) {
    struct rig rig = rig_up(NULL, "", "");
    pthread_t threads[2];
    for (size_t i = 0; i < COUNT(threads); i++) REQUIRE(pthread_create(&threads[i], NULL, poll_many, rig.queue) == 0);
    struct call call;
    simple_call(&call, rig.model);
    uint64_t until = blaze_now_ns() + PATIENCE;
    for (uint64_t i = 0; i < MANY && blaze_now_ns() < until; i++) {
        call.request.user_data = i;
        while (blaze_submit(rig.engine, &call.request, rig.queue, NULL, NULL) == BLAZE_STATUS_QUEUE_FULL &&
               blaze_now_ns() < until)
            sleep_ns(MILLISECOND / 10);
    }
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    CHECK_INT(atomic_load(&seen_count), MANY);
    rig_down(&rig);
}

static void *wait_for_ever(void *queue) {
    blaze_event event = BLAZE_EVENT_INIT;
    return (void *)(uintptr_t)blaze_wait(queue, &event, sizeof event, 1, UINT64_MAX);
}

static void a_thread_that_waits_is_woken_for_nothing(const char *config) {
    struct rig rig = rig_up(config, "", "");
    blaze_event event = BLAZE_EVENT_INIT;
    for (int round = 0; round < 200; round++) {
        pthread_t waiter;
        void *count = NULL;
        REQUIRE(pthread_create(&waiter, NULL, wait_for_ever, rig.queue) == 0);
        if (round % 2) sleep_ns(MILLISECOND);
        CHECK_STATUS(blaze_queue_wake(rig.queue), OK);
        REQUIRE(pthread_join(waiter, &count) == 0);
        CHECK_INT((uintptr_t)count, 0);
    }
    /* Nobody waits: it is for the next that would, and twice is once. */
    CHECK_STATUS(blaze_queue_wake(rig.queue), OK);
    CHECK_STATUS(blaze_queue_wake(rig.queue), OK);
    CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 1, UINT64_MAX), 0);
    uint64_t start = blaze_now_ns();
    CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 1, 50 * MILLISECOND), 0);
    CHECK(blaze_now_ns() - start >= 50 * MILLISECOND);
    /* What is there comes first. */
    blaze_ticket ticket = submit_simple(&rig, 0);
    EXPECT_EVENT(rig.queue, ticket, OK);
    CHECK_STATUS(blaze_queue_wake(NULL), NULL_POINTER);
    rig_down(&rig);
}

static void a_wake_up_brings_a_waiting_thread_back(void) {
    a_thread_that_waits_is_woken_for_nothing(NULL);
    a_thread_that_waits_is_woken_for_nothing("{\"threads\": 0}");
}

static int readable(int fd, int timeout_ms) {
    struct pollfd entry = {fd, POLLIN, 0};
    int count = poll(&entry, 1, timeout_ms);
    CHECK(!(entry.revents & (POLLERR | POLLHUP | POLLNVAL)));
    return count == 1;
}

static void the_descriptor_is_readable_exactly_while_events_wait(void) {
    struct rig rig = rig_up(NULL, "", ALONE);
    int fd = -1, again = -1;
    CHECK_STATUS(blaze_queue_fd(rig.queue, &fd), OK);
    CHECK_STATUS(blaze_queue_fd(rig.queue, &again), OK);
    CHECK(fd >= 0 && fd == again);
    CHECK(!readable(fd, 0));
    blaze_event event;
    for (int round = 0; round < 100; round++) {
        submit_simple(&rig, 0);
        CHECK(readable(fd, 30000));
        CHECK(readable(fd, 0)); /* still */
        submit_simple(&rig, 1);
        event = next_event(rig.queue); /* one of two: the other waits, or will */
        blaze_event_release(&event);
        CHECK(readable(fd, 30000));
        event = next_event(rig.queue);
        blaze_event_release(&event);
        CHECK(!readable(fd, 0));
    }
    CHECK_INT(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC); /* children need not know */
    rig_down(&rig);
}

static void a_descriptor_asked_for_late_knows_of_earlier_events(void) {
    struct rig rig = rig_up(NULL, "", "");
    int fd = -1;
    blaze_event event;
    submit_simple(&rig, 0);
    uint64_t until = blaze_now_ns() + PATIENCE;
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    do CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    while ((metrics.requests_ok < 1 || metrics.in_flight > 0) && blaze_now_ns() < until);
    CHECK_STATUS(blaze_queue_fd(rig.queue, &fd), OK);
    CHECK(readable(fd, 0));
    event = next_event(rig.queue);
    blaze_event_release(&event);
    CHECK(!readable(fd, 0));
    /* Every way to an event makes it readable: also a cancel, and an unload. */
    blaze_model hanging = load_mock(rig.engine, "hanging", HANGS_ALWAYS, "");
    struct call call;
    blaze_ticket ticket = submit(&rig, simple_call(&call, hanging));
    CHECK(!readable(fd, 20));
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    CHECK(readable(fd, 0));
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    CHECK_STATUS(blaze_model_unload(rig.engine, hanging, rig.queue, &ticket), OK);
    CHECK(readable(fd, 30000));
    EXPECT_EVENT(rig.queue, ticket, OK);
    CHECK(!readable(fd, 0));
    rig_down(&rig);
    CHECK(fcntl(fd, F_GETFD) == -1); /* closed with its queue */
}

#ifdef __linux__
static void one_epoll_serves_several_queues(void) {
    struct rig rig = rig_up(NULL, "", "");
    blaze_queue *queues[3];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t i = 0; i < COUNT(queues); i++) {
        struct epoll_event want = {.events = EPOLLIN, .data = {.u32 = i}};
        int fd = -1;
        queues[i] = new_queue(rig.engine, 64);
        CHECK_STATUS(blaze_queue_fd(queues[i], &fd), OK);
        CHECK_INT(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &want), 0);
    }
    struct epoll_event ready[4];
    CHECK_INT(epoll_wait(poller, ready, 4, 0), 0);
    struct call call;
    simple_call(&call, rig.model);
    unsigned taken[3] = {0};
    for (int i = 0; i < 90; i++) CHECK_STATUS(blaze_submit(rig.engine, &call.request, queues[i % 3], NULL, NULL), OK);
    while (taken[0] + taken[1] + taken[2] < 90) {
        int count = epoll_wait(poller, ready, 4, 30000);
        REQUIRE(count > 0);
        for (int i = 0; i < count; i++) {
            blaze_event event = BLAZE_EVENT_INIT;
            /* One at a time: what is left makes the level-triggered poller come back. */
            CHECK_INT(blaze_poll(queues[ready[i].data.u32], &event, sizeof event, 1), 1);
            taken[ready[i].data.u32]++;
            blaze_event_release(&event);
        }
    }
    CHECK_INT(epoll_wait(poller, ready, 4, 0), 0);
    for (size_t i = 0; i < COUNT(queues); i++) {
        CHECK_INT(taken[i], 30);
        CHECK_STATUS(blaze_queue_destroy(queues[i]), OK);
    }
    close(poller);
    rig_down(&rig);
}
#endif

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(a_full_completion_queue_refuses_requests_and_recovers),
        TEST(a_request_that_borrows_takes_room_for_two_events),
        TEST(a_full_engine_refuses_requests_until_events_are_released),
        TEST(cancelled_requests_whose_events_are_released_leave_room_in_the_engine),
        TEST(a_ticket_whose_event_is_taken_is_not_in_flight),
        TEST(waiting_ends_at_its_time),
        TEST(events_come_in_portions_of_the_callers_choice),
        TEST(a_second_consumer_gets_nothing_at_once),
        TEST(every_event_is_delivered_once_though_two_threads_poll),
        TEST(a_wake_up_brings_a_waiting_thread_back),
        TEST(the_descriptor_is_readable_exactly_while_events_wait),
        TEST(a_descriptor_asked_for_late_knows_of_earlier_events),
#ifdef __linux__
        TEST(one_epoll_serves_several_queues),
#endif
    };
    return RUN_TESTS(tests, argc, argv);
}
