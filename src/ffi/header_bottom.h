
/* Values to start from --------------------------------------------------------------------------------------- */

/* struct_size is set, everything else is zero. */
#define BLAZE_ALLOCATOR_INIT {sizeof(blaze_allocator), 0, NULL, NULL, NULL}
#define BLAZE_TENSOR_INIT {sizeof(blaze_tensor), 0, NULL, NULL, 0, 0, 0, 0, NULL, 0}
#define BLAZE_REQUEST_INIT {sizeof(blaze_request), 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, 0}
#define BLAZE_EVENT_INIT \
    {sizeof(blaze_event), 0, 0, 0, 0, 0, 0, {0, 0, 0, 0, 0}, NULL, 0, 0.0f, 0, NULL}
#define BLAZE_BACKEND_INIT \
    {sizeof(blaze_backend), BLAZE_BACKEND_ABI, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL}
#define BLAZE_HEALTH_INFO_INIT {sizeof(blaze_health_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
#define BLAZE_METRICS_INFO_INIT \
    {sizeof(blaze_metrics_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0, 0}, 0, {0, 0, 0, 0}, {0, 0, 0, 0}, \
     {0, 0, 0, 0}, {0, 0, 0, 0}, 0, 0, 0}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* BLAZE_H */
