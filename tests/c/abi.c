/* The binary interface: versions, names, layouts, and structs older and newer than this library's.
 *
 * The numbers here are those of ABI 1.0 on a 64-bit machine. A change that makes this file fail to compile breaks every
 * program that was built before.
 */
#include "check.h"
#include <stddef.h>

_Static_assert(sizeof(void *) == 8 && sizeof(long) == 8, "these are the layouts of LP64");
_Static_assert(BLAZE_ABI_VERSION == 0x10000, "ABI 1.0");

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "the size of " #type)
#define AT(type, field, at) _Static_assert(offsetof(type, field) == (at), #type "." #field)

SIZE(blaze_status, 4); SIZE(blaze_model, 8); SIZE(blaze_ticket, 8); SIZE(blaze_dtype, 4); SIZE(blaze_memory, 4);
SIZE(blaze_event_kind, 4); SIZE(blaze_priority, 4); SIZE(blaze_health_state, 4); SIZE(blaze_metrics_format, 4);

SIZE(blaze_error, 1024); AT(blaze_error, status, 0); AT(blaze_error, message, 4); AT(blaze_error, retry_after_ns, 1016);
SIZE(blaze_string, 16); AT(blaze_string, data, 0); AT(blaze_string, size_bytes, 8);

SIZE(blaze_tensor, 56);
AT(blaze_tensor, struct_size, 0); AT(blaze_tensor, dtype, 4); AT(blaze_tensor, name, 8); AT(blaze_tensor, shape, 16);
AT(blaze_tensor, rank, 24); AT(blaze_tensor, memory, 28); AT(blaze_tensor, device, 32); AT(blaze_tensor, reserved, 36);
AT(blaze_tensor, data, 40); AT(blaze_tensor, size_bytes, 48);

SIZE(blaze_timing, 32);
AT(blaze_timing, queued_ns, 0); AT(blaze_timing, batched_ns, 8); AT(blaze_timing, computed_ns, 16);
AT(blaze_timing, batch_rows, 24); AT(blaze_timing, reserved, 28);

SIZE(blaze_event, 104);
AT(blaze_event, struct_size, 0); AT(blaze_event, kind, 4); AT(blaze_event, status, 8); AT(blaze_event, flags, 12);
AT(blaze_event, ticket, 16); AT(blaze_event, user_data, 24); AT(blaze_event, model, 32); AT(blaze_event, timing, 40);
AT(blaze_event, text, 72); AT(blaze_event, text_bytes, 80); AT(blaze_event, progress, 88);
AT(blaze_event, outputs_count, 92); AT(blaze_event, internal, 96);

SIZE(blaze_request, 88);
AT(blaze_request, struct_size, 0); AT(blaze_request, flags, 4); AT(blaze_request, model, 8);
AT(blaze_request, priority, 16); AT(blaze_request, reserved, 20); AT(blaze_request, deadline_ns, 24);
AT(blaze_request, session_id, 32); AT(blaze_request, tenant_id, 40); AT(blaze_request, user_data, 48);
AT(blaze_request, inputs, 56); AT(blaze_request, outputs, 64); AT(blaze_request, inputs_count, 72);
AT(blaze_request, outputs_count, 76); AT(blaze_request, route_key, 80);

SIZE(blaze_route_target, 32);
AT(blaze_route_target, model, 0); AT(blaze_route_target, in_flight, 8); AT(blaze_route_target, weight, 12);
AT(blaze_route_target, latency_ns, 16); AT(blaze_route_target, failing_share, 24); AT(blaze_route_target, load, 28);
SIZE(blaze_route_choice, 56);
AT(blaze_route_choice, struct_size, 0); AT(blaze_route_choice, target_stride, 4); AT(blaze_route_choice, targets, 8);
AT(blaze_route_choice, targets_count, 16); AT(blaze_route_choice, reserved, 20); AT(blaze_route_choice, session_id, 24);
AT(blaze_route_choice, tenant_id, 32); AT(blaze_route_choice, route_key, 40); AT(blaze_route_choice, now_ns, 48);

