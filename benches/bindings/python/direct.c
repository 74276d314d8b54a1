/* What the Python benchmark compares with: the same requests through C, in the same process, on the same engine. */
#include <blaze.h>

/* Runs `count` requests of one row of `columns` floats, one after the other; reads the output of each. Returns the
 * nanoseconds that they took, or 0 if one failed. */
uint64_t direct_infer(blaze_engine *engine, blaze_model model, const float *row, int64_t columns, uint32_t count,
                      float *sum);
uint64_t direct_infer(blaze_engine *engine, blaze_model model, const float *row, int64_t columns, uint32_t count,
                      float *sum) {
    const int64_t shape[] = {1, columns};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 2;
    input.data = (void *)(uintptr_t)row;
    input.size_bytes = (size_t)columns * sizeof *row;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = model;
    request.inputs = &input;
    request.inputs_count = 1;
    uint64_t started = blaze_now_ns();
    for (uint32_t i = 0; i < count; i++) {
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_tensor output = BLAZE_TENSOR_INIT;
        if (blaze_infer(engine, &request, UINT64_MAX, &event, NULL)) return 0;
        if (blaze_event_output(&event, 0, &output)) return 0;
        *sum += *(const float *)output.data;
        blaze_event_release(&event);
    }
    return blaze_now_ns() - started;
}

/* The same with `in_flight` requests under way at once. */
uint64_t direct_submit(blaze_engine *engine, blaze_model model, const float *row, int64_t columns, uint32_t count,
                       uint32_t in_flight, float *sum);
uint64_t direct_submit(blaze_engine *engine, blaze_model model, const float *row, int64_t columns, uint32_t count,
                       uint32_t in_flight, float *sum) {
    const int64_t shape[] = {1, columns};
    blaze_queue *queue;
    if (blaze_queue_create(engine, in_flight, &queue, NULL)) return 0;
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 2;
    input.data = (void *)(uintptr_t)row;
    input.size_bytes = (size_t)columns * sizeof *row;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = model;
    request.inputs = &input;
    request.inputs_count = 1;
    uint64_t started = blaze_now_ns();
    for (uint32_t sent = 0, done = 0; done < count;) {
        for (; sent < count && sent - done < in_flight; sent++)
            if (blaze_submit(engine, &request, queue, NULL, NULL)) return 0;
        blaze_event events[64];
        uint32_t taken = blaze_wait(queue, events, sizeof events[0], 64, UINT64_MAX);
        for (uint32_t i = 0; i < taken; i++, done++) {
            blaze_tensor output = BLAZE_TENSOR_INIT;
            if (events[i].status || blaze_event_output(&events[i], 0, &output)) return 0;
            *sum += *(const float *)output.data;
            blaze_event_release(&events[i]);
        }
    }
    uint64_t took = blaze_now_ns() - started;
    blaze_queue_destroy(queue);
    return took;
}
