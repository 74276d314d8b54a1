// The header alone is valid C++17, its functions have C linkage, and every INIT macro can be used.
#include <blaze.h>

#include <type_traits>

static_assert(std::is_standard_layout_v<blaze_tensor> && std::is_trivially_copyable_v<blaze_tensor>);
static_assert(std::is_standard_layout_v<blaze_request> && std::is_trivially_copyable_v<blaze_request>);
static_assert(std::is_standard_layout_v<blaze_event> && std::is_trivially_copyable_v<blaze_event>);
static_assert(std::is_same_v<blaze_status, int32_t>);

// Names and constants do not collide with what C++ makes of a struct's tag.
const blaze_status statuses[] = {BLAZE_STATUS_OK, BLAZE_STATUS_INTERNAL};
const blaze_priority priorities[] = {BLAZE_PRIORITY_LOW, BLAZE_PRIORITY_CRITICAL};
const blaze_dtype dtypes[] = {BLAZE_DTYPE_F32, BLAZE_DTYPE_I2};

void use_every_init();
void use_every_init() {
    blaze_tensor tensor = BLAZE_TENSOR_INIT;
    blaze_request request = BLAZE_REQUEST_INIT;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    tensor = BLAZE_TENSOR_INIT;
    request = BLAZE_REQUEST_INIT;
    event = BLAZE_EVENT_INIT;
    health = BLAZE_HEALTH_INFO_INIT;
    metrics = BLAZE_METRICS_INFO_INIT;
    static_cast<void>(tensor), static_cast<void>(request), static_cast<void>(event), static_cast<void>(health),
        static_cast<void>(metrics), static_cast<void>(statuses), static_cast<void>(priorities), static_cast<void>(dtypes);
}