SIZE(blaze_health_info, 64);
AT(blaze_health_info, state, 4); AT(blaze_health_info, accepting, 8); AT(blaze_health_info, models_ready, 12);
AT(blaze_health_info, models_degraded, 16); AT(blaze_health_info, models_failed, 20);
AT(blaze_health_info, queue_depth, 24); AT(blaze_health_info, in_flight, 32); AT(blaze_health_info, memory_bytes, 40);
AT(blaze_health_info, live, 48); AT(blaze_health_info, ready, 52); AT(blaze_health_info, models_slow, 56);
AT(blaze_health_info, reserved, 60);

SIZE(blaze_quantiles, 32); SIZE(blaze_metrics_info, 296);
AT(blaze_metrics_info, requests_accepted, 8); AT(blaze_metrics_info, requests_rejected, 16);
AT(blaze_metrics_info, requests_ok, 24); AT(blaze_metrics_info, requests_failed, 32);
AT(blaze_metrics_info, requests_cancelled, 40); AT(blaze_metrics_info, requests_expired, 48);
AT(blaze_metrics_info, requests_shut_down, 56); AT(blaze_metrics_info, batches, 64); AT(blaze_metrics_info, rows, 72);
AT(blaze_metrics_info, in_flight, 80); AT(blaze_metrics_info, queue_depth, 88);
AT(blaze_metrics_info, memory_bytes, 96); AT(blaze_metrics_info, duration, 104);
AT(blaze_metrics_info, duration_max_ns, 136); AT(blaze_metrics_info, queued, 144); AT(blaze_metrics_info, computed, 176);
AT(blaze_metrics_info, batch_wait, 208); AT(blaze_metrics_info, copied, 240);
AT(blaze_metrics_info, events_waiting, 272); AT(blaze_metrics_info, evictions, 280);
AT(blaze_metrics_info, model_misses, 288);

static void the_library_is_the_headers(void) {
    CHECK_INT(blaze_abi_version() >> 16, BLAZE_ABI_VERSION >> 16);
    CHECK(blaze_abi_version() >= BLAZE_ABI_VERSION);
    CHECK(strchr(blaze_version(), '.') != NULL);
    CHECK(blaze_version() == blaze_version()); /* static */
    uint64_t before = blaze_now_ns();
    sleep_ns(MILLISECOND);
    CHECK(before > 0 && blaze_now_ns() >= before + MILLISECOND);
}

/* Numbers and names are for ever: this table is only ever added to. */
static const struct { blaze_status number; blaze_status constant; const char *name; } statuses[] = {
    {0, BLAZE_STATUS_OK, "OK"},
    {100, BLAZE_STATUS_INVALID_ARGUMENT, "INVALID_ARGUMENT"}, {101, BLAZE_STATUS_NULL_POINTER, "NULL_POINTER"},
    {102, BLAZE_STATUS_INVALID_STRUCT, "INVALID_STRUCT"},     {103, BLAZE_STATUS_INVALID_CONFIG, "INVALID_CONFIG"},
    {104, BLAZE_STATUS_INVALID_NAME, "INVALID_NAME"},         {105, BLAZE_STATUS_INVALID_DTYPE, "INVALID_DTYPE"},
    {106, BLAZE_STATUS_INVALID_SHAPE, "INVALID_SHAPE"},       {107, BLAZE_STATUS_INVALID_SIZE, "INVALID_SIZE"},
    {108, BLAZE_STATUS_UNSUPPORTED, "UNSUPPORTED"},           {200, BLAZE_STATUS_NOT_FOUND, "NOT_FOUND"},
    {201, BLAZE_STATUS_SHUT_DOWN, "SHUT_DOWN"},               {202, BLAZE_STATUS_BUSY, "BUSY"},
    {203, BLAZE_STATUS_CANCELLED, "CANCELLED"},               {204, BLAZE_STATUS_EXPIRED, "EXPIRED"},
    {205, BLAZE_STATUS_TIMEOUT, "TIMEOUT"},                   {206, BLAZE_STATUS_INVALID_STATE, "INVALID_STATE"},
    {207, BLAZE_STATUS_ALREADY_EXISTS, "ALREADY_EXISTS"},     {300, BLAZE_STATUS_QUEUE_FULL, "QUEUE_FULL"},
    {301, BLAZE_STATUS_RATE_LIMITED, "RATE_LIMITED"},         {302, BLAZE_STATUS_OVER_QUOTA, "OVER_QUOTA"},
    {303, BLAZE_STATUS_OUT_OF_MEMORY, "OUT_OF_MEMORY"},       {304, BLAZE_STATUS_OVER_BUDGET, "OVER_BUDGET"},
    {305, BLAZE_STATUS_BUFFER_TOO_SMALL, "BUFFER_TOO_SMALL"}, {400, BLAZE_STATUS_MODEL_NOT_FOUND, "MODEL_NOT_FOUND"},
    {401, BLAZE_STATUS_MODEL_INVALID, "MODEL_INVALID"},       {402, BLAZE_STATUS_MODEL_UNSUPPORTED, "MODEL_UNSUPPORTED"},
    {500, BLAZE_STATUS_BACKEND_FAILED, "BACKEND_FAILED"},
    {501, BLAZE_STATUS_BACKEND_UNAVAILABLE, "BACKEND_UNAVAILABLE"},
    {502, BLAZE_STATUS_PROVIDER_UNAVAILABLE, "PROVIDER_UNAVAILABLE"}, {503, BLAZE_STATUS_DEVICE_LOST, "DEVICE_LOST"},
    {900, BLAZE_STATUS_INTERNAL, "INTERNAL"},
};

