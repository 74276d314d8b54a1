/* What the Go package asks of the C ABI in one crossing where the ABI has several calls.
 *
 * Structs that Go fills and hands in hold no pointers: offsets into one payload instead, so that nothing needs to be
 * pinned for small inputs. An address is there only for memory that Go has pinned, or that is C's.
 */
#ifndef BLAZE_GO_SHIM_H
#define BLAZE_GO_SHIM_H

#include <blaze.h>

/* Events that are taken in one call. */
#define BLAZEGO_EVENTS 256

/* Bytes of a message for each refused request, NUL included. */
#define BLAZEGO_MESSAGE 256

/* An input. `data` is an offset into the payload, or an address if `pinned`. Strings are pairs of an offset and a size
 * at `data`, which blazego_submit turns into blaze_string in place. */
typedef struct blazego_tensor {
    uint64_t data;
    uint64_t size_bytes;
    uint32_t shape_at; /* byte offset into the payload */
    uint32_t name_at;  /* byte offset into the payload of a NUL-terminated text; 0: none */
    uint32_t dtype;
    uint16_t rank;
    uint16_t pinned;
} blazego_tensor;

/* A request, and what came of handing it in. */
typedef struct blazego_request {
    uint64_t model;
    uint64_t session_id;
    uint64_t tenant_id;
    uint64_t route_key;
    uint64_t user_data;
    uint64_t timeout_ns; /* from now; 0: no deadline */
    int32_t priority;
    uint32_t inputs_count;
    /* Written by the call. */
    uint64_t ticket;
    uint64_t retry_after_ns;
    blaze_status status;
    uint32_t message_bytes; /* in `messages`, at BLAZEGO_MESSAGE × the request's number among the refused */
} blazego_request;

/* An output: addresses in a batch of events, offsets into the buffer from blazego_infer. */
typedef struct blazego_output {
    uint64_t data;
    uint64_t size_bytes;
    uint64_t shape;
    uint64_t name;
    uint32_t name_bytes;
    uint32_t dtype;
    uint32_t rank;
    uint32_t reserved;
} blazego_output;

/* Events taken from a queue, and views of all their outputs, one after the other. */
typedef struct blazego_batch {
    blaze_event events[BLAZEGO_EVENTS];
    uint32_t count;
    uint32_t outputs_capacity;
    blazego_output *outputs;
} blazego_batch;

/* What blazego_infer writes. */
typedef struct blazego_result {
    blaze_event event; /* for blazego_fetch, if needed_bytes or needed_outputs is not 0 */
    uint64_t needed_bytes;
    uint32_t needed_outputs;
    uint32_t outputs_count; /* of the event, which has none any more when it is released */
    blaze_status status;
    blaze_error error;
} blazego_result;

void blazego_submit(blaze_engine *engine, blaze_queue *queue, blazego_request *requests, uint32_t count,
                    const blazego_tensor *tensors, uint8_t *payload, char *messages, uint32_t messages_count);

void blazego_infer(blaze_engine *engine, blazego_request *request, const blazego_tensor *tensors, uint8_t *payload,
                   blazego_result *result, blazego_output *outputs, uint32_t outputs_capacity, uint8_t *buffer,
                   uint64_t buffer_bytes);

void blazego_fetch(blazego_result *result, blazego_output *outputs, uint32_t outputs_capacity, uint8_t *buffer,
                   uint64_t buffer_bytes);

void blazego_cancel(blaze_engine *engine, const uint64_t *tickets, uint32_t count);

blazego_batch *blazego_batch_new(void);
void blazego_batch_free(blazego_batch *batch);
uint32_t blazego_wait(blaze_queue *queue, blazego_batch *batch, uint64_t timeout_ns);

/* Lines of the log, kept until Go takes them: the library's threads never run Go code. */
typedef struct blazego_log blazego_log;

typedef struct blazego_line {
    struct blazego_line *next;
    uint64_t time_ns;
    uint64_t lost; /* lines before this one for which there was no room */
    uint32_t level;
    uint32_t module_bytes;
    uint32_t message_bytes;
    uint32_t fields_bytes;
    char text[]; /* module, message, fields */
} blazego_line;

blazego_log *blazego_log_new(uint32_t capacity);
blaze_status blazego_log_attach(blaze_engine *engine, blazego_log *log, blaze_error *error);
blazego_line *blazego_log_take(blazego_log *log);
void blazego_log_end(blazego_log *log);
void blazego_log_free(blazego_log *log);
void blazego_lines_free(blazego_line *line);

#endif
