/* A program outside the tree. usage: program [MODEL.onnx] (four numbers in; without one, the mock). */
#include <blaze.h>
#include <stdio.h>

int main(int argc, char **argv) {
    static const int64_t shape[] = {1, 4};
    static float data[4] = {1, 2, 3, 4};
    char json[600];
    blaze_error error;
    blaze_engine *engine;
    blaze_model model;

    if (blaze_abi_version() >> 16 != BLAZE_ABI_VERSION >> 16) return 2;
    snprintf(json, sizeof json, argc > 1 ? "{\"name\": \"m\", \"path\": \"%s\"}" : "{\"name\": \"m\", \"backend\": \"mock\"}",
             argc > 1 ? argv[1] : "");
    if (blaze_engine_create(NULL, &engine, &error) || blaze_model_load(engine, json, &model, &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    blaze_tensor input = BLAZE_TENSOR_INIT, output = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape, input.rank = 2;
    input.data = data, input.size_bytes = sizeof data;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = model;
    request.inputs = &input, request.inputs_count = 1;
    blaze_event event = BLAZE_EVENT_INIT;
    if (blaze_infer(engine, &request, UINT64_MAX, &event, &error) || blaze_event_output(&event, 0, &output)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    printf("blaze %s: %u bytes\n", blaze_version(), (unsigned)output.size_bytes);
    blaze_event_release(&event);
    blaze_engine_destroy(engine);
    return 0;
}