static void every_status_has_its_number_and_its_name_and_other_numbers_are_unknown(void) {
    size_t at = 0;
    for (blaze_status status = -5; status < 1200; status++) {
        if (at < COUNT(statuses) && statuses[at].number == status) {
            CHECK_INT(statuses[at].constant, status);
            CHECK(!strcmp(blaze_status_name(status), statuses[at].name));
            at++;
        } else {
            CHECK(!strcmp(blaze_status_name(status), "UNKNOWN"));
        }
    }
    CHECK_INT(at, COUNT(statuses));
    CHECK(!strcmp(blaze_status_name(INT32_MAX), "UNKNOWN") && !strcmp(blaze_status_name(INT32_MIN), "UNKNOWN"));
}

static void the_other_constants_are_for_ever_too(void) {
    const uint32_t dtypes[] = {
        BLAZE_DTYPE_F32, BLAZE_DTYPE_U8, BLAZE_DTYPE_I8, BLAZE_DTYPE_U16, BLAZE_DTYPE_I16, BLAZE_DTYPE_I32,
        BLAZE_DTYPE_I64, BLAZE_DTYPE_STRING, BLAZE_DTYPE_BOOL, BLAZE_DTYPE_F16, BLAZE_DTYPE_F64, BLAZE_DTYPE_U32,
        BLAZE_DTYPE_U64, BLAZE_DTYPE_COMPLEX64, BLAZE_DTYPE_COMPLEX128, BLAZE_DTYPE_BF16, BLAZE_DTYPE_F8E4M3FN,
        BLAZE_DTYPE_F8E4M3FNUZ, BLAZE_DTYPE_F8E5M2, BLAZE_DTYPE_F8E5M2FNUZ, BLAZE_DTYPE_U4, BLAZE_DTYPE_I4,
        BLAZE_DTYPE_F4E2M1, BLAZE_DTYPE_F8E8M0, BLAZE_DTYPE_U2, BLAZE_DTYPE_I2};
    for (uint32_t i = 0; i < COUNT(dtypes); i++) CHECK_INT(dtypes[i], i + 1);
    CHECK(BLAZE_MAX_RANK == 32 && BLAZE_REQUEST_BORROW == 1);
    CHECK(BLAZE_MEMORY_HOST == 0 && BLAZE_MEMORY_PINNED == 1 && BLAZE_MEMORY_CUDA == 2);
    CHECK(BLAZE_EVENT_DONE == 1 && BLAZE_EVENT_PROGRESS == 2 && BLAZE_EVENT_TOKEN == 3);
    CHECK(BLAZE_EVENT_BUFFERS_RELEASED == 4);
    CHECK(BLAZE_EVENT_FLAG_MORE == 1 && BLAZE_EVENT_FLAG_BUFFERS_RELEASED == 2);
    CHECK(BLAZE_PRIORITY_LOW == -1 && BLAZE_PRIORITY_NORMAL == 0 && BLAZE_PRIORITY_HIGH == 1);
    CHECK(BLAZE_PRIORITY_CRITICAL == 2);
    CHECK(BLAZE_HEALTH_OK == 1 && BLAZE_HEALTH_DEGRADED == 2 && BLAZE_HEALTH_FAILED == 3);
    CHECK(BLAZE_METRICS_PROMETHEUS == 1 && BLAZE_METRICS_JSON == 2);
}

