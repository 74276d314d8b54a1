/* What the fake driver's parts have in common. All of it is under one lock. */
#ifndef FAKECUDA_INTERNAL_H
#define FAKECUDA_INTERNAL_H
#include "fakecuda.h"
#include <stddef.h>

#define MAX_ARGUMENTS 32
#define MAX_DEVICES 8

/* Codes of the driver's. */
enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, INVALID_PTX = 218, UNSUPPORTED_PTX_VERSION = 222, NOT_FOUND = 500,
    NOT_READY = 600, ILLEGAL_ADDRESS = 700, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713, CAPTURE_UNSUPPORTED = 900,
};

/* A kernel as it was launched. */
struct launch {
    char name[64];
    unsigned grid[3], block[3];
    unsigned arguments_count;
    uint64_t arguments[MAX_ARGUMENTS];
};

enum what { TO_DEVICE, TO_HOST, FILL, KERNEL };

/* What a stream has to do. */
struct op {
    struct op *next;
    enum what what;
    uint64_t address;
    void *host;
    size_t bytes;
    unsigned char byte;
    struct launch launch;
    struct object *module, *exec; /* what must be there until it is done */
    uint64_t started_ns;
};

/* Whatever the driver gives a handle for. It stays when it is no more, so that who uses it then is found out. */
struct object {
    struct object *next;
    const char *kind;
    int device;
    unsigned generation;
    int alive;
    /* stream, graph, exec */
    struct op *ops, **end;
    uint64_t enqueued, done;
    struct object *capture;
    /* event: of which stream, and after what */
    struct object *stream;
    uint64_t after;
    /* module */
    char *text;
    /* function */
    struct object *module;
    char name[64];
    unsigned parameters, sizes[MAX_ARGUMENTS], shared;
    /* allocation, registration */
    uint64_t address;
    size_t bytes;
    void *memory;
};

struct device {
    struct object *context; /* of the present generation */
    int retained;
    unsigned generation;
    unsigned sticky;
    uint64_t next_address;
    int tainted; /* a call that frees something was made to fail: not all of it can be gone */
};

extern struct device devices[MAX_DEVICES];
extern struct object *objects;

/* Ends the process. */
_Noreturn void broken(const char *format, ...) __attribute__((format(printf, 1, 2)));

int device_count(void);
size_t device_bytes(void);
uint64_t now_ns(void);
void count(const char *name, unsigned long more);

/* Objects of the device of the current context. `object_of` ends the process unless there is one, alive, of this kind. */
struct object *new_object(const char *kind, int device);
struct object *object_of(const void *handle, const char *kind);
int is_present(const struct object *object);

/* Host memory behind `size` bytes of a device's at an address; NULL: the device has none there. */
void *device_memory(int device, uint64_t address, size_t size);
struct object *allocation_at(uint64_t address);
/* What has been registered of host memory. */
struct object *registration_at(const void *memory, size_t size);

/* Streams. */
void push(struct object *stream, struct op op);
void step(struct object *stream);
void drain(struct object *stream);
struct op *copy_ops(const struct op *ops, struct op ***end, struct object *exec);
/* Whether work that is not done touches an allocation, registration, module or exec. */
int is_used(const struct object *object);
void end_context(int device);

/* Does on the host what the kernel of this name in tests/cuda/kernels.cu does. Returns a code of the driver's. */
unsigned run_kernel(int device, const struct launch *launch);

#endif
