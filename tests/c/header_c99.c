/* The header alone is valid C99, and every INIT macro can be used to initialize and, compound, to assign. */
#include <blaze.h>

void use_every_init(void);
void use_every_init(void) {
    blaze_tensor tensor = BLAZE_TENSOR_INIT;
    blaze_request request = BLAZE_REQUEST_INIT;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    tensor = (blaze_tensor)BLAZE_TENSOR_INIT;
    request = (blaze_request)BLAZE_REQUEST_INIT;
    event = (blaze_event)BLAZE_EVENT_INIT;
    health = (blaze_health_info)BLAZE_HEALTH_INFO_INIT;
    metrics = (blaze_metrics_info)BLAZE_METRICS_INFO_INIT;
    (void)tensor, (void)request, (void)event, (void)health, (void)metrics;
}

#if BLAZE_ABI_VERSION >> 16 != 1 || BLAZE_STATUS_OK != 0 || BLAZE_PRIORITY_LOW >= BLAZE_PRIORITY_NORMAL
#error the constants can be used by the preprocessor
#endif
