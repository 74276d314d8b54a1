/* A shared object that passes for an ONNX Runtime of long ago, for faults.c: it has no API that Blaze could use. */
#include <stddef.h>
#include <stdint.h>

struct api_base {
    const void *(*get_api)(uint32_t version);
    const char *(*get_version_string)(void);
};

static const void *get_api(uint32_t version) {
    (void)version;
    return NULL;
}

static const char *get_version_string(void) {
    return "1.10.0";
}

const struct api_base *OrtGetApiBase(void);
const struct api_base *OrtGetApiBase(void) {
    static const struct api_base base = {get_api, get_version_string};
    return &base;
}
