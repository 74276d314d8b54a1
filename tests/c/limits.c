/* Limits on routes, models and tenants: who is refused, when they may come again, who waits, and that everything that was
 * taken is given back, however a request ends. */
#include "routes.h"

#define A_AND_B "\"targets\": [{\"model\": \"a\"}, {\"model\": \"b\"}]"

/* Models "a" and "b", of which "a" is a mock like this, and a route "r" to both. */
static struct rig rig_limits(const char *engine, const char *mock, const char *model, const char *route) {
    struct rig rig = {new_engine(engine), NULL, 0};
    char config[1024];
    rig.queue = new_queue(rig.engine, 4096);
    load_mock(rig.engine, "a", mock, model);
    load_mock(rig.engine, "b", mock, model);
    snprintf(config, sizeof config, "{\"name\": \"r\", " A_AND_B "%s%s}", *route ? ", " : "", route);
    rig.model = new_route(rig.engine, config);
    return rig;
}

static blaze_model find(struct rig *rig, const char *name) {
    blaze_model model = 0;
    CHECK_STATUS(blaze_model_find(rig->engine, name, &model), OK);
    return model;
}

static float many[4 * 4096];

static blaze_status ask(struct rig *rig, blaze_model model, uint64_t tenant, int64_t rows, int way, blaze_error *error) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    call_with(&call, model, many, rows, 4)->tenant_id = tenant;
    *error = (blaze_error){0, "", 0};
    if (way % 2) {
        blaze_status status = blaze_infer(rig->engine, &call.request, PATIENCE, &event, error);
        blaze_event_release(&event);
        return status;
    }
    blaze_ticket ticket = 0;
    blaze_status status = blaze_submit(rig->engine, &call.request, rig->queue, &ticket, error);
    if (status != BLAZE_STATUS_OK) return status;
    event = next_event(rig->queue);
    status = event.status;
    blaze_event_release(&event);
    return status;
}

static void tenant(struct rig *rig, const char *json) {
    blaze_error error = {.status = 0};
    if (blaze_tenant_set(rig->engine, json, &error) != BLAZE_STATUS_OK) FAIL("%s: %s", json, error.message);
}

/* Rates ---------------------------------------------------------------------------------------------------------- */

/* The same limit in its four places. */
static const struct place { const char *engine, *model, *route, *tenant, *whose; uint64_t id; int direct; } places[] = {
    {NULL, "", "\"limits\": {%s}", "", "route r", 0, 0},
    {NULL, "\"limits\": {%s}", "", "", "model a:1", 0, 1},
    {"{\"tenants\": {\"list\": [{\"id\": 7, \"limits\": {%s}}]}}", "", "", "", "tenant 7", 7, 0},
    {"{\"tenants\": {\"default\": {%s}}}", "", "", "", "tenant 9", 9, 1},
    {NULL, "", "", "{\"id\": 18446744073709551615, \"limits\": {%s}}", "tenant 18446744073709551615", UINT64_MAX, 0},
};

#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static struct rig rig_at(const struct place *place, const char *limits, const char *mock) {
    char engine[512], model[512], route[512], json[512];
    snprintf(engine, sizeof engine, place->engine ? place->engine : "{}", limits);
    snprintf(model, sizeof model, place->model, limits);
    snprintf(route, sizeof route, place->route, limits);
    struct rig rig = rig_limits(engine, mock, model, route);
    snprintf(json, sizeof json, place->tenant, limits);
    if (*json) tenant(&rig, json);
    if (place->direct) rig.model = find(&rig, "a");
    return rig;
}

