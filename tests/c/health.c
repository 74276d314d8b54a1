/* Health and metrics: what the structs and the texts say, that they agree, and that asking is cheap and safe at any rate. */
#include "json.h"
#include <pthread.h>
#include <stddef.h>

#define MOCK "{\"name\": \"m\", \"backend\": \"mock\"%s}"

static blaze_model load(blaze_engine *engine, const char *more) {
    char config[512];
    snprintf(config, sizeof config, MOCK, more);
    return load_model(engine, config);
}

static void ask(blaze_engine *engine, blaze_model model, blaze_status expected) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    float x[4] = {0};
    call_with(&call, model, x, 1, 4);
    CHECK_INT(blaze_infer(engine, &call.request, PATIENCE, &event, &error), expected);
    blaze_event_release(&event);
}

static char *text_of(blaze_engine *engine, blaze_metrics_format format) {
    static char text[1 << 18];
    CHECK_STATUS(format ? blaze_metrics_text(engine, format, text, sizeof text, NULL)
                        : blaze_health_json(engine, text, sizeof text, NULL), OK);
    return text;
}

static void an_idle_engine_is_live_and_ready(void) {
    blaze_engine *engine = new_engine(NULL);
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    CHECK_STATUS(blaze_health(engine, &health), OK);
    CHECK_INT(health.state, BLAZE_HEALTH_OK);
    CHECK_INT(health.live, 1);
    CHECK_INT(health.ready, 1);
    CHECK_INT(health.models_slow, 0);
    char *text = text_of(engine, 0);
    CHECK(json_is_valid(text));
    CHECK_TEXT(text, "\"problems\":[]");
    CHECK_TEXT(text, "\"not_ready_because\":[]");
    blaze_engine_destroy(engine);
}

static void a_failed_model_is_named_with_its_reason(void) {
    blaze_engine *engine = new_engine(NULL);
    blaze_model model = load(engine, ", \"recovery\": false, \"mock\": {\"faults\": [{\"kind\": \"error\"}]}");
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    ask(engine, model, BLAZE_STATUS_BACKEND_FAILED);
    CHECK_STATUS(blaze_health(engine, &health), OK);
    CHECK_INT(health.state, BLAZE_HEALTH_DEGRADED);
    CHECK_INT(health.ready, 1);
    for (int i = 0; i < 4; i++) ask(engine, model, BLAZE_STATUS_BACKEND_FAILED);
    CHECK_STATUS(blaze_health(engine, &health), OK);
    CHECK_INT(health.state, BLAZE_HEALTH_FAILED);
    CHECK_INT(health.ready, 0);
    CHECK_INT(health.live, 1);
    char *text = text_of(engine, 0);
    CHECK(json_is_valid(text));
    CHECK_JSON(text, "problems.[0].subject", "model");
    CHECK_JSON(text, "problems.[0].name", "m:1");
    CHECK_JSON(text, "problems.[0].level", "failed");
    CHECK(strstr(text, "its last 5 runs have failed: injected fault in run 4"));
    blaze_engine_destroy(engine);
}

/* A host that was built against the first version of the header. */
static void shorter_structs_are_filled_as_far_as_they_go(void) {
    blaze_engine *engine = new_engine(NULL);
    struct { blaze_health_info info; uint32_t after; } health;
    memset(&health, 0xEE, sizeof health);
    health.info.struct_size = offsetof(blaze_health_info, live);
    CHECK_STATUS(blaze_health(engine, &health.info), OK);
    CHECK_INT(health.info.state, BLAZE_HEALTH_OK);
    CHECK_INT(health.info.live, 0xEEEEEEEEu);
    blaze_metrics_info metrics;
    memset(&metrics, 0xEE, sizeof metrics);
    metrics.struct_size = offsetof(blaze_metrics_info, batch_wait);
    CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
    CHECK_INT(metrics.requests_ok, 0);
    CHECK(metrics.batch_wait.p50_ns == 0xEEEEEEEEEEEEEEEEu);
    blaze_engine_destroy(engine);
}

