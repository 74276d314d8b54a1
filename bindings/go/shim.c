#include "shim.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- requests ------------------------------------------------------------------------------------------------- */

enum { INLINE_INPUTS = 16 };

/* Strings arrive as offsets; they become addresses where they are. */
static void place_strings(const blazego_tensor *tensor, uint8_t *payload) {
    uint64_t count = tensor->size_bytes / sizeof(blaze_string);
    uint64_t *pair = (uint64_t *)(void *)(payload + tensor->data);
    blaze_string *strings = (blaze_string *)(void *)pair;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = pair[2 * i], size = pair[2 * i + 1];
        strings[i].data = (const char *)payload + at;
        strings[i].size_bytes = (size_t)size;
    }
}

/* Returns the inputs for the C ABI, in `room` if they fit; NULL if there is no memory. */
static blaze_tensor *place_inputs(const blazego_tensor *tensors, uint32_t count, uint8_t *payload, blaze_tensor *room) {
    blaze_tensor *inputs = room;
    if (count > INLINE_INPUTS && !(inputs = malloc(count * sizeof *inputs))) return NULL;
    for (uint32_t i = 0; i < count; i++) {
        const blazego_tensor *from = &tensors[i];
        blaze_tensor to = BLAZE_TENSOR_INIT;
        if (from->dtype == BLAZE_DTYPE_STRING) place_strings(from, payload);
        to.dtype = from->dtype;
        to.name = from->name_at ? (const char *)payload + from->name_at : NULL;
        to.shape = (const int64_t *)(const void *)(payload + from->shape_at);
        to.rank = from->rank;
        to.data = from->pinned ? (void *)(uintptr_t)from->data : payload + from->data;
        to.size_bytes = (size_t)from->size_bytes;
        inputs[i] = to;
    }
    return inputs;
}

static blaze_request describe(const blazego_request *from, const blaze_tensor *inputs) {
    blaze_request to = BLAZE_REQUEST_INIT;
    to.model = from->model;
    to.priority = from->priority;
    to.session_id = from->session_id;
    to.tenant_id = from->tenant_id;
    to.route_key = from->route_key;
    to.user_data = from->user_data;
    to.deadline_ns = from->timeout_ns ? blaze_now_ns() + from->timeout_ns : 0;
    to.inputs = inputs;
    to.inputs_count = from->inputs_count;
    return to;
}

void blazego_submit(blaze_engine *engine, blaze_queue *queue, blazego_request *requests, uint32_t count,
                    const blazego_tensor *tensors, uint8_t *payload, char *messages, uint32_t messages_count) {
    blaze_tensor room[INLINE_INPUTS];
    blaze_error error;
    uint32_t refused = 0;
    for (uint32_t i = 0; i < count; i++) {
        blazego_request *request = &requests[i];
        blaze_tensor *inputs = place_inputs(tensors, request->inputs_count, payload, room);
        tensors += request->inputs_count;
        request->ticket = 0;
        request->retry_after_ns = 0;
        request->message_bytes = 0;
        if (!inputs) {
            request->status = BLAZE_STATUS_OUT_OF_MEMORY;
            continue;
        }
        blaze_request work = describe(request, inputs);
        request->status = blaze_submit(engine, &work, queue, &request->ticket, &error);
        if (inputs != room) free(inputs);
        if (request->status == BLAZE_STATUS_OK) continue;
        request->retry_after_ns = error.retry_after_ns;
        if (refused < messages_count) {
            size_t size = strnlen(error.message, sizeof error.message);
            if (size > BLAZEGO_MESSAGE) size = BLAZEGO_MESSAGE;
            memcpy(messages + (size_t)refused * BLAZEGO_MESSAGE, error.message, size);
            request->message_bytes = (uint32_t)size;
        }
        refused++;
    }
}

void blazego_cancel(blaze_engine *engine, const uint64_t *tickets, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (tickets[i]) blaze_cancel(engine, tickets[i]);
}

/* ---- one request, waited for ------------------------------------------------------------------------------------ */

static uint64_t aligned(uint64_t size) { return (size + 7) & ~UINT64_C(7); }

static int look(const blaze_event *event, uint32_t index, blaze_tensor *view) {
    *view = (blaze_tensor)BLAZE_TENSOR_INIT;
    return blaze_event_output(event, index, view) == BLAZE_STATUS_OK;
}