static void who_comes_too_often_is_told_when_to_come_again(void) {
    int pauses = 0;
    for (size_t i = 0; i < COUNT(places); i++)
        for (int way = 0; way < 2; way++) {
            struct rig rig = rig_at(&places[i], "\"requests_per_second\": 2, \"burst\": 3", "");
            blaze_error error;
            uint64_t begun = blaze_now_ns();
            for (int at = 0; at < 3; at++) CHECK_STATUS(ask(&rig, rig.model, places[i].id, 1, way, &error), OK);
            blaze_status fourth = ask(&rig, rig.model, places[i].id, 1, way, &error);
            if (blaze_now_ns() - begun >= SECOND / 2) { /* the machine has paused: once more */
                rig_down(&rig);
                REQUIRE(++pauses < 50);
                way--;
                continue;
            }
            CHECK_STATUS(fourth, RATE_LIMITED);
            CHECK_STATUS(error.status, RATE_LIMITED);
            CHECK_TEXT(error.message, places[i].whose);
            CHECK_TEXT(error.message, "requests_per_second");
            CHECK(error.retry_after_ns > 0 && error.retry_after_ns <= SECOND / 2);
            /* After so long it passes, and a moment before it does not, unless the machine has paused. */
            uint64_t until = blaze_now_ns() + error.retry_after_ns;
            blaze_error early;
            blaze_status before = ask(&rig, rig.model, places[i].id, 1, way, &early);
            if (blaze_now_ns() < until) CHECK_STATUS(before, RATE_LIMITED);
            if (before == BLAZE_STATUS_RATE_LIMITED) {
                while (blaze_now_ns() <= until) sleep_ns(until - blaze_now_ns() < SECOND ? until - blaze_now_ns() + 1 : 1);
                CHECK_STATUS(ask(&rig, rig.model, places[i].id, 1, way, &error), OK);
            }
            /* Others are not concerned. */
            if (places[i].id) {
                CHECK_STATUS(ask(&rig, rig.model, 0, 1, way, &error), OK);
                CHECK_STATUS(ask(&rig, rig.model, 1234, 1, way, &error), OK);
            }
            blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
            CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
            CHECK(metrics.requests_rejected >= 1);
            CHECK_INT(metrics.in_flight, 0);
            rig_down(&rig);
        }
}

static void rows_are_limited_and_what_never_fits_is_told(void) {
    for (size_t i = 0; i < COUNT(places); i++)
        for (int way = 0; way < 2; way++) {
            struct rig rig = rig_at(&places[i], "\"rows_per_second\": 0.1, \"burst_rows\": 8, \"requests_per_second\": 1000,"
                                    " \"burst\": 100", "");
            blaze_error error;
            CHECK_STATUS(ask(&rig, rig.model, places[i].id, 6, way, &error), OK);
            CHECK_STATUS(ask(&rig, rig.model, places[i].id, 8, way, &error), RATE_LIMITED);
            CHECK_TEXT(error.message, places[i].whose);
            CHECK_TEXT(error.message, "rows_per_second");
            CHECK(error.retry_after_ns > 0 && error.retry_after_ns <= 60 * SECOND);
            CHECK_STATUS(ask(&rig, rig.model, places[i].id, 1, way, &error), OK); /* a smaller one still fits */
            CHECK_STATUS(ask(&rig, rig.model, places[i].id, 9, way, &error), INVALID_ARGUMENT);
            CHECK_TEXT(error.message, places[i].whose);
            CHECK_TEXT(error.message, "rows_per_second");
            CHECK_TEXT(error.message, "the request alone is more");
            CHECK_INT(error.retry_after_ns, 0);
            rig_down(&rig);
        }
}

/* At once ---------------------------------------------------------------------------------------------------------- */

enum ending { DONE, FAILED, CANCELLED, EXPIRED, RELAYED, TIMED_OUT, ENDINGS };

