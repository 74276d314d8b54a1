
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

/* What a plugin exports; it defines BLAZE_PLUGIN before it includes this header. ----------------------------------- */

#ifdef BLAZE_PLUGIN
#ifdef _WIN32
#define BLAZE_PLUGIN_EXPORT __declspec(dllexport)
#else
#define BLAZE_PLUGIN_EXPORT __attribute__((visibility("default")))
#endif

/* Returns BLAZE_BACKEND_ABI. */
BLAZE_PLUGIN_EXPORT uint32_t blaze_plugin_abi(void);

/* Makes the plugin's backend for an engine, whose configuration of the plugin, "config", is in `config_json`: valid during
 * the call. `backend` is zeroed, with struct_size set, and to be filled in. What fails says why in `err`, which is never
 * NULL; BACKEND_UNAVAILABLE: it cannot work on this machine, and an engine that does not require it goes on without. */
BLAZE_PLUGIN_EXPORT blaze_status blaze_plugin_open(const char *config_json, blaze_backend *backend, blaze_error *err);
#endif

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* BLAZE_H */