static void init_sets_the_size_and_nothing_else(void) {
    const blaze_tensor tensor = BLAZE_TENSOR_INIT;
    const blaze_request request = BLAZE_REQUEST_INIT;
    const blaze_event event = BLAZE_EVENT_INIT;
    const blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    const blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    const struct { const void *data; size_t size; } structs[] = {
        {&tensor, sizeof tensor}, {&request, sizeof request}, {&event, sizeof event}, {&health, sizeof health},
        {&metrics, sizeof metrics}};
    for (size_t i = 0; i < COUNT(structs); i++) {
        uint32_t size = 0;
        memcpy(&size, structs[i].data, sizeof size);
        CHECK_INT(size, structs[i].size);
        for (size_t at = sizeof size; at < structs[i].size; at++) /* none has padding */
            CHECK_INT(((const unsigned char *)structs[i].data)[at], 0);
    }
}

/* Structs older and newer. Every one is tried with each size that a caller might say it has. ------------------- */

enum { ROOM = 8192 };
/* Where a struct lies that says it is larger than the header's; aligned for any of them. */
static union { unsigned char bytes[ROOM]; uint64_t align; blaze_error error; } big, other;

static void say_size(void *memory, uint32_t size) {
    memcpy(memory, &size, sizeof size);
}

/* `first`: its size in the first version of the interface; between that and `size` are those of versions since. */
static void expect_sizes_since(const char *what, blaze_status (*call)(void *memory), const void *good, size_t first,
                               size_t size) {
    const struct { size_t size; blaze_status status; } cases[] = {
        {0, BLAZE_STATUS_INVALID_STRUCT}, {1, BLAZE_STATUS_INVALID_STRUCT}, {4, BLAZE_STATUS_INVALID_STRUCT},
        {first - 8, BLAZE_STATUS_INVALID_STRUCT}, {first - 1, BLAZE_STATUS_INVALID_STRUCT}, {first, BLAZE_STATUS_OK},
        {size, BLAZE_STATUS_OK},
        {size + 8, BLAZE_STATUS_OK}, {size + 64, BLAZE_STATUS_OK}, {2048, BLAZE_STATUS_OK},
        {UINT32_MAX, BLAZE_STATUS_INVALID_STRUCT}, {0x80000000u, BLAZE_STATUS_INVALID_STRUCT},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        memset(&big, 0, sizeof big);
        memcpy(&big, good, size);
        say_size(&big, (uint32_t)cases[i].size);
        blaze_status status = call(&big);
        if (status != cases[i].status)
            FAIL("%s of %zu bytes: %s, not %s", what, cases[i].size, blaze_status_name(status),
                 blaze_status_name(cases[i].status));
    }
}

static void expect_sizes(const char *what, blaze_status (*call)(void *memory), const void *good, size_t size) {
    expect_sizes_since(what, call, good, size, size);
}

static struct rig rig;

static blaze_status submit_it(void *memory) {
    blaze_ticket ticket = 0;
    blaze_error error = {.status = 0};
    blaze_status status = blaze_submit(rig.engine, memory, rig.queue, &ticket, &error);
    if (status == BLAZE_STATUS_OK) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
        blaze_event_release(&event);
    } else {
        CHECK_TEXT(error.message, "blaze_"); /* the struct that is wrong */
    }
    return status;
}

static blaze_status infer_into_it(void *memory) {
    struct call call;
    blaze_status status = blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, memory, NULL);
    if (status == BLAZE_STATUS_OK) {
        uint32_t size = 0;
        memcpy(&size, memory, sizeof size);
        CHECK_FLOATS(floats(memory, 0), 3, 5, 7, 9);
        blaze_event_release(memory);
        CHECK(size >= sizeof(blaze_event)); /* stays what the caller said */
    }
    return status;
}

