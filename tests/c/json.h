/* Reads what the library says in JSON: strictly, so that whatever is not valid JSON fails a test.
 *
 * A path is keys with dots between them, "[2]" for an element, and "[name=digits]" for the first element of a list whose
 * "name" is "digits"; "[-1]" is the last element.
 */
#ifndef JSON_H
#define JSON_H
#include "check.h"

static inline const char *json_blank(const char *at) {
    while (at && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

static inline const char *json_skip_string(const char *at) {
    if (*at++ != '"') return NULL;
    for (; *at != '"'; at++) {
        if ((unsigned char)*at < 0x20) return NULL;
        if (*at != '\\') continue;
        at++;
        if (*at == 'u') {
            for (int i = 0; i < 4; i++)
                if (!*++at || !strchr("0123456789abcdefABCDEF", *at)) return NULL;
        } else if (!*at || !strchr("\"\\/bfnrt", *at)) {
            return NULL;
        }
    }
    return at + 1;
}

/* Past the value at `at`; NULL if there is none. */
static inline const char *json_skip(const char *at) {
    if (!(at = json_blank(at))) return NULL;
    if (*at == '"') return json_skip_string(at);
    if (*at == '{' || *at == '[') {
        char opened = *at, closes = opened == '{' ? '}' : ']';
        at = json_blank(at + 1);
        if (*at == closes) return at + 1;
        for (;;) {
            if (opened == '{') {
                if (!(at = json_skip_string(at))) return NULL;
                at = json_blank(at);
                if (*at++ != ':') return NULL;
            }
            if (!(at = json_blank(json_skip(at)))) return NULL;
            if (*at == closes) return at + 1;
            if (*at++ != ',') return NULL;
            at = json_blank(at);
        }
    }
    const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < COUNT(words); i++)
        if (!strncmp(at, words[i], strlen(words[i]))) return at + strlen(words[i]);
    size_t count = strspn(at, "-+.0123456789eE");
    return count > 0 && (*at == '-' || (*at >= '0' && *at <= '9')) ? at + count : NULL;
}

static inline int json_is_valid(const char *text) {
    const char *end = text ? json_blank(json_skip(text)) : NULL;
    return end && !*end;
}

/* The value of a key of the object at `at`, or NULL. */
static inline const char *json_member(const char *at, const char *key, size_t length) {
    at = json_blank(at);
    if (*at != '{') return NULL;
    at = json_blank(at + 1);
    while (*at == '"') {
        const char *end = json_skip_string(at), *value = json_blank(json_blank(end) + 1);
        if ((size_t)(end - at) == length + 2 && !strncmp(at + 1, key, length)) return value;
        at = json_blank(json_skip(value));
        if (*at == ',') at = json_blank(at + 1);
    }
    return NULL;
}

/* The element of the list at `at` that "2", "-1" or "name=digits" stands for, or NULL. */
static inline const char *json_element(const char *at, const char *which, size_t length) {
    at = json_blank(at);
    if (*at != '[') return NULL;
    at = json_blank(at + 1);
    const char *equals = memchr(which, '=', length), *last = NULL;
    long wanted = equals ? 0 : strtol(which, NULL, 10);
    for (long index = 0; *at && *at != ']'; index++) {
        if (equals) {
            const char *value = json_member(at, which, (size_t)(equals - which));
            size_t rest = length - (size_t)(equals - which) - 1;
            if (value && (*value == '"' ? (size_t)(json_skip(value) - value) == rest + 2 && !strncmp(value + 1, equals + 1, rest)
                                        : (size_t)(json_skip(value) - value) == rest && !strncmp(value, equals + 1, rest)))
                return at;
        } else if (index == wanted) {
            return at;
        }
        last = at;
        at = json_blank(json_skip(at));
        if (*at == ',') at = json_blank(at + 1);
    }
    return !equals && wanted == -1 ? last : NULL;
}

/* The value at a path, or NULL. The text must be valid. */
static inline const char *json_at(const char *text, const char *path) {
    if (!json_is_valid(text)) {
        FAIL("not valid JSON: %s", text ? text : "(NULL)");
        return NULL;
    }
    const char *at = text;
    while (at && *path) {
        if (*path == '.') path++;
        if (*path == '[') {
            size_t length = strcspn(++path, "]");
            at = json_element(at, path, length);
            path += length + 1;
        } else {
            size_t length = strcspn(path, ".[");
            at = json_member(at, path, length);
            path += length;
        }
    }
    return at;
}

/* The value at a path, as it is written, strings without their quotes; "(none)" if there is none. One of eight buffers,
 * in turn. */
static inline const char *json_text(const char *text, const char *path) {
    static _Thread_local char buffers[8][4096];
    static _Thread_local unsigned turn;
    char *buffer = buffers[turn++ % 8];
    const char *at = json_at(text, path);
    size_t quote = at && *at == '"', length = at ? (size_t)(json_skip(at) - at) - 2 * quote : 0;
    if (length >= sizeof buffers[0]) length = sizeof buffers[0] - 1;
    snprintf(buffer, sizeof buffers[0], "%.*s", at ? (int)length : 6, at ? at + quote : "(none)");
    return buffer;
}

static inline long long json_number(const char *text, const char *path) {
    const char *at = json_at(text, path);
    if (!at || (*at != '-' && (*at < '0' || *at > '9'))) {
        FAIL("%s is %s, no number, in %s", path, json_text(text, path), text);
        return -1;
    }
    return strtoll(at, NULL, 10);
}

static inline long json_count(const char *text, const char *path) {
    const char *at = json_at(text, path);
    if (!at || *at != '[') {
        FAIL("%s is no list in %s", path, text);
        return -1;
    }
    long count = 0;
    for (at = json_blank(at + 1); *at != ']'; count++) {
        at = json_blank(json_skip(at));
        if (*at == ',') at = json_blank(at + 1);
    }
    return count;
}

/* The value at the path, as text, is this. */
#define CHECK_JSON(text, path, expected)                                                           \
    do {                                                                                           \
        const char *check_j = json_text((text), (path));                                           \
        if (strcmp(check_j, (expected)) != 0) FAIL("%s is %s, not %s", (path), check_j, (expected)); \
    } while (0)

/* An engine's health, whole. In one buffer for each thread. */
static inline const char *health_text(blaze_engine *engine) {
    static _Thread_local char text[262144];
    if (blaze_health_json(engine, text, sizeof text, NULL) != BLAZE_STATUS_OK) {
        FAIL("no health");
        strcpy(text, "null");
    }
    return text;
}

static inline long long health_number(blaze_engine *engine, const char *path) {
    return json_number(health_text(engine), path);
}

/* Where a model is: "idle" or "ready" in memory, "evicted" and so on, "(none)" if it is not there. */
static inline const char *residence(blaze_engine *engine, const char *name) {
    char path[300];
    snprintf(path, sizeof path, "models[name=%s].residence", name);
    return json_text(health_text(engine), path);
}

static inline int is_resident(blaze_engine *engine, const char *name) {
    const char *where = residence(engine, name);
    return !strcmp(where, "idle") || !strcmp(where, "ready");
}

static inline void until_residence(blaze_engine *engine, const char *name, const char *wanted) {
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (strcmp(residence(engine, name), wanted) != 0 && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    if (strcmp(residence(engine, name), wanted) != 0) FAIL("%s is %s, not %s", name, residence(engine, name), wanted);
}

/* Files ---------------------------------------------------------------------------------------------------------- */

/* A directory of its own for this process, made anew by every call; the last one. */
static inline const char *new_directory(void) {
    static char path[64];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.40s/blaze-XXXXXX", base && *base ? base : "/tmp");
    REQUIRE(mkdtemp(path));
    return path;
}

static inline void remove_directory(const char *path) {
    char command[640];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    CHECK_INT(system(command), 0);
}

static inline void write_file(const char *path, const void *data, size_t size) {
    char temporary[640];
    snprintf(temporary, sizeof temporary, "%s.part", path);
    FILE *file = fopen(temporary, "wb");
    REQUIRE(file);
    CHECK_INT(fwrite(data, 1, size, file), size);
    fclose(file);
    CHECK_INT(rename(temporary, path), 0);
}

/* As deployments do it: written beside, and then renamed into place. */
static inline void copy_file(const char *from, const char *to) {
    static char bytes[1 << 20];
    FILE *file = fopen(from, "rb");
    REQUIRE(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    REQUIRE(size > 0 && size < sizeof bytes);
    write_file(to, bytes, size);
}

#endif
