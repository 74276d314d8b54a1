/* The fake driver's functions: see fakecuda.h. */
#include "internal.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NAMES 128
#define MAX_STACK 16

typedef unsigned CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;

long fakecuda_live_locked(const char *kind);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int is_initialized;
static struct {
    const char *name;
    unsigned long count;
} counts[MAX_NAMES];
static struct {
    char function[64];
    int after, always, has_failed;
    unsigned code;
} fault;

/* Contexts that are current in this thread, and how many of its streams record. */
static _Thread_local struct object *stack[MAX_STACK];
static _Thread_local int depth, captures;

void count(const char *name, unsigned long more) {
    for (int i = 0; i < MAX_NAMES; i++) {
        if (!counts[i].name) {
            char *own = malloc(strlen(name) + 1);
            if (!own) broken("no memory");
            counts[i].name = strcpy(own, name);
        }
        if (!strcmp(counts[i].name, name)) {
            counts[i].count += more;
            return;
        }
    }
    broken("there are more names than %d", MAX_NAMES);
}

unsigned long fakecuda_count(const char *name) {
    for (int i = 0; i < MAX_NAMES && counts[i].name; i++)
        if (!strcmp(counts[i].name, name)) return counts[i].count;
    return 0;
}

void fakecuda_clear(void) {
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < MAX_NAMES; i++) counts[i].count = 0;
    pthread_mutex_unlock(&mutex);
}

void fakecuda_fail(const char *function, int after, unsigned code) {
    pthread_mutex_lock(&mutex);
    fault.after = function ? after : 0, fault.always = function && !after, fault.code = code, fault.has_failed = 0;
    snprintf(fault.function, sizeof fault.function, "%s", function ? function : "");
    for (int device = 0; function && device < MAX_DEVICES; device++) devices[device].tainted = 0;
    pthread_mutex_unlock(&mutex);
}

int fakecuda_has_failed(void) {
    pthread_mutex_lock(&mutex);
    int has_failed = fault.has_failed;
    pthread_mutex_unlock(&mutex);
    return has_failed;
}

void fakecuda_lose(int device, unsigned code) {
    pthread_mutex_lock(&mutex);
    devices[device].sticky = code;
    pthread_mutex_unlock(&mutex);
}

void fakecuda_end(void) {
    pthread_mutex_lock(&mutex);
    for (int device = 0; device < MAX_DEVICES; device++) {
        end_context(device);
        devices[device].retained = 0;
    }
    pthread_mutex_unlock(&mutex);
}

long fakecuda_live(const char *kind) {
    pthread_mutex_lock(&mutex);
    long found = fakecuda_live_locked(kind);
    pthread_mutex_unlock(&mutex);
    return found;
}

static int is_sticky(unsigned code) {
    static const unsigned codes[] = {46,  214, 220, 226, 700, 702, 709, 710, 714, 715,
                                     716, 717, 718, 719, 721, 810, 911, 999};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i] == code) return 1;
    return 0;
}

static struct object *current(void) {
    return depth ? stack[depth - 1] : NULL;
}

/* Begins a call; with a context, if it needs one. */
static unsigned enter(const char *name, int needs_context) {
    pthread_mutex_lock(&mutex);
    count(name, 1);
    struct object *context = current();
    if (!strcmp(name, fault.function) && (fault.always || (fault.after > 0 && --fault.after == 0))) {
        fault.has_failed = 1;
        if (context && is_present(context) && is_sticky(fault.code)) devices[context->device].sticky = fault.code;
        static const char *const frees[] = {"Free", "Destroy", "Unload", "Unregister", "Push", "Pop"};
        for (size_t i = 0; i < sizeof frees / sizeof *frees; i++)
            if (strstr(name, frees[i]))
                for (int device = 0; device < MAX_DEVICES; device++) devices[device].tainted = 1;
        return fault.code;
    }
    if (!is_initialized && strcmp(name, "cuInit") != 0) return NOT_INITIALIZED;
    if (!needs_context) return OK;
    if (!context) return INVALID_CONTEXT;
    if (!is_present(context)) broken("%s: the current context is of before the device was reset", name);
    return devices[context->device].sticky;
}