static void what_was_taken_is_given_back_however_a_request_ends(void) {
    const char *const mocks[ENDINGS] = {
        [DONE] = "\"latency_us\": 1000",
        [FAILED] = "\"latency_us\": 1000, \"faults\": [{\"kind\": \"error\"}]",
        [CANCELLED] = HANGS_ALWAYS,
        [EXPIRED] = HANGS_ALWAYS,
        [RELAYED] = "\"latency_us\": 1000, \"faults\": [{\"kind\": \"error\", \"count\": 3}]",
        [TIMED_OUT] = HANGS_ALWAYS,
    };
    for (size_t i = 0; i < COUNT(places); i++)
        for (int ending = 0; ending < ENDINGS; ending++) {
            /* A model that hangs lets go of its next one when it is told to stop. */
            struct rig rig = rig_at(&places[i], "\"concurrency\": 3", mocks[ending]);
            blaze_model a = find(&rig, "a");
            if (*places[i].model) rig.model = a;
            struct call call;
            blaze_error error = {.status = 0};
            for (int round = 0; round < 3; round++) {
                uint64_t until = blaze_now_ns() + PATIENCE;
                blaze_ticket tickets[3];
                simple_call(&call, rig.model)->tenant_id = places[i].id;
                /* As long as "expired" does not come too early on a slow machine, all three are in at once. */
                call.request.deadline_ns = ending == EXPIRED ? blaze_now_ns() + 400 * MILLISECOND : 0;
                for (int at = 0; at < 3; at++) tickets[at] = submit(&rig, &call.request);
                blaze_status full = blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error);
                int exact = ending == CANCELLED || (ending == EXPIRED && blaze_now_ns() < call.request.deadline_ns);
                if (exact) CHECK_STATUS(full, OVER_QUOTA);
                if (full == BLAZE_STATUS_OVER_QUOTA) {
                    CHECK_TEXT(error.message, places[i].whose);
                    CHECK_TEXT(error.message, "concurrency");
                } else {
                    CHECK_STATUS(full, OK); /* one has ended by now */
                }
                if (ending == CANCELLED)
                    for (int at = 0; at < 3; at++) CHECK_STATUS(blaze_cancel(rig.engine, tickets[at]), OK);
                if (ending == TIMED_OUT)
                    for (int at = 0; at < 3; at++) {
                        blaze_event event = BLAZE_EVENT_INIT;
                        CHECK_STATUS(blaze_cancel(rig.engine, tickets[at]), OK);
                        call.request.deadline_ns = 0;
                        blaze_status status = blaze_infer(rig.engine, &call.request, 2 * MILLISECOND, &event, NULL);
                        CHECK_STATUS(status, TIMEOUT);
                    }
                for (int at = 0; at < 3 + (full == BLAZE_STATUS_OK); at++) {
                    blaze_event event = next_event(rig.queue);
                    blaze_event_release(&event);
                }
                no_event(rig.queue);
                blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
                do {
                    CHECK_STATUS(blaze_health(rig.engine, &health), OK);
                } while (health.in_flight > 0 && blaze_now_ns() < until);
                CHECK_INT(health.in_flight, 0);
            }
            /* There is room for three again. */
            simple_call(&call, rig.model)->tenant_id = places[i].id;
            for (int at = 0; at < 3; at++) submit(&rig, &call.request);
            if (places[i].id == 7) {
                CHECK_INT(health_number(rig.engine, "tenants.listed[id=7].accepted") >= 3, 1);
            }
            rig_down(&rig);
        }
}