/* What an output takes in a buffer: its shape, its elements, its name; strings with their texts behind them. */
static uint64_t packed_bytes(const blaze_tensor *view) {
    uint64_t size = aligned(view->size_bytes) + view->rank * sizeof(int64_t);
    if (view->dtype == BLAZE_DTYPE_STRING) {
        const blaze_string *strings = view->data;
        for (size_t i = 0; i < view->size_bytes / sizeof *strings; i++) size += strings[i].size_bytes;
        size = aligned(size);
    }
    return size + aligned(view->name ? strlen(view->name) : 0);
}

static uint64_t pack(const blaze_tensor *view, blazego_output *output, uint8_t *buffer, uint64_t at) {
    memset(output, 0, sizeof *output);
    output->dtype = view->dtype;
    output->rank = view->rank;
    output->size_bytes = view->size_bytes;
    output->shape = at;
    if (view->rank) memcpy(buffer + at, view->shape, view->rank * sizeof(int64_t));
    at += view->rank * sizeof(int64_t);
    output->data = at;
    if (view->dtype == BLAZE_DTYPE_STRING) { /* pairs of an offset and a size, then the texts */
        const blaze_string *strings = view->data;
        size_t count = view->size_bytes / sizeof *strings;
        uint64_t *pair = (uint64_t *)(void *)(buffer + at);
        at += count * 2 * sizeof *pair;
        for (size_t i = 0; i < count; i++) {
            pair[2 * i] = at;
            pair[2 * i + 1] = strings[i].size_bytes;
            if (strings[i].size_bytes) memcpy(buffer + at, strings[i].data, strings[i].size_bytes);
            at += strings[i].size_bytes;
        }
        at = aligned(at);
    } else {
        if (view->size_bytes) memcpy(buffer + at, view->data, view->size_bytes);
        at += aligned(view->size_bytes);
    }
    output->name = at;
    output->name_bytes = (uint32_t)(view->name ? strlen(view->name) : 0);
    if (output->name_bytes) memcpy(buffer + at, view->name, output->name_bytes);
    return at + aligned(output->name_bytes);
}

void blazego_fetch(blazego_result *result, blazego_output *outputs, uint32_t outputs_capacity, uint8_t *buffer,
                   uint64_t buffer_bytes) {
    blaze_event *event = &result->event;
    blaze_tensor view;
    uint64_t needed = 0, at = 0;
    for (uint32_t i = 0; i < event->outputs_count; i++)
        if (look(event, i, &view)) needed += packed_bytes(&view);
    result->needed_bytes = needed;
    result->outputs_count = event->outputs_count;
    result->needed_outputs = event->outputs_count;
    if (needed > buffer_bytes || event->outputs_count > outputs_capacity) return;
    for (uint32_t i = 0; i < event->outputs_count; i++)
        if (look(event, i, &view)) at = pack(&view, &outputs[i], buffer, at);
    blaze_event_release(event);
    result->needed_bytes = 0;
    result->needed_outputs = 0;
}

void blazego_infer(blaze_engine *engine, blazego_request *request, const blazego_tensor *tensors, uint8_t *payload,
                   blazego_result *result, blazego_output *outputs, uint32_t outputs_capacity, uint8_t *buffer,
                   uint64_t buffer_bytes) {
    blaze_tensor room[INLINE_INPUTS];
    result->needed_bytes = 0;
    result->needed_outputs = 0;
    blaze_tensor *inputs = place_inputs(tensors, request->inputs_count, payload, room);
    if (!inputs) {
        result->error.message[0] = 0;
        result->error.retry_after_ns = 0;
        result->status = BLAZE_STATUS_OUT_OF_MEMORY;
        return;
    }
    blaze_request work = describe(request, inputs);
    result->event = (blaze_event)BLAZE_EVENT_INIT;
    result->status = blaze_infer(engine, &work, UINT64_MAX, &result->event, &result->error);
    if (inputs != room) free(inputs);
    if (result->status == BLAZE_STATUS_OK) blazego_fetch(result, outputs, outputs_capacity, buffer, buffer_bytes);
}

/* ---- events ------------------------------------------------------------------------------------------------------- */

static void release_all(blazego_batch *batch) {
    for (uint32_t i = 0; i < batch->count; i++) blaze_event_release(&batch->events[i]);
    batch->count = 0;
}

blazego_batch *blazego_batch_new(void) { return calloc(1, sizeof(blazego_batch)); }

void blazego_batch_free(blazego_batch *batch) {
    release_all(batch);
    free(batch->outputs);
    free(batch);
}

static int make_room(blazego_batch *batch, uint32_t outputs) {
    if (outputs <= batch->outputs_capacity) return 1;
    uint32_t capacity = outputs < 2 * BLAZEGO_EVENTS ? 2 * BLAZEGO_EVENTS : 2 * outputs;
    blazego_output *larger = realloc(batch->outputs, capacity * sizeof *larger);
    if (!larger) return 0;
    batch->outputs = larger;
    batch->outputs_capacity = capacity;
    return 1;
}

