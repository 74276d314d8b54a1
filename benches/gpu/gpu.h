/* What the programs that measure GPUs share: options, clocks, files, and results as lines of JSON. */
#ifndef GPU_H
#define GPU_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define DIE(...) (fprintf(stderr, __VA_ARGS__), fprintf(stderr, "\n"), exit(1))

static inline uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Options are pairs: --name VALUE. */
static int option_count;
static char **option_values;

static inline const char *option(const char *name, const char *otherwise) {
    for (int i = 2; i + 1 < option_count; i += 2)
        if (!strncmp(option_values[i], "--", 2) && !strcmp(option_values[i] + 2, name)) return option_values[i + 1];
    return otherwise;
}

static inline const char *needed(const char *name) {
    const char *value = option(name, NULL);
    if (!value) DIE("--%s is missing", name);
    return value;
}

static inline size_t number(const char *name, size_t otherwise) {
    const char *value = option(name, NULL);
    char *end = NULL;
    unsigned long long parsed = value ? strtoull(value, &end, 10) : otherwise;
    if (value && (!*value || *end)) DIE("--%s: %s is no number", name, value);
    return (size_t)parsed;
}

static inline void *room(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 4096, bytes ? bytes : 1)) DIE("no memory for %zu bytes", bytes);
    memset(memory, 0, bytes);
    return memory;
}

static inline void *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) DIE("%s cannot be read", path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *data = room((size_t)size + 1);
    if (fread(data, 1, (size_t)size, file) != (size_t)size) DIE("%s cannot be read", path);
    fclose(file);
    data[size] = 0;
    *bytes = (size_t)size;
    return data;
}

static inline int compare_u64(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* One of sorted values. */
static inline uint64_t quantile(const uint64_t *sorted, size_t count, double share) {
    return count ? sorted[(size_t)(share * (double)(count - 1))] : 0;
}

/* Results go to stdout, one line of JSON each; everything else goes to stderr. What is no number is null. */
static inline void result(const char *name, double value, const char *unit) {
    if (isfinite(value)) printf("{\"name\": \"%s\", \"value\": %.17g, \"unit\": \"%s\"}\n", name, value, unit);
    else printf("{\"name\": \"%s\", \"value\": null, \"unit\": \"%s\"}\n", name, unit);
    fflush(stdout);
}

/* `text` must be plain. */
static inline void result_text(const char *name, const char *text) {
    printf("{\"name\": \"%s\", \"text\": \"", name);
    for (; *text; text++)
        if ((unsigned char)*text >= 0x20) printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    printf("\"}\n");
    fflush(stdout);
}

/* Bytes of this process that are in memory. */
static inline size_t resident_bytes(void) {
    unsigned long long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%llu %llu", &pages, &resident) != 2) resident = 0;
    if (file) fclose(file);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

#endif
