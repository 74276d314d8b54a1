/* NVML for tests on machines without a GPU: every device is busy 42 % of the time. See fakecuda.h. */
#include <stddef.h>

struct utilization {
    unsigned gpu, memory;
};
struct memory {
    unsigned long long total, free, used;
};

unsigned nvmlInit_v2(void);
unsigned nvmlInit_v2(void) {
    return 0;
}

unsigned nvmlShutdown(void);
unsigned nvmlShutdown(void) {
    return 0;
}

unsigned nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device);
unsigned nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device) {
    static int one;
    *device = &one;
    return bus_id ? 0 : 2;
}

unsigned nvmlDeviceGetUtilizationRates(void *device, struct utilization *rates);
unsigned nvmlDeviceGetUtilizationRates(void *device, struct utilization *rates) {
    *rates = (struct utilization){42, 7};
    return device ? 0 : 2;
}

unsigned nvmlDeviceGetMemoryInfo(void *device, struct memory *memory);
unsigned nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    *memory = (struct memory){1 << 30, 1 << 29, 1 << 29};
    return device ? 0 : 2;
}