static void a_route_uses_another_target_when_a_model_is_at_its_limit(void) {
    struct rig rig = rig_limits(NULL, HANGS_ALWAYS, "\"limits\": {\"concurrency\": 1}", "");
    blaze_error error = {.status = 0};
    struct call call;
    blaze_ticket first = submit(&rig, simple_call(&call, rig.model)), second = submit(&rig, &call.request);
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), OVER_QUOTA);
    CHECK_TEXT(error.message, "concurrency");
    CHECK_INT(info_number(rig.engine, rig.model, "targets[0].in_flight"), 1);
    CHECK_INT(info_number(rig.engine, rig.model, "targets[1].in_flight"), 1);
    CHECK_STATUS(blaze_cancel(rig.engine, first), OK);
    EXPECT_EVENT(rig.queue, first, CANCELLED);
    blaze_ticket third = submit(&rig, &call.request);
    CHECK_STATUS(blaze_cancel(rig.engine, second), OK);
    CHECK_STATUS(blaze_cancel(rig.engine, third), OK);
    EXPECT_EVENT(rig.queue, second, CANCELLED);
    EXPECT_EVENT(rig.queue, third, CANCELLED);
    at_rest(rig.engine, rig.model);
    rig_down(&rig);
    /* The target's own limit. */
    rig = rig_limits(NULL, HANGS_ALWAYS, "", "");
    CHECK_STATUS(blaze_route_update(rig.engine, rig.model, "{\"name\": \"r\", \"targets\": [{\"model\": \"a\", \"concurrency\":"
                                    " 2}, {\"model\": \"b\", \"concurrency\": 1}]}", &error), OK);
    blaze_ticket tickets[3];
    for (int at = 0; at < 3; at++) tickets[at] = submit(&rig, simple_call(&call, rig.model));
    CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error), OVER_QUOTA);
    CHECK_TEXT(error.message, "route r");
    CHECK_INT(info_number(rig.engine, rig.model, "targets[0].in_flight"), 2);
    for (int at = 0; at < 3; at++) {
        CHECK_STATUS(blaze_cancel(rig.engine, tickets[at]), OK);
        EXPECT_EVENT(rig.queue, tickets[at], CANCELLED);
    }
    at_rest(rig.engine, rig.model);
    rig_down(&rig);
}

/* Waiting ---------------------------------------------------------------------------------------------------------- */

static void requests_wait_and_tenants_get_their_share(void) {
    struct rig rig = rig_limits("{\"threads\": 0, \"tenants\": {\"list\": [{\"id\": 1}, {\"id\": 2, \"weight\": 3}]}}", "", "",
                                "\"limits\": {\"concurrency\": 1, \"waiting\": 200}");
    struct call call;
    enum { EACH = 40 };
    for (uint64_t i = 0; i < 2 * EACH; i++) {
        simple_call(&call, rig.model)->tenant_id = 1 + i % 2;
        call.request.user_data = 1 + i % 2;
        submit(&rig, &call.request);
    }
    CHECK(info_number(rig.engine, rig.model, "waiting") >= 2 * EACH - 2);
    int of_second = 0;
    for (int i = 0; i < 2 * EACH; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        if (event.status == BLAZE_STATUS_OK) CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        if (i < EACH) of_second += event.user_data == 2;
        blaze_event_release(&event);
    }
    if (of_second < 28 || of_second > 32) FAIL("of the first %d, %d are of the tenant with three quarters", EACH, of_second);
    at_rest(rig.engine, rig.model);
    rig_down(&rig);
}

static void the_room_to_wait_has_its_bounds_and_can_be_left(void) {
    struct rig rig = rig_limits("{\"tenants\": {\"default\": {\"concurrency\": 5}}}", HANGS_ALWAYS,
                                "\"limits\": {\"concurrency\": 4}", "\"limits\": {\"concurrency\": 1, \"waiting\": 2},"
                                " \"retry\": {\"attempt_timeout_ms\": 0}");
    struct call call;
    blaze_error error = {.status = 0};
    for (int round = 0; round < 10; round++) { /* more than any of the limits: whatever is not given back shows */
        blaze_ticket running = submit(&rig, simple_call(&call, rig.model)), waiting[2];
        call.request.tenant_id = 3;
        waiting[0] = submit(&rig, &call.request);
        call.request.deadline_ns = blaze_now_ns() + 20 * MILLISECOND;
        waiting[1] = submit(&rig, &call.request);
        call.request.deadline_ns = 0;
        if (round == 0) {
            blaze_status status = blaze_submit(rig.engine, &call.request, rig.queue, NULL, &error);
            CHECK_STATUS(status, OVER_QUOTA);
            CHECK_TEXT(error.message, "as many requests wait as may");
            CHECK_INT(info_number(rig.engine, rig.model, "in_use"), 1);
        }
        EXPECT_EVENT(rig.queue, waiting[1], EXPIRED);
        CHECK_STATUS(blaze_cancel(rig.engine, waiting[0]), OK);
        EXPECT_EVENT(rig.queue, waiting[0], CANCELLED);
        blaze_ticket later = submit(&rig, &call.request); /* into a place that one of them has left */
        CHECK_STATUS(blaze_cancel(rig.engine, later), OK);
        EXPECT_EVENT(rig.queue, later, CANCELLED);
        CHECK_STATUS(blaze_cancel(rig.engine, running), OK);
        EXPECT_EVENT(rig.queue, running, CANCELLED);
        at_rest(rig.engine, rig.model);
    }
    no_event(rig.queue);
    rig_down(&rig);
}

