/* Prints what requests of a stepwise model say, as it comes.
 *
 * usage: streaming
 *
 * What it shows:
 * - A request of such a model has events before its terminal one: BLAZE_EVENT_TOKEN, with the text that it has said since the
 *   one before. A host that is slow gets fewer and longer ones; the request waits if far too much is left lying.
 * - Several requests advance together, and a late one joins at the next step: user_data says whose text it is.
 * - A request may be cancelled in the middle of its answer: what it has said before still comes, and then CANCELLED.
 *
 * The model is the mock with "steps": it says "step 1 ", "step 2 " and so on, and computes y = 2x + 1.
 */
#include <blaze.h>
#include <inttypes.h>
#include <stdio.h>

enum { REQUESTS = 3 };

static blaze_status submit(blaze_engine *engine, blaze_queue *queue, blaze_model model, uint64_t number, blaze_ticket *ticket) {
    static const float x[] = {1, 2, 3, 4};
    static const int64_t shape[] = {1, 4};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    blaze_request request = BLAZE_REQUEST_INIT;
    blaze_error error;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape, input.rank = 2;
    input.data = (void *)(uintptr_t)x, input.size_bytes = sizeof x; /* copied */
    request.model = model, request.user_data = number;
    request.inputs = &input, request.inputs_count = 1;
    blaze_status status = blaze_submit(engine, &request, queue, ticket, &error);
    if (status) fprintf(stderr, "submit: %s\n", error.message);
    return status;
}

int main(void) {
    blaze_engine *engine;
    blaze_queue *queue;
    blaze_model model;
    blaze_error error;
    if (blaze_engine_create(NULL, &engine, &error) || blaze_queue_create(engine, 16, &queue, &error) ||
        blaze_model_load(engine,
                         "{\"name\": \"talker\", \"backend\": \"mock\", \"mock\": {\"steps\": 6, \"latency_us\": 20000}}",
                         &model, &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    blaze_ticket tickets[REQUESTS];
    if (submit(engine, queue, model, 0, &tickets[0]) || submit(engine, queue, model, 1, &tickets[1])) return 1;
    int submitted = 2, ended = 0, well = 0;
    while (ended < submitted) {
        blaze_event event;
        if (blaze_wait(queue, &event, sizeof event, 1, UINT64_MAX) != 1) continue;
        if (event.kind == BLAZE_EVENT_TOKEN) {
            printf("%" PRIu64 ": %3.0f %%  %s\n", event.user_data, 100 * (double)event.progress, event.text);
            if (submitted < REQUESTS) { /* somebody else comes while those are under way */
                if (submit(engine, queue, model, 2, &tickets[2])) return 1;
                submitted++;
            } else if (event.user_data == 1) {
                blaze_cancel(engine, tickets[1]); /* enough of that one; it may have ended */
            }
        } else if (event.kind == BLAZE_EVENT_DONE) {
            printf("%" PRIu64 ": %s\n", event.user_data, event.status ? blaze_status_name(event.status) : "done");
            well += event.status == BLAZE_STATUS_OK || (event.user_data == 1 && event.status == BLAZE_STATUS_CANCELLED);
            ended++;
        }
        blaze_event_release(&event);
    }
    blaze_engine_shutdown(engine, 0);
    blaze_engine_destroy(engine);
    blaze_queue_destroy(queue);
    printf("%d of %d as they should\n", well, submitted);
    return well == submitted ? 0 : 1;
}
