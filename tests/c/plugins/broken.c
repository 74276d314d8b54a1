/* Plugins that are not as they should be: one for each value of WHAT. */
#define BLAZE_PLUGIN
#include <blaze.h>
#include <stdio.h>
#include <string.h>

#define ANCIENT 1  /* made for another version of the interface */
#define REFUSING 2 /* cannot work here, and says why */
#define MUTE 3     /* the same, without a word */
#define UNNAMED 4  /* its backend has no name */
#define CLOSED 5   /* has no blaze_plugin_open */
#define LACKING 6  /* needs a library that is not there: see the Makefile */

uint32_t blaze_plugin_abi(void) {
    return WHAT == ANCIENT ? 0 : BLAZE_BACKEND_ABI;
}

#if WHAT != CLOSED
BLAZE_PLUGIN_EXPORT int broken_closed(int more);
int broken_closed(int more) {
    static int closed;
    return closed += more;
}

static void close_backend(void *user) {
    (void)user;
    broken_closed(1);
}

blaze_status blaze_plugin_open(const char *config_json, blaze_backend *backend, blaze_error *err) {
    if (WHAT == REFUSING) snprintf(err->message, sizeof err->message, "there is no moon tonight, config %s", config_json);
    (void)err, (void)backend, (void)config_json;
    if (WHAT == UNNAMED) *backend = (blaze_backend)BLAZE_BACKEND_INIT, backend->close = close_backend;
    return WHAT == UNNAMED ? BLAZE_STATUS_OK : BLAZE_STATUS_BACKEND_UNAVAILABLE;
}
#endif
