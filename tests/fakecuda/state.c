/* What the fake driver knows, and what its streams do. */
#include "internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct device devices[MAX_DEVICES];
struct object *objects;
static uint64_t kernel_ns;

void broken(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fputs("fakecuda: ", stderr);
    vfprintf(stderr, format, list);
    fputs("\n", stderr);
    va_end(list);
    abort();
}

int device_count(void) {
    const char *text = getenv("FAKECUDA_DEVICES");
    int devices_count = text ? atoi(text) : 1;
    return devices_count > MAX_DEVICES ? MAX_DEVICES : devices_count;
}

size_t device_bytes(void) {
    const char *text = getenv("FAKECUDA_MEMORY");
    return text ? strtoull(text, NULL, 10) : (size_t)1 << 30;
}

uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void fakecuda_kernel_ns(uint64_t ns) {
    __atomic_store_n(&kernel_ns, ns, __ATOMIC_SEQ_CST);
}

int is_present(const struct object *object) {
    return object->alive && object->generation == devices[object->device].generation;
}

struct object *new_object(const char *kind, int device) {
    struct object *object = calloc(1, sizeof *object);
    if (!object) broken("no memory");
    *object = (struct object){.next = objects, .kind = kind, .device = device, .alive = 1};
    object->generation = devices[device].generation;
    object->end = &object->ops;
    return objects = object;
}

struct object *object_of(const void *handle, const char *kind) {
    for (struct object *object = objects; object; object = object->next)
        if (object == handle) {
            if (object->kind != kind && strcmp(object->kind, kind) != 0) broken("a %s is used as a %s", object->kind, kind);
            if (!object->alive) broken("a %s is used that is destroyed", kind);
            if (!is_present(object)) broken("a %s is used of before the device was reset", kind);
            return object;
        }
    broken("%p is no %s", handle, kind);
}

static struct object *range_at(const char *kind, uint64_t address, size_t size) {
    for (struct object *object = objects; object; object = object->next)
        if (is_present(object) && !strcmp(object->kind, kind) && address >= object->address &&
            address + size <= object->address + object->bytes && address + size >= address)
            return object;
    return NULL;
}

struct object *allocation_at(uint64_t address) {
    return range_at("allocation", address, 1);
}

struct object *registration_at(const void *memory, size_t size) {
    return range_at("registration", (uintptr_t)memory, size);
}

void *device_memory(int device, uint64_t address, size_t size) {
    struct object *found = range_at("allocation", address, size);
    return found && found->device == device ? (char *)found->memory + (address - found->address) : NULL;
}

static void note_overlap(void) {
    unsigned long busy = 0;
    for (struct object *object = objects; object; object = object->next)
        busy += is_present(object) && !strcmp(object->kind, "stream") && object->done < object->enqueued;
    unsigned long before = fakecuda_count("overlap");
    if (busy > before) count("overlap", busy - before);
}

static void append(struct object *to, const struct op *op) {
    struct op *own = malloc(sizeof *own);
    if (!own) broken("no memory");
    *own = *op, own->next = NULL;
    *to->end = own, to->end = &own->next;
}

void push(struct object *stream, struct op op) {
    if (stream->capture) {
        append(stream->capture, &op);
        return;
    }
    append(stream, &op);
    stream->enqueued++;
    note_overlap();
}

struct op *copy_ops(const struct op *ops, struct op ***end, struct object *exec) {
    struct op *first = NULL;
    *end = &first;
    struct op **at = &first;
    for (; ops; ops = ops->next) {
        *at = malloc(sizeof **at);
        if (!*at) broken("no memory");
        **at = *ops, (*at)->next = NULL, (*at)->exec = exec;
        at = &(*at)->next;
    }
    *end = at;
    return first;
}

static unsigned perform(int device, const struct op *op) {
    void *memory = op->what == KERNEL ? NULL : device_memory(device, op->address, op->bytes);
    if (op->what != KERNEL && !memory) return ILLEGAL_ADDRESS;
    switch (op->what) {
    case TO_DEVICE: memcpy(memory, op->host, op->bytes); return OK;
    case TO_HOST: memcpy(op->host, memory, op->bytes); return OK;
    case FILL: memset(memory, op->byte, op->bytes); return OK;
    case KERNEL: return run_kernel(device, &op->launch);
    }
    return OK;
}

/* Does what comes next, or some of it. */
void step(struct object *stream) {
    struct op *op = stream->ops;
    struct device *device = &devices[stream->device];
    if (!op || device->sticky) return;
    uint64_t takes = __atomic_load_n(&kernel_ns, __ATOMIC_SEQ_CST);
    if (op->what == KERNEL && takes) {
        if (!op->started_ns) op->started_ns = now_ns();
        if (now_ns() - op->started_ns < takes) return;
    }
    unsigned code = perform(stream->device, op);
    if (code) device->sticky = code;
    if (op->what == KERNEL) {
        char name[80];
        snprintf(name, sizeof name, "kernel %s", op->launch.name);
        count(name, 1);
        if (op->exec) count("graph_kernels", 1);
        snprintf(name, sizeof name, "device %d kernels", stream->device);
        count(name, 1);
    }
    stream->ops = op->next;
    if (!stream->ops) stream->end = &stream->ops;
    stream->done++;
    free(op);
}

void drain(struct object *stream) {
    while (stream->ops && !devices[stream->device].sticky) step(stream);
}

static int touches(const struct op *op, const struct object *object) {
    uint64_t begin = object->address, end = begin + object->bytes;
    if (op->module == object || op->exec == object) return 1;
    if (!strcmp(object->kind, "registration"))
        return op->what != KERNEL && (uintptr_t)op->host < end && (uintptr_t)op->host + op->bytes > begin;
    if (strcmp(object->kind, "allocation") != 0) return 0;
    if (op->what != KERNEL) return op->address < end && op->address + op->bytes > begin;
    for (unsigned i = 0; i < op->launch.arguments_count; i++)
        if (op->launch.arguments[i] >= begin && op->launch.arguments[i] < end) return 1;
    return 0;
}

int is_used(const struct object *used) {
    for (struct object *object = objects; object; object = object->next)
        if (is_present(object) && !strcmp(object->kind, "stream") && !devices[object->device].sticky)
            for (struct op *op = object->ops; op; op = op->next)
                if (touches(op, used)) return 1;
    return 0;
}

/* Everything on the device is gone, and what was under way is not done. */
void end_context(int number) {
    struct device *device = &devices[number];
    for (struct object *object = objects; object; object = object->next) {
        if (!is_present(object) || object->device != number) continue;
        if (!strcmp(object->kind, "allocation")) memset(object->memory, 0xDD, object->bytes), free(object->memory);
        for (struct op *op = object->ops, *next; op; op = next) next = op->next, free(op);
        object->ops = NULL, object->end = &object->ops;
        free(object->text), object->text = NULL;
    }
    device->generation++;
    device->context = NULL;
    device->sticky = 0;
    device->tainted = 0;
    device->next_address = 0; /* the same addresses again */
}

long fakecuda_live_locked(const char *kind);
long fakecuda_live_locked(const char *kind) {
    long found = 0;
    int bytes = !strcmp(kind, "bytes"), pending = !strcmp(kind, "pending");
    for (struct object *object = objects; object; object = object->next) {
        if (!is_present(object)) continue;
        if (bytes && !strcmp(object->kind, "allocation")) found += (long)object->bytes;
        if (pending && !strcmp(object->kind, "stream")) found += (long)(object->enqueued - object->done);
        if (!bytes && !pending) found += !strcmp(object->kind, kind);
    }
    return found;
}