static void metrics_count_by_model_and_outlive_models(void) {
    blaze_engine *engine = new_engine("{\"memory\": {\"idle_ms\": 10}}");
    blaze_model model = load(engine, "");
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    for (int i = 0; i < 10; i++) ask(engine, model, BLAZE_STATUS_OK);
    char *text = text_of(engine, BLAZE_METRICS_JSON);
    CHECK(json_is_valid(text));
    CHECK_JSON(text, "models.[name=m:1].duration_ns.count", "10");
    CHECK_JSON(text, "models.[name=m:1].batch_rows.max", "1");
    CHECK_JSON(text, "batches", "10");
    CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), OK);
    model = load(engine, "");
    ask(engine, model, BLAZE_STATUS_OK);
    CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
    CHECK_INT(metrics.requests_ok, 11);
    CHECK_INT(metrics.rows, 11);
    CHECK(metrics.copied.p50_ns > 0 && metrics.duration.p50_ns >= metrics.computed.p50_ns * 9 / 10);
    text = text_of(engine, BLAZE_METRICS_JSON);
    CHECK_JSON(text, "models.[name=m:1].accepted", "1");
    text = text_of(engine, BLAZE_METRICS_PROMETHEUS);
    CHECK(strstr(text, "\nblaze_model_requests_total{model=\"m:1\",outcome=\"ok\"} 1\n"));
    CHECK(strstr(text, "\nblaze_requests_total{outcome=\"ok\"} 11\n"));
    CHECK(json_is_valid(text_of(engine, BLAZE_METRICS_TRENDS)));
    CHECK_STATUS(blaze_metrics_text(engine, 4, NULL, 0, NULL), INVALID_ARGUMENT);
    blaze_engine_destroy(engine);
}

static void without_histograms_requests_are_counted_all_the_same(void) {
    blaze_engine *engine = new_engine("{\"metrics\": {\"histograms\": false, \"trends\": false}}");
    blaze_model model = load(engine, "");
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    ask(engine, model, BLAZE_STATUS_OK);
    CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
    CHECK_INT(metrics.requests_ok, 1);
    CHECK_INT(metrics.rows, 1);
    CHECK_INT(metrics.duration.p99_ns, 0);
    blaze_engine_destroy(engine);
}

static void events_that_nobody_takes_are_counted(void) {
    blaze_engine *engine = new_engine("{\"threads\": 0}");
    blaze_queue *queue = new_queue(engine, 16);
    blaze_model model = load(engine, "");
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    struct call call;
    float x[4] = {0};
    call_with(&call, model, x, 1, 4);
    for (int i = 0; i < 3; i++) CHECK_STATUS(blaze_submit(engine, &call.request, queue, NULL, NULL), OK);
    CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
    CHECK_INT(metrics.events_waiting, 0);
    CHECK_STATUS(blaze_pump(engine, 0, NULL), OK);
    CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
    CHECK_INT(metrics.events_waiting, 3);
    for (int i = 0; i < 3; i++) {
        blaze_event event = next_event(queue);
        blaze_event_release(&event);
    }
    CHECK_STATUS(blaze_metrics(engine, &metrics), OK);
    CHECK_INT(metrics.events_waiting, 0);
    CHECK_STATUS(blaze_queue_destroy(queue), OK);
    blaze_engine_destroy(engine);
}

static struct { blaze_engine *engine; blaze_model model; } shared;

static void *hammer(void *kind) {
    static _Thread_local char text[1 << 16];
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    for (int i = 0; i < ((getenv("BLAZE_SHORT") != NULL) ? 30 : 300); i++) {
        switch ((intptr_t)kind) {
        case 0: ask(shared.engine, shared.model, BLAZE_STATUS_OK); break;
        case 1: CHECK_STATUS(blaze_health(shared.engine, &health), OK); break;
        case 2: CHECK_STATUS(blaze_health_json(shared.engine, text, sizeof text, NULL), OK); break;
        case 3: CHECK_STATUS(blaze_metrics(shared.engine, &metrics), OK); break;
        case 4: CHECK_STATUS(blaze_metrics_text(shared.engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK); break;
        default: CHECK_STATUS(blaze_metrics_text(shared.engine, BLAZE_METRICS_TRENDS, text, sizeof text, NULL), OK); break;
        }
    }
    return NULL;
}

static void everything_may_be_asked_at_once(void) {
    pthread_t threads[12];
    shared.engine = new_engine(NULL);
    shared.model = load(shared.engine, "");
    for (size_t i = 0; i < COUNT(threads); i++) CHECK(!pthread_create(&threads[i], NULL, hammer, (void *)(intptr_t)(i % 6)));
    for (size_t i = 0; i < COUNT(threads); i++) CHECK(!pthread_join(threads[i], NULL));
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    CHECK_STATUS(blaze_metrics(shared.engine, &metrics), OK);
    CHECK_INT(metrics.requests_ok, (getenv("BLAZE_SHORT") != NULL) ? 60 : 600);
    blaze_engine_destroy(shared.engine);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(an_idle_engine_is_live_and_ready),
        TEST(a_failed_model_is_named_with_its_reason),
        TEST(shorter_structs_are_filled_as_far_as_they_go),
        TEST(metrics_count_by_model_and_outlive_models),
        TEST(without_histograms_requests_are_counted_all_the_same),
        TEST(events_that_nobody_takes_are_counted),
        TEST(everything_may_be_asked_at_once),
    };
    return RUN_TESTS(tests, argc, argv);
}