static unsigned leave(unsigned code) {
    pthread_mutex_unlock(&mutex);
    return code;
}

#define PLAIN()                                 \
    do {                                        \
        unsigned code = enter(__func__, 0);     \
        if (code) return leave(code);           \
    } while (0)
#define WITHIN()                                \
    do {                                        \
        unsigned code = enter(__func__, 1);     \
        if (code) return leave(code);           \
    } while (0)
#define NOT_WHILE_CAPTURING()                                                         \
    do {                                                                              \
        if (captures) broken("%s while this thread's stream records", __func__);      \
    } while (0)

/* A function, and its name for the list of all. */
#define API(name, ...)         \
    CUresult name(__VA_ARGS__); \
    CUresult name(__VA_ARGS__)

/* The driver and devices ---------------------------------------------------------------------------------------- */

API(cuInit, unsigned flags) {
    PLAIN();
    is_initialized = 1;
    return leave(flags ? INVALID_VALUE : device_count() ? OK : NO_DEVICE);
}

API(cuDriverGetVersion, int *version) {
    PLAIN();
    *version = 13000;
    return leave(OK);
}

static const struct {
    unsigned code;
    const char *name, *text;
} names[] = {{1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
             {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
             {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
             {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
             {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
             {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
             {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
             {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
             {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
             {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
             {999, "CUDA_ERROR_UNKNOWN", "unknown error"}};

API(cuGetErrorName, unsigned code_, const char **name) {
    PLAIN();
    *name = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code_) *name = names[i].name;
    return leave(*name ? OK : INVALID_VALUE);
}

API(cuGetErrorString, unsigned code_, const char **text) {
    PLAIN();
    *text = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code_) *text = names[i].text;
    return leave(*text ? OK : INVALID_VALUE);
}

API(cuDeviceGetCount, int *found) {
    PLAIN();
    *found = device_count();
    return leave(OK);
}

API(cuDeviceGet, CUdevice *device, int ordinal) {
    PLAIN();
    *device = ordinal;
    return leave(ordinal >= 0 && ordinal < device_count() ? OK : INVALID_DEVICE);
}

API(cuDeviceGetName, char *name, int size, CUdevice device) {
    PLAIN();
    (void)device;
    snprintf(name, (size_t)size, "Fake GPU (no GPU)");
    return leave(OK);
}

API(cuDeviceGetAttribute, int *value, unsigned attribute, CUdevice device) {
    PLAIN();
    (void)device;
    *value = attribute == 97 ? 232448 : attribute == 75 ? 9 : 0; /* shared memory on request; 9.0 */
    return leave(OK);
}

API(cuDeviceTotalMem_v2, size_t *bytes, CUdevice device) {
    PLAIN();
    (void)device;
    *bytes = device_bytes();
    return leave(OK);
}

API(cuDeviceGetPCIBusId, char *text, int size, CUdevice device) {
    PLAIN();
    snprintf(text, (size_t)size, "0000:%02x:00.0", (unsigned)device);
    return leave(OK);
}

/* Contexts ------------------------------------------------------------------------------------------------------ */

API(cuDevicePrimaryCtxRetain, void **context, CUdevice device) {
    PLAIN();
    if (!devices[device].context) devices[device].context = new_object("context", device);
    devices[device].retained++;
    *context = devices[device].context;
    return leave(OK);
}

API(cuDevicePrimaryCtxRelease_v2, CUdevice device) {
    PLAIN();
    struct device *own = &devices[device];
    if (own->retained <= 0) broken("the context of device %d is released more often than it was retained", device);
    if (--own->retained == 0) {
        static const char *const kinds[] = {"allocation", "registration", "stream", "event", "module", "graph", "exec"};
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            for (struct object *object = objects; object; object = object->next)
                if (is_present(object) && object->device == device && !strcmp(object->kind, kinds[i]) && !own->sticky &&
                    !own->tainted)
                    broken("the last of device %d is gone, and has left a %s", device, kinds[i]);
        end_context(device);
    }
    return leave(OK);
}

API(cuDevicePrimaryCtxReset_v2, CUdevice device) {
    PLAIN();
    unsigned earlier = devices[device].sticky; /* it does what it is to, and may still tell of what was before */
    end_context(device);
    return leave(earlier);
}

API(cuCtxPushCurrent_v2, void *context) {
    PLAIN();
    if (depth == MAX_STACK) broken("contexts are pushed and not popped");
    stack[depth++] = object_of(context, "context");
    return leave(OK);
}

API(cuCtxPopCurrent_v2, void **context) {
    unsigned code = enter(__func__, 0);
    if (!depth) broken("no context to pop");
    *context = stack[--depth]; /* also when it is made to fail: a thread has nothing else to do with it */
    return leave(code);
}

/* Memory -------------------------------------------------------------------------------------------------------- */

API(cuMemGetInfo_v2, size_t *free_bytes, size_t *total) {
    WITHIN();
    size_t used = 0;
    for (struct object *object = objects; object; object = object->next)
        if (is_present(object) && object->device == current()->device && !strcmp(object->kind, "allocation"))
            used += object->bytes;
    *total = device_bytes(), *free_bytes = *total - used;
    return leave(OK);
}

static unsigned allocate_on(int number, size_t bytes, uint64_t *address) {
    struct device *device = &devices[number];
    size_t used = 0;
    for (struct object *object = objects; object; object = object->next)
        if (is_present(object) && object->device == number && !strcmp(object->kind, "allocation")) used += object->bytes;
    if (!bytes) return INVALID_VALUE;
    if (bytes > device_bytes() - used) return OUT_OF_MEMORY;
    struct object *object = new_object("allocation", number);
    object->memory = malloc(bytes), object->bytes = bytes;
    if (!object->memory) broken("no memory");
    memset(object->memory, 0xA5, bytes);
    object->address = 0xD000000000000000u + ((uint64_t)number << 48) + device->next_address;
    device->next_address += (bytes + 511) / 256 * 256; /* never one right after the other */
    *address = object->address;
    return OK;
}

static void release_allocation(struct object *object) {
    if (is_used(object)) broken("memory is freed with work on it under way");
    object->alive = 0;
    memset(object->memory, 0xDD, object->bytes);
    free(object->memory);
}

API(cuMemAlloc_v2, CUdeviceptr *address, size_t bytes) {
    WITHIN();
    NOT_WHILE_CAPTURING();
    return leave(allocate_on(current()->device, bytes, address));
}

uint64_t fakecuda_allocate(int device, unsigned long bytes) {
    uint64_t address = 0;
    pthread_mutex_lock(&mutex);
    if (devices[device].context) allocate_on(device, bytes, &address);
    pthread_mutex_unlock(&mutex);
    return address;
}

void fakecuda_free(uint64_t address) {
    pthread_mutex_lock(&mutex);
    struct object *object = allocation_at(address);
    if (!object) broken("memory is freed that is not there");
    release_allocation(object);
    pthread_mutex_unlock(&mutex);
}

static void *there(uint64_t address, size_t bytes) {
    struct object *object = allocation_at(address);
    void *memory = object ? device_memory(object->device, address, bytes) : NULL;
    if (!memory) broken("%llx is no memory of a device", (unsigned long long)address);
    return memory;
}

void fakecuda_write(uint64_t address, const void *data, unsigned long bytes) {
    pthread_mutex_lock(&mutex);
    memcpy(there(address, bytes), data, bytes);
    pthread_mutex_unlock(&mutex);
}

void fakecuda_read(uint64_t address, void *data, unsigned long bytes) {
    pthread_mutex_lock(&mutex);
    memcpy(data, there(address, bytes), bytes);
    pthread_mutex_unlock(&mutex);
}

API(cuMemFree_v2, CUdeviceptr address) {
    WITHIN();
    NOT_WHILE_CAPTURING();
    struct object *object = allocation_at(address);
    if (!object || object->address != address) broken("%llx is freed, and is no allocation", (unsigned long long)address);
    if (object->device != current()->device) broken("memory is freed in another device's context");
    release_allocation(object);
    return leave(OK);
}

API(cuMemHostRegister_v2, void *memory, size_t bytes, unsigned flags) {
    WITHIN();
    (void)flags;
    if (registration_at(memory, 1)) return leave(ALREADY_REGISTERED);
    if ((uintptr_t)memory % 4096 || bytes % 4096) broken("host memory is registered that is not whole pages");
    struct object *object = new_object("registration", current()->device);
    object->address = (uintptr_t)memory, object->bytes = bytes;
    return leave(OK);
}

API(cuMemHostUnregister, void *memory) {
    WITHIN();
    struct object *object = registration_at(memory, 1);
    if (!object || object->address != (uintptr_t)memory) return leave(NOT_REGISTERED);
    if (is_used(object)) broken("host memory is unregistered with copies under way");
    object->alive = 0;
    return leave(OK);
}

API(cuPointerGetAttributes, unsigned number, const unsigned *attributes, void *const *values, CUdeviceptr address) {
    WITHIN();
    struct object *object = allocation_at(address);
    for (unsigned i = 0; i < number; i++) {
        if (attributes[i] == 2) *(unsigned *)values[i] = object ? 2 : 0;
        else if (attributes[i] == 9) *(int *)values[i] = object ? object->device : -2;
        else if (attributes[i] == 11) *(uint64_t *)values[i] = object ? object->address : 0;
        else if (attributes[i] == 12) *(size_t *)values[i] = object ? object->bytes : 0;
        else broken("pointer attribute %u is asked for", attributes[i]);
    }
    return leave(OK);
}

static struct object *stream_of(void *stream) {
    if (!stream) broken("the default stream is used");
    struct object *object = object_of(stream, "stream");
    if (object->device != current()->device) broken("a stream is used in another device's context");
    return object;
}

static unsigned copy_on(void *stream, enum what what, void *host, CUdeviceptr address, size_t bytes) {
    struct object *object = stream_of(stream);
    if (!bytes || !host) return INVALID_VALUE;
    if (!device_memory(object->device, address, bytes)) broken("a copy is asked for with what is no memory of the device");
    count(registration_at(host, bytes) ? "pinned_copies" : "pageable_copies", 1);
    count("copied_bytes", bytes);
    push(object, (struct op){.what = what, .host = host, .address = address, .bytes = bytes});
    return OK;
}

API(cuMemcpyHtoDAsync_v2, CUdeviceptr to, const void *from, size_t bytes, void *stream) {
    WITHIN();
    return leave(copy_on(stream, TO_DEVICE, (void *)(uintptr_t)from, to, bytes));
}

API(cuMemcpyDtoHAsync_v2, void *to, CUdeviceptr from, size_t bytes, void *stream) {
    WITHIN();
    return leave(copy_on(stream, TO_HOST, to, from, bytes));
}

API(cuMemsetD8Async, CUdeviceptr address, unsigned char byte, size_t bytes, void *stream) {
    WITHIN();
    push(stream_of(stream), (struct op){.what = FILL, .address = address, .bytes = bytes, .byte = byte});
    return leave(OK);
}

/* Streams and events -------------------------------------------------------------------------------------------- */

API(cuStreamCreate, void **stream, unsigned flags) {
    WITHIN();
    if (flags != 1) broken("a stream is made that waits for the default stream");
    *stream = new_object("stream", current()->device);
    return leave(OK);
}

API(cuStreamDestroy_v2, void *stream) {
    WITHIN();
    struct object *object = stream_of(stream);
    if (object->ops) broken("a stream is destroyed with work under way");
    if (object->capture) broken("a stream is destroyed that records");
    object->alive = 0;
    return leave(OK);
}

API(cuStreamSynchronize, void *stream) {
    WITHIN();
    NOT_WHILE_CAPTURING();
    struct object *object = stream_of(stream);
    drain(object);
    return leave(devices[object->device].sticky);
}

API(cuStreamBeginCapture_v2, void *stream, unsigned mode) {
    WITHIN();
    struct object *object = stream_of(stream);
    if (object->capture || mode != 1) broken("a stream is to record that does, or for all threads");
    object->capture = new_object("graph", object->device);
    captures++;
    return leave(OK);
}

API(cuStreamEndCapture, void *stream, void **graph) {
    unsigned code = enter(__func__, 1);
    struct object *object = stream_of(stream);
    if (object->capture) captures--; /* also when it is made to fail: then there is no graph */
    if (code && object->capture) object->capture->alive = 0, object->capture = NULL;
    *graph = object->capture, object->capture = NULL;
    return leave(code);
}

API(cuEventCreate, void **event, unsigned flags) {
    WITHIN();
    (void)flags;
    *event = new_object("event", current()->device);
    return leave(OK);
}

API(cuEventDestroy_v2, void *event) {
    WITHIN();
    struct object *object = object_of(event, "event");
    if (object->stream && object->stream->done < object->after) broken("an event is destroyed that has not come");
    object->alive = 0;
    return leave(OK);
}

API(cuEventRecord, void *event, void *stream) {
    WITHIN();
    struct object *object = object_of(event, "event");
    object->stream = stream_of(stream), object->after = object->stream->enqueued;
    return leave(OK);
}

API(cuEventQuery, void *event) {
    WITHIN();
    NOT_WHILE_CAPTURING();
    struct object *object = object_of(event, "event"), *stream = object->stream;
    if (!stream || stream->done >= object->after) return leave(OK);
    step(stream);
    if (devices[stream->device].sticky) return leave(devices[stream->device].sticky);
    return leave(NOT_READY); /* at least once, so that who does not ask again has nothing */
}

/* Modules and kernels ------------------------------------------------------------------------------------------- */

API(cuModuleLoadDataEx, void **module, const char *image, unsigned number, unsigned *options, void **values) {
    WITHIN();
    unsigned code = OK;
    const char *why = "";
    const char *version = strstr(image, ".version ");
    if (!memcmp(image, "\177ELF", 4)) code = NO_BINARY_FOR_GPU;
    else if (!version || !strstr(image, ".target")) code = INVALID_PTX, why = "ptxas fatal: missing .version directive";
    else if (atoi(version + 9) > 9) code = UNSUPPORTED_PTX_VERSION;
    for (unsigned i = 0; i + 1 < number; i++)
        if (options[i] == 5 && options[i + 1] == 6) snprintf(values[i], (size_t)(uintptr_t)values[i + 1], "%s", why);
    if (code) return leave(code);
    struct object *object = new_object("module", current()->device);
    object->text = malloc(strlen(image) + 1);
    if (!object->text) broken("no memory");
    strcpy(object->text, image);
    *module = object;
    return leave(OK);
}

API(cuModuleUnload, void *module) {
    WITHIN();
    struct object *object = object_of(module, "module");
    if (is_used(object)) broken("a module is unloaded with its kernels under way");
    for (struct object *function = objects; function; function = function->next)
        if (function->module == object && !strcmp(function->kind, "function")) function->alive = 0;
    free(object->text), object->text = NULL;
    object->alive = 0;
    return leave(OK);
}

/* Finds a kernel's parameters in PTX. */
static int find_kernel(const char *text, struct object *function) {
    char entry[96];
    snprintf(entry, sizeof entry, ".entry %s(", function->name);
    const char *at = strstr(text, entry), *end = at ? strchr(at, ')') : NULL;
    if (!end) return 0;
    while ((at = strstr(at + 1, ".param .")) && at < end) {
        const char *type = at + 8; /* u64 and so on: bits */
        if (function->parameters == MAX_ARGUMENTS) broken("%s has too many parameters", function->name);
        function->sizes[function->parameters++] = (unsigned)atoi(type + 1) / 8;
    }
    return 1;
}

API(cuModuleGetFunction, void **found, void *module, const char *name) {
    WITHIN();
    struct object *object = object_of(module, "module"), *function = new_object("function", object->device);
    snprintf(function->name, sizeof function->name, "%s", name);
    function->module = object, function->shared = 48 << 10;
    function->alive = find_kernel(object->text, function);
    *found = function;
    return leave(function->alive ? OK : NOT_FOUND);
}

#ifndef FAKECUDA_OLD /* from 12.4 on */
API(cuFuncGetParamInfo, void *function, size_t index, size_t *offset, size_t *bytes) {
    WITHIN();
    struct object *object = object_of(function, "function");
    if (index >= object->parameters) return leave(INVALID_VALUE);
    *offset = 8 * index, *bytes = object->sizes[index];
    return leave(OK);
}

API(cuFuncLoad, void *function) {
    WITHIN();
    object_of(function, "function");
    return leave(OK);
}
#endif

API(cuFuncGetAttribute, int *value, unsigned attribute, void *function) {
    WITHIN();
    object_of(function, "function");
    *value = attribute == 0 ? 1024 : 0;
    return leave(OK);
}

API(cuFuncSetAttribute, void *function, unsigned attribute, int value) {
    WITHIN();
    if (attribute != 8 || value < 0) return leave(INVALID_VALUE);
    object_of(function, "function")->shared = (unsigned)value;
    return leave(OK);
}

API(cuLaunchKernel, void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
    unsigned block_z, unsigned shared, void *stream, void **parameters, void **extra) {
    WITHIN();
    struct object *object = object_of(function, "function"), *on = stream_of(stream);
    if (object->device != on->device) broken("a kernel is launched on another device's stream");
    if (extra || !grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z) return leave(INVALID_VALUE);
    if (block_x * block_y * block_z > 1024 || shared > object->shared) return leave(INVALID_VALUE);
    struct op op = {.what = KERNEL, .module = object->module};
    op.launch = (struct launch){.grid = {grid_x, grid_y, grid_z}, .block = {block_x, block_y, block_z}};
    memcpy(op.launch.name, object->name, sizeof op.launch.name);
    op.launch.arguments_count = object->parameters;
    for (unsigned i = 0; i < object->parameters; i++) memcpy(&op.launch.arguments[i], parameters[i], object->sizes[i]);
    push(on, op);
    return leave(OK);
}

/* Graphs -------------------------------------------------------------------------------------------------------- */

static void free_ops(struct object *object) {
    for (struct op *op = object->ops, *next; op; op = next) next = op->next, free(op);
    object->ops = NULL, object->end = &object->ops;
}

API(cuGraphInstantiateWithFlags, void **exec, void *graph, unsigned long long flags) {
    WITHIN();
    (void)flags;
    struct object *object = object_of(graph, "graph"), *made = new_object("exec", object->device);
    made->ops = copy_ops(object->ops, &made->end, made);
    if (!made->ops) made->end = &made->ops;
    *exec = made;
    return leave(OK);
}

API(cuGraphDestroy, void *graph) {
    WITHIN();
    struct object *object = object_of(graph, "graph");
    free_ops(object);
    object->alive = 0;
    return leave(OK);
}

API(cuGraphExecDestroy, void *exec) {
    WITHIN();
    struct object *object = object_of(exec, "exec");
    if (is_used(object)) broken("a graph is destroyed that is under way");
    free_ops(object);
    object->alive = 0;
    return leave(OK);
}

API(cuGraphLaunch, void *exec, void *stream) {
    WITHIN();
    struct object *object = object_of(exec, "exec"), *on = stream_of(stream);
    if (is_used(object)) broken("a graph is launched that is under way");
    for (struct op *op = object->ops; op; op = op->next) push(on, *op);
    return leave(OK);
}

const char *fakecuda_function(int index) {
    static const char *const functions[] = {
        "cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuDeviceGetCount", "cuDeviceGet",
        "cuDeviceGetName", "cuDeviceGetAttribute", "cuDeviceTotalMem_v2", "cuDeviceGetPCIBusId", "cuDevicePrimaryCtxRetain",
        "cuDevicePrimaryCtxRelease_v2", "cuDevicePrimaryCtxReset_v2", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2",
        "cuMemGetInfo_v2", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostRegister_v2", "cuMemHostUnregister",
        "cuPointerGetAttributes", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemsetD8Async", "cuStreamCreate",
        "cuStreamDestroy_v2", "cuStreamSynchronize", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuEventCreate",
        "cuEventDestroy_v2", "cuEventRecord", "cuEventQuery", "cuModuleLoadDataEx", "cuModuleUnload", "cuModuleGetFunction",
        "cuFuncGetParamInfo", "cuFuncLoad", "cuFuncGetAttribute", "cuFuncSetAttribute", "cuLaunchKernel",
        "cuGraphInstantiateWithFlags", "cuGraphDestroy", "cuGraphExecDestroy", "cuGraphLaunch"};
    return index >= 0 && (size_t)index < sizeof functions / sizeof *functions ? functions[index] : NULL;
}
