/* The kernels of tests/cuda/kernels.cu, on the host: threads one after the other, as many as were launched. */
#include "internal.h"
#include <string.h>

static float as_float(uint64_t bits) {
    float number;
    uint32_t low = (uint32_t)bits;
    memcpy(&number, &low, sizeof number);
    return number;
}

static uint64_t threads_of(const struct launch *launch) {
    uint64_t threads = 1;
    for (int axis = 0; axis < 3; axis++) threads *= (uint64_t)launch->grid[axis] * launch->block[axis];
    return threads;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static unsigned scale(int device, const struct launch *launch) {
    const uint64_t *argument = launch->arguments;
    uint64_t count = least((uint32_t)argument[2], threads_of(launch));
    const float *x = device_memory(device, argument[0], count * sizeof *x);
    float *y = device_memory(device, argument[1], count * sizeof *y), factor = as_float(argument[3]);
    if (!x || !y) return ILLEGAL_ADDRESS;
    for (uint64_t i = 0; i < count; i++) y[i] = factor * x[i];
    return OK;
}

static unsigned add(int device, const struct launch *launch) {
    const uint64_t *argument = launch->arguments;
    uint64_t count = least((uint32_t)argument[3], threads_of(launch));
    const float *a = device_memory(device, argument[0], count * sizeof *a);
    const float *b = device_memory(device, argument[1], count * sizeof *b);
    float *y = device_memory(device, argument[2], count * sizeof *y);
    if (!a || !b || !y) return ILLEGAL_ADDRESS;
    for (uint64_t i = 0; i < count; i++) y[i] = a[i] + b[i];
    return OK;
}

static unsigned copy(int device, const struct launch *launch) {
    const uint64_t *argument = launch->arguments, bytes = argument[2] * 16;
    const void *x = device_memory(device, argument[0], bytes);
    void *y = device_memory(device, argument[1], bytes);
    if (!x || !y) return ILLEGAL_ADDRESS;
    memcpy(y, x, bytes);
    return OK;
}

static unsigned dense(int device, const struct launch *launch) {
    const uint64_t *argument = launch->arguments;
    uint64_t rows = (uint32_t)argument[4], depth = (uint32_t)argument[5], columns = (uint32_t)argument[6];
    const float *x = device_memory(device, argument[0], rows * depth * sizeof *x);
    const float *w = device_memory(device, argument[1], depth * columns * sizeof *w);
    const float *bias = device_memory(device, argument[2], columns * sizeof *bias);
    float *y = device_memory(device, argument[3], rows * columns * sizeof *y);
    if (!x || !w || !bias || !y) return ILLEGAL_ADDRESS;
    if (launch->block[0] != 16 || launch->block[1] != 16) broken("dense is launched with a block that is not [16, 16]");
    for (uint64_t row = 0; row < least(rows, launch->grid[1] * 16); row++)
        for (uint64_t column = 0; column < least(columns, launch->grid[0] * 16); column++) {
            float sum = bias[column];
            for (uint64_t k = 0; k < depth; k++) sum += x[row * depth + k] * w[k * columns + column];
            y[row * columns + column] = (uint32_t)argument[7] && sum < 0 ? 0 : sum;
        }
    return OK;
}

static unsigned matmul(int device, const struct launch *launch) {
    const uint64_t *argument = launch->arguments;
    uint64_t m = (uint32_t)argument[3], n = (uint32_t)argument[4], depth = (uint32_t)argument[5];
    const float *x = device_memory(device, argument[0], m * depth * sizeof *x);
    const float *w = device_memory(device, argument[1], depth * n * sizeof *w);
    float *y = device_memory(device, argument[2], m * n * sizeof *y);
    if (!x || !w || !y) return ILLEGAL_ADDRESS;
    if (m % 64 || n % 64 || depth % 16 || launch->block[0] != 256) broken("matmul is launched with sizes that it does not have");
    for (uint64_t row = 0; row < least(m, launch->grid[1] * 64); row++)
        for (uint64_t column = 0; column < least(n, launch->grid[0] * 64); column++) {
            float sum = 0;
            for (uint64_t k = 0; k < depth; k++) sum += x[row * depth + k] * w[k * n + column];
            y[row * n + column] = sum;
        }
    return OK;
}

static unsigned crash(int device, const struct launch *launch) {
    struct launch whole = *launch;
    if ((uint32_t)launch->arguments[3]) return ILLEGAL_ADDRESS;
    whole.arguments[3] = 0x3F800000; /* 1.0f */
    return scale(device, &whole);
}

unsigned run_kernel(int device, const struct launch *launch) {
    static const struct {
        const char *name;
        unsigned arguments;
        unsigned (*run)(int device, const struct launch *launch);
    } kernels[] = {{"scale", 4, scale}, {"add", 4, add},       {"copy", 3, copy},
                   {"dense", 8, dense}, {"matmul", 6, matmul}, {"crash", 4, crash}};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (!strcmp(kernels[i].name, launch->name)) {
            if (kernels[i].arguments != launch->arguments_count)
                broken("%s has %u parameters, not %u", launch->name, kernels[i].arguments, launch->arguments_count);
            return kernels[i].run(device, launch);
        }
    broken("there is no kernel %s on the host", launch->name);
}
