/* What the tests of routes share. */
#ifndef ROUTES_H
#define ROUTES_H
#include "json.h"

/* A route's description, whole. In one buffer for each thread. */
static inline const char *info(blaze_engine *engine, blaze_model route) {
    static _Thread_local char text[65536];
    strcpy(text, "null");
    CHECK_STATUS(blaze_route_info(engine, route, text, sizeof text, NULL), OK);
    return text;
}

static inline long long info_number(blaze_engine *engine, blaze_model route, const char *path) {
    return json_number(info(engine, route), path);
}

static inline blaze_model new_route(blaze_engine *engine, const char *json) {
    blaze_model route = 0;
    blaze_error error = {.status = 0};
    if (blaze_route_create(engine, json, &route, &error) != BLAZE_STATUS_OK) FAIL("route: %s", error.message);
    REQUIRE(route);
    return route;
}

/* Nothing is with a target any more, and nothing waits. */
static inline void at_rest(blaze_engine *engine, blaze_model route) {
    uint64_t until = blaze_now_ns() + PATIENCE;
    for (;;) {
        const char *text = info(engine, route);
        long long busy = json_number(text, "waiting") + json_number(text, "in_use");
        char path[64];
        for (long at = 0, count = json_count(text, "targets"); at < count; at++) {
            snprintf(path, sizeof path, "targets[%ld].in_flight", at);
            busy += json_number(text, path);
        }
        if (busy == 0) return;
        if (blaze_now_ns() > until) {
            FAIL("something is under way: %s", text);
            return;
        }
        sleep_ns(MILLISECOND);
    }
}

#endif