static void who_waits_comes_in_when_there_is_room_also_by_infer(void) {
    for (int limited = 0; limited < 2; limited++) {
        struct rig rig = rig_limits("{\"tenants\": {\"default\": {\"concurrency\": 200}}}", "\"latency_us\": 300",
                                    limited ? "\"limits\": {\"concurrency\": 150}" : "",
                                    "\"limits\": {\"concurrency\": 2, \"waiting\": 1000}");
        struct call call;
        enum { REQUESTS = 120 };
        for (int round = 0; round < 3; round++) {
            for (uint64_t i = 0; i < REQUESTS; i++) {
                simple_call(&call, rig.model)->tenant_id = i % 3;
                call.request.user_data = i;
                if (i % 2) call.request.flags = BLAZE_REQUEST_BORROW;
                submit(&rig, &call.request);
            }
            blaze_event event = BLAZE_EVENT_INIT;
            blaze_error error = {.status = 0};
            CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, &error), OK);
            blaze_event_release(&event);
            for (int i = 0; i < REQUESTS; i++) {
                event = next_event(rig.queue);
                CHECK_STATUS(event.status, OK);
                if (event.status == BLAZE_STATUS_OK) CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
                blaze_event_release(&event);
            }
            at_rest(rig.engine, rig.model);
        }
        rig_down(&rig);
    }
}

static void destroying_a_route_cancels_who_waits(void) {
    struct rig rig = rig_limits(NULL, HANGS_ALWAYS, "", "\"limits\": {\"concurrency\": 1, \"waiting\": 10},"
                                " \"retry\": {\"attempt_timeout_ms\": 0}");
    blaze_ticket running = submit_simple(&rig, 0), waiting[4];
    for (int i = 0; i < 4; i++) waiting[i] = submit_simple(&rig, 0);
    CHECK_STATUS(blaze_route_destroy(rig.engine, rig.model), OK);
    for (int i = 0; i < 4; i++) {
        blaze_event event = BLAZE_EVENT_INIT;
        uint32_t count = blaze_wait(rig.queue, &event, sizeof event, 1, PATIENCE);
        CHECK_INT(count, 1);
        if (count == 0) break;
        CHECK_STATUS(event.status, CANCELLED);
        int known = 0;
        for (int at = 0; at < 4; at++) known += event.ticket == waiting[at];
        CHECK_INT(known, 1);
        blaze_event_release(&event);
    }
    CHECK_STATUS(blaze_cancel(rig.engine, running), OK);
    EXPECT_EVENT(rig.queue, running, CANCELLED);
    rig_down(&rig);
}

/* Tenants ---------------------------------------------------------------------------------------------------------- */

