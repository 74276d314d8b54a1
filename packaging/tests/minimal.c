/* The minimal library: it runs a real model, and refuses what is left out by name. usage: minimal */
#include <blaze.h>
#include <stdio.h>
#include <string.h>

static int failures;

static void expect(int ok, const char *what, const char *why) {
    if (ok) return;
    failures++;
    printf("  FAILED: %s: %s\n", what, why);
}

static void refused(blaze_status status, const char *message, const char *feature) {
    expect(status == BLAZE_STATUS_UNSUPPORTED && strstr(message, feature) != NULL, feature, message);
}

static void misconfigured(const char *config, const char *path, const char *feature) {
    blaze_engine *engine = NULL;
    blaze_error error = {0, "", 0};
    blaze_status status = blaze_engine_create(config, &engine, &error);
    expect(status == BLAZE_STATUS_INVALID_CONFIG && strstr(error.message, path) && strstr(error.message, feature), config,
           error.message);
}

int main(void) {
    static const int64_t shape[] = {1, 4};
    static float data[4] = {1, 2, 3, 4};
    blaze_error error = {0, "", 0};
    blaze_engine *engine = NULL;
    blaze_model model = 0;
    char text[65536];
    size_t needed = 0;

    if (blaze_engine_create("{\"models\": [{\"name\": \"m\", \"path\": \"tests/models/tiny.onnx\"}]}", &engine, &error)) {
        printf("  FAILED: %s\n", error.message);
        return 1;
    }
    expect(!blaze_model_find(engine, "m", &model), "blaze_model_find", "");
    blaze_tensor input = BLAZE_TENSOR_INIT, output = BLAZE_TENSOR_INIT;
    blaze_request request = BLAZE_REQUEST_INIT;
    blaze_event event = BLAZE_EVENT_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape, input.rank = 2;
    input.data = data, input.size_bytes = sizeof data;
    request.model = model;
    request.inputs = &input, request.inputs_count = 1;
    expect(!blaze_infer(engine, &request, UINT64_MAX, &event, &error), "blaze_infer", error.message);
    expect(!blaze_event_output(&event, 0, &output) && output.size_bytes > 0, "blaze_event_output", "");
    blaze_event_release(&event);
    expect(!blaze_health_json(engine, text, sizeof text, &needed), "blaze_health_json", "");
    expect(!blaze_metrics_text(engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, &needed), "blaze_metrics_text", "");

    blaze_backend backend = BLAZE_BACKEND_INIT;
    refused(blaze_backend_register(engine, &backend, &error), error.message, "plugins");
    input.memory = BLAZE_MEMORY_CUDA;
    request.flags = BLAZE_REQUEST_BORROW;
    refused(blaze_infer(engine, &request, UINT64_MAX, &event, &error), error.message, "plugins");
    refused(blaze_profile_start(engine, NULL, &error), error.message, "profiler");
    refused(blaze_profile_stop(engine, &error), error.message, "profiler");
    refused(blaze_tune(engine, "{\"model\": \"m\"}", NULL, 0, NULL, &error), error.message, "tuning");
    refused(blaze_route_create(engine, "{\"name\": \"r\", \"targets\": [{\"model\": \"m\"}]}", &model, &error), error.message, "router");
    refused(blaze_tenant_set(engine, "{\"name\": \"t\"}", &error), error.message, "router");
    refused(blaze_repository_rescan(engine, NULL, 0, NULL, &error), error.message, "repository");
    expect(blaze_advice_json(engine, text, sizeof text, &needed) == BLAZE_STATUS_UNSUPPORTED, "blaze_advice_json", "");
    expect(blaze_tune_report(engine, text, sizeof text, &needed) == BLAZE_STATUS_UNSUPPORTED, "blaze_tune_report", "");
    expect(blaze_route_destroy(engine, model) == BLAZE_STATUS_UNSUPPORTED, "blaze_route_destroy", "");
    misconfigured("{\"routes\": []}", "routes: ", "router");
    misconfigured("{\"plugins\": [\"cuda\"]}", "plugins: ", "plugins");
    misconfigured("{\"memory\": {\"devices\": {\"cuda:0\": 1}}}", "memory.devices: ", "plugins");
    misconfigured("{\"models\": [{\"name\": \"m\", \"backend\": \"mock\", \"mock\": {\"steps\": 3}}]}", "models[0].mock.steps: ", "plugins");
    misconfigured("{\"models\": [{\"name\": \"m\", \"path\": \"tests/models/tiny.onnx\", \"providers\": [\"cuda\", \"cpu\"]}]}",
                  "providers[0]: ", "providers");
    misconfigured("{\"models\": [{\"name\": \"m\", \"path\": \"tests/models/tiny.onnx\", \"providers\": [{\"name\": \"cpu\"}]}]}",
                  "models[0].providers[0]: ", "providers");
    blaze_engine_destroy(engine);
    printf("  %s\n", failures ? "the minimal library is not as it should be" : "the minimal library is as it should be");
    return failures != 0;
}
