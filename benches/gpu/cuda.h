/* The CUDA driver's functions that are measured against, from the library that is opened. Declared here, so that no toolkit is
 * needed. */
#ifndef GPU_CUDA_H
#define GPU_CUDA_H
#include "gpu.h"
#include <dlfcn.h>

#define DRIVER_FUNCTIONS(X)                                                                          \
    X(cuInit, (unsigned))                                                                            \
    X(cuDriverGetVersion, (int *))                                                                   \
    X(cuDeviceGetCount, (int *))                                                                     \
    X(cuDeviceGet, (int *, int))                                                                     \
    X(cuDeviceGetName, (char *, int, int))                                                           \
    X(cuDeviceGetAttribute, (int *, unsigned, int))                                                  \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                                      \
    X(cuDevicePrimaryCtxRelease_v2, (int))                                                           \
    X(cuCtxPushCurrent_v2, (void *))                                                                 \
    X(cuCtxPopCurrent_v2, (void **))                                                                 \
    X(cuMemGetInfo_v2, (size_t *, size_t *))                                                         \
    X(cuMemAlloc_v2, (uint64_t *, size_t))                                                           \
    X(cuMemFree_v2, (uint64_t))                                                                      \
    X(cuMemHostRegister_v2, (void *, size_t, unsigned))                                              \
    X(cuMemHostUnregister, (void *))                                                                 \
    X(cuMemcpyHtoDAsync_v2, (uint64_t, const void *, size_t, void *))                                \
    X(cuMemcpyDtoHAsync_v2, (void *, uint64_t, size_t, void *))                                      \
    X(cuStreamCreate, (void **, unsigned))                                                           \
    X(cuStreamDestroy_v2, (void *))                                                                  \
    X(cuStreamSynchronize, (void *))                                                                 \
    X(cuEventCreate, (void **, unsigned))                                                            \
    X(cuEventDestroy_v2, (void *))                                                                   \
    X(cuEventRecord, (void *, void *))                                                               \
    X(cuEventQuery, (void *))                                                                        \
    X(cuModuleLoadDataEx, (void **, const void *, unsigned, unsigned *, void **))                    \
    X(cuModuleUnload, (void *))                                                                      \
    X(cuModuleGetFunction, (void **, void *, const char *))                                          \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
                       void *, void **, void **))

#define DECLARE(name, arguments) static int (*name) arguments;
DRIVER_FUNCTIONS(DECLARE)

#define DRIVER(name, ...)                                                \
    do {                                                                 \
        int driver_code = name(__VA_ARGS__);                             \
        if (driver_code) DIE("%s: error %d", #name, driver_code);        \
    } while (0)

enum { NOT_READY = 600, NON_BLOCKING = 1, NO_TIMING = 2, MULTIPROCESSORS = 16, CLOCK_KHZ = 13 };

static int gpu_device;
static void *gpu_context;

/* Opens the driver, and makes the device's context this thread's. */
static inline void open_driver(const char *path, int ordinal) {
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library) DIE("no driver: %s", dlerror());
#define FIND(name, arguments)                                                       \
    *(void **)&name = dlsym(library, #name);                                        \
    if (!name) DIE("no driver: %s has no %s", path, #name);
    DRIVER_FUNCTIONS(FIND)
    DRIVER(cuInit, 0);
    DRIVER(cuDeviceGet, &gpu_device, ordinal);
    DRIVER(cuDevicePrimaryCtxRetain, &gpu_context, gpu_device);
    DRIVER(cuCtxPushCurrent_v2, gpu_context);
}

static inline void close_driver(void) {
    DRIVER(cuCtxPopCurrent_v2, &gpu_context);
    DRIVER(cuDevicePrimaryCtxRelease_v2, gpu_device);
}

static inline size_t device_free_bytes(void) {
    size_t unused = 0, total = 0;
    DRIVER(cuMemGetInfo_v2, &unused, &total);
    return unused;
}

#endif