/* Gives back the events of the call before, whose outputs Go has copied, and takes new ones. */
uint32_t blazego_wait(blaze_queue *queue, blazego_batch *batch, uint64_t timeout_ns) {
    uint32_t outputs = 0;
    blaze_tensor view;
    release_all(batch);
    batch->count = blaze_wait(queue, batch->events, sizeof batch->events[0], BLAZEGO_EVENTS, timeout_ns);
    for (uint32_t i = 0; i < batch->count; i++) {
        blaze_event *event = &batch->events[i];
        if (!make_room(batch, outputs + event->outputs_count)) {
            /* Its outputs cannot be shown: that is what Go is told. */
            event->status = BLAZE_STATUS_OUT_OF_MEMORY;
            event->outputs_count = 0;
        }
        for (uint32_t k = 0; k < event->outputs_count; k++, outputs++) {
            blazego_output *output = &batch->outputs[outputs];
            memset(output, 0, sizeof *output);
            if (!look(event, k, &view)) continue;
            output->data = (uint64_t)(uintptr_t)view.data;
            output->size_bytes = view.size_bytes;
            output->shape = (uint64_t)(uintptr_t)view.shape;
            output->name = (uint64_t)(uintptr_t)view.name;
            output->name_bytes = (uint32_t)(view.name ? strlen(view.name) : 0);
            output->dtype = view.dtype;
            output->rank = view.rank;
        }
    }
    return batch->count;
}

/* ---- the log -------------------------------------------------------------------------------------------------------- */

struct blazego_log {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    blazego_line *first, *last;
    uint64_t lost;
    uint32_t count, capacity;
    int ended;
};

blazego_log *blazego_log_new(uint32_t capacity) {
    blazego_log *log = calloc(1, sizeof *log);
    if (!log) return NULL;
    pthread_mutex_init(&log->lock, NULL);
    pthread_cond_init(&log->changed, NULL);
    log->capacity = capacity;
    return log;
}

/* On whichever thread has something to say, while others wait for it: copies the line, and no more. */
static void keep_line(void *user, const blaze_log_record *record) {
    blazego_log *log = user;
    size_t module = strlen(record->module), message = strlen(record->message);
    size_t fields = record->fields ? strlen(record->fields) : 0;
    pthread_mutex_lock(&log->lock);
    blazego_line *line = NULL;
    if (log->count < log->capacity) line = malloc(sizeof *line + module + message + fields);
    if (!line) {
        log->lost++;
    } else {
        line->next = NULL;
        line->time_ns = record->time_ns;
        line->lost = log->lost;
        line->level = record->level;
        line->module_bytes = (uint32_t)module;
        line->message_bytes = (uint32_t)message;
        line->fields_bytes = (uint32_t)fields;
        memcpy(line->text, record->module, module);
        memcpy(line->text + module, record->message, message);
        if (fields) memcpy(line->text + module + message, record->fields, fields);
        if (log->last) log->last->next = line;
        else log->first = line;
        log->last = line;
        log->lost = 0;
        log->count++;
        pthread_cond_signal(&log->changed);
    }
    pthread_mutex_unlock(&log->lock);
}

blaze_status blazego_log_attach(blaze_engine *engine, blazego_log *log, blaze_error *error) {
    return blaze_log_set_callback(engine, log ? keep_line : NULL, log, error);
}

/* Waits for lines and takes all there are; NULL when the log has ended and none is left. */
blazego_line *blazego_log_take(blazego_log *log) {
    pthread_mutex_lock(&log->lock);
    while (!log->first && !log->ended) pthread_cond_wait(&log->changed, &log->lock);
    blazego_line *lines = log->first;
    log->first = log->last = NULL;
    log->count = 0;
    pthread_mutex_unlock(&log->lock);
    return lines;
}

void blazego_log_end(blazego_log *log) {
    pthread_mutex_lock(&log->lock);
    log->ended = 1;
    pthread_cond_broadcast(&log->changed);
    pthread_mutex_unlock(&log->lock);
}

void blazego_log_free(blazego_log *log) {
    blazego_lines_free(log->first);
    pthread_cond_destroy(&log->changed);
    pthread_mutex_destroy(&log->lock);
    free(log);
}

void blazego_lines_free(blazego_line *line) {
    while (line) {
        blazego_line *next = line->next;
        free(line);
        line = next;
    }
}