static blaze_event viewed;
static blaze_status view_into_it(void *memory) {
    return blaze_event_output(&viewed, 0, memory);
}
static blaze_status health_into_it(void *memory) {
    return blaze_health(rig.engine, memory);
}
static blaze_status metrics_into_it(void *memory) {
    return blaze_metrics(rig.engine, memory);
}

static blaze_status submit_with_input(void *memory) {
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = rig.model;
    request.inputs = memory;
    request.inputs_count = 1;
    return submit_it(&request);
}

static void structs_older_and_newer_are_accepted_and_broken_ones_refused(void) {
    rig = rig_up(NULL, "", "");
    struct call call;
    simple_call(&call, rig.model);
    submit(&rig, &call.request);
    viewed = next_event(rig.queue);
    expect_sizes_since("request", submit_it, &call.request, offsetof(blaze_request, route_key), sizeof call.request);
    expect_sizes("inputs", submit_with_input, &call.input, sizeof call.input);
    expect_sizes("event of infer", infer_into_it, &(blaze_event)BLAZE_EVENT_INIT, sizeof(blaze_event));
    expect_sizes("view", view_into_it, &(blaze_tensor)BLAZE_TENSOR_INIT, sizeof(blaze_tensor));
    expect_sizes_since("health", health_into_it, &(blaze_health_info)BLAZE_HEALTH_INFO_INIT,
                       offsetof(blaze_health_info, live), sizeof(blaze_health_info));
    expect_sizes_since("metrics", metrics_into_it, &(blaze_metrics_info)BLAZE_METRICS_INFO_INIT,
                       offsetof(blaze_metrics_info, batch_wait), sizeof(blaze_metrics_info));
    blaze_event_release(&viewed);
    rig_down(&rig);
}

static void what_a_newer_struct_sets_beyond_this_library_is_refused(void) {
    rig = rig_up(NULL, "", "");
    struct call call;
    simple_call(&call, rig.model);
    const struct { blaze_status (*call)(void *); const void *good; size_t size; } cases[] = {
        {submit_it, &call.request, sizeof call.request}, {submit_with_input, &call.input, sizeof call.input}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (size_t extra = 0; extra < 16; extra++) {
            memset(&big, 0, sizeof big);
            memcpy(&big, cases[i].good, cases[i].size);
            say_size(&big, (uint32_t)cases[i].size + 16);
            big.bytes[cases[i].size + extra] = 1;
            if (i == 0) CHECK_STATUS(cases[i].call(&big), INVALID_STRUCT);
            else CHECK_STATUS(blaze_submit(rig.engine, &(blaze_request){.struct_size = sizeof(blaze_request), .model = rig.model,
                                           .inputs = (const blaze_tensor *)(const void *)&big, .inputs_count = 1},
                                           rig.queue, NULL, NULL), INVALID_STRUCT);
        }
    }
    no_event(rig.queue);
    rig_down(&rig);
}

/* What a newer struct has more is zeroed when the library writes it. */
static void the_tail_of_a_newer_struct_is_zeroed_and_nothing_beyond_it_is_touched(void) {
    rig = rig_up(NULL, "", "");
    submit_simple(&rig, 0);
    viewed = next_event(rig.queue);
    const struct { blaze_status (*call)(void *); size_t size; } cases[] = {
        {health_into_it, sizeof(blaze_health_info)}, {metrics_into_it, sizeof(blaze_metrics_info)},
        {view_into_it, sizeof(blaze_tensor)}, {infer_into_it, sizeof(blaze_event)}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t size = cases[i].size + 24;
        memset(&big, 0xAA, sizeof big);
        say_size(&big, (uint32_t)size);
        CHECK_STATUS(cases[i].call(&big), OK);
        uint32_t said = 0;
        memcpy(&said, &big, sizeof said);
        CHECK_INT(said, size);
        for (size_t at = cases[i].size; at < size; at++) CHECK_INT(big.bytes[at], 0);
        for (size_t at = size; at < size + 64; at++) CHECK_INT(big.bytes[at], 0xAA);
    }
    blaze_event_release(&viewed);
    rig_down(&rig);
}