static void tenants_are_changed_and_told_of(void) {
    struct rig rig = rig_limits("{\"tenants\": {\"capacity\": 3, \"list\": [{\"id\": 1, \"class\": \"gold\", \"weight\": 4}]}}", "",
                                "", "");
    blaze_error error;
    tenant(&rig, "{\"id\": 2, \"class\": \"tin\", \"limits\": {\"requests_per_second\": 0.01, \"burst\": 2}}");
    CHECK_STATUS(ask(&rig, rig.model, 2, 1, 0, &error), OK);
    CHECK_STATUS(ask(&rig, rig.model, 2, 1, 1, &error), OK);
    CHECK_STATUS(ask(&rig, rig.model, 2, 1, 0, &error), RATE_LIMITED);
    CHECK(error.retry_after_ns > SECOND);
    CHECK_STATUS(ask(&rig, rig.model, 1, 1, 0, &error), OK);
    const char *health = health_text(rig.engine);
    CHECK_JSON(health, "tenants.listed[id=1].class", "gold");
    CHECK_JSON(health, "tenants.listed[id=1].weight", "4");
    CHECK_JSON(health, "tenants.listed[id=2].accepted", "2");
    CHECK_JSON(health, "tenants.listed[id=2].refused", "1");
    CHECK_JSON(health, "tenants.listed[id=2].in_flight", "0");
    CHECK_JSON(health, "tenants.classes[class=tin].refused", "1");
    static char text[262144];
    CHECK_STATUS(blaze_metrics_text(rig.engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK);
    CHECK_TEXT(text, "blaze_tenant_requests_total{class=\"tin\",outcome=\"ok\"} 2\n");
    CHECK_TEXT(text, "blaze_tenant_refused_total{class=\"tin\"} 1\n");
    CHECK_TEXT(text, "blaze_tenant_requests_total{class=\"gold\",outcome=\"ok\"} 1\n");
    tenant(&rig, "{\"id\": 2, \"class\": \"gold\"}"); /* no limits any more */
    for (int i = 0; i < 10; i++) CHECK_STATUS(ask(&rig, rig.model, 2, 1, i, &error), OK);
    CHECK_JSON(health_text(rig.engine), "tenants.listed[id=2].class", "gold");
    tenant(&rig, "{\"id\": 3}");
    error = (blaze_error){0, "", 0};
    CHECK_STATUS(blaze_tenant_set(rig.engine, "{\"id\": 4}", &error), OVER_QUOTA);
    CHECK_TEXT(error.message, "tenant");
    for (uint64_t id = 1; id < 20; id++) CHECK_STATUS(ask(&rig, rig.model, id, 1, (int)id, &error), OK);
    rig_down(&rig);
}

static void limits_of_a_model_are_refused_if_they_are_wrong(void) {
    blaze_engine *engine = new_engine(NULL);
    const struct { const char *limits, *path; } cases[] = {
        {"5", "limits: "},
        {"{\"concurrency\": 0}", "limits.concurrency: "},
        {"{\"concurrency\": 1, \"waiting\": 1}", "limits.waiting: "},
        {"{\"requests_per_second\": -1}", "limits.requests_per_second: "},
        {"{\"burst\": 1}", "limits.burst: "},
        {"{\"rows\": 1}", "limits.rows: "},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char config[256];
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        snprintf(config, sizeof config, "{\"name\": \"m\", \"backend\": \"mock\", \"limits\": %s}", cases[i].limits);
        CHECK_STATUS(blaze_model_load(engine, config, &model, &error), INVALID_CONFIG);
        CHECK_TEXT(error.message, cases[i].path);
    }
    blaze_engine_destroy(engine);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(who_comes_too_often_is_told_when_to_come_again),
        TEST(rows_are_limited_and_what_never_fits_is_told),
        TEST(what_was_taken_is_given_back_however_a_request_ends),
        TEST(a_route_uses_another_target_when_a_model_is_at_its_limit),
        TEST(requests_wait_and_tenants_get_their_share),
        TEST(the_room_to_wait_has_its_bounds_and_can_be_left),
        TEST(who_waits_comes_in_when_there_is_room_also_by_infer),
        TEST(destroying_a_route_cancels_who_waits),
        TEST(tenants_are_changed_and_told_of),
        TEST(limits_of_a_model_are_refused_if_they_are_wrong),
    };
    return RUN_TESTS(tests, argc, argv);
}