static void tensors_lie_as_far_apart_as_they_say_they_are_large(void) {
    rig = rig_up(NULL, "\"inputs\": [{\"name\": \"a\", \"shape\": [\"n\", 4]}, {\"name\": \"b\", \"shape\": [\"n\", 4]}]", "");
    struct call call;
    simple_call(&call, rig.model);
    for (size_t stride = sizeof(blaze_tensor); stride <= 4096; stride += stride < 256 ? 8 : 640) {
        memset(&big, 0, sizeof big);
        for (size_t i = 0; i < 2 && (i + 1) * stride <= sizeof big; i++) {
            memcpy(big.bytes + i * stride, &call.input, sizeof call.input);
            say_size(big.bytes + i * stride, (uint32_t)stride);
        }
        call.request.inputs = (const blaze_tensor *)(const void *)&big;
        call.request.inputs_count = 2;
        CHECK_STATUS(submit_it(&call.request), OK);
        say_size(big.bytes + stride, (uint32_t)stride + 8); /* "all with the same struct_size" */
        CHECK_STATUS(blaze_submit(rig.engine, &call.request, rig.queue, NULL, NULL), INVALID_STRUCT);
    }
    rig_down(&rig);
}

static void events_are_written_a_stride_apart_with_zeroes_between(void) {
    rig = rig_up(NULL, "", ALONE);
    const size_t strides[] = {sizeof(blaze_event), sizeof(blaze_event) + 8, 512, 4096};
    for (size_t i = 0; i < COUNT(strides); i++) {
        size_t stride = strides[i];
        memset(&big, 0xAA, sizeof big);
        submit_simple(&rig, 0);
        submit_simple(&rig, 1);
        for (uint32_t taken = 0; taken < 2;) {
            uint32_t room = (uint32_t)(sizeof big / stride < 2 - taken ? sizeof big / stride : 2 - taken);
            uint32_t count = blaze_wait(rig.queue, (blaze_event *)(void *)(big.bytes + taken * stride), stride, room, PATIENCE);
            REQUIRE(count >= 1);
            taken += count;
        }
        for (size_t event = 0; event < 2; event++) {
            blaze_event *at = (blaze_event *)(void *)(big.bytes + event * stride);
            CHECK_INT(at->struct_size, stride);
            CHECK_INT(at->user_data, event);
            for (size_t tail = sizeof *at; tail < stride; tail++) CHECK_INT(big.bytes[event * stride + tail], 0);
            blaze_event_release(at);
        }
    }
    const size_t wrong[] = {0, 1, 8, sizeof(blaze_event) - 8, sizeof(blaze_event) - 1, sizeof(blaze_event) + 1, SIZE_MAX};
    memset(&other, 0, sizeof other);
    for (size_t i = 0; i < COUNT(wrong); i++) {
        submit_simple(&rig, 0);
        CHECK_INT(blaze_wait(rig.queue, (blaze_event *)(void *)&other, wrong[i], 1, 0), 0);
        CHECK_INT(blaze_poll(rig.queue, (blaze_event *)(void *)&other, wrong[i], 1), 0);
        for (size_t at = 0; at < 256; at++) CHECK_INT(other.bytes[at], 0);
        blaze_event event = next_event(rig.queue); /* it is still there */
        blaze_event_release(&event);
    }
    rig_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(the_library_is_the_headers),
        TEST(every_status_has_its_number_and_its_name_and_other_numbers_are_unknown),
        TEST(the_other_constants_are_for_ever_too),
        TEST(init_sets_the_size_and_nothing_else),
        TEST(structs_older_and_newer_are_accepted_and_broken_ones_refused),
        TEST(what_a_newer_struct_sets_beyond_this_library_is_refused),
        TEST(the_tail_of_a_newer_struct_is_zeroed_and_nothing_beyond_it_is_touched),
        TEST(tensors_lie_as_far_apart_as_they_say_they_are_large),
        TEST(events_are_written_a_stride_apart_with_zeroes_between),
    };
    return RUN_TESTS(tests, argc, argv);
}
