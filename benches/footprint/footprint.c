/* What the library takes: its file, the time until an engine is there, and memory at rest. Each figure is the median of many
 * processes of their own, since what is loaded stays. usage: footprint LIBBLAZE [PROCESSES] */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <blaze.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST 201
#define MODEL "{\"models\": [{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\"}]}"

static double now_ms(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static double resident_kib(void) {
    long size = 0, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%ld %ld", &size, &pages) != 2) pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

/* In a process of its own: opens the library, makes an engine, rests, and prints what that took. */
static int once(const char *path, const char *json) {
    blaze_status (*create)(const char *, blaze_engine **, blaze_error *);
    void (*destroy)(blaze_engine *);
    blaze_engine *engine;
    blaze_error error;
    double kib = resident_kib(), ms = now_ms(CLOCK_MONOTONIC), cpu_ms = now_ms(CLOCK_PROCESS_CPUTIME_ID);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL), *symbol;
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    symbol = dlsym(library, "blaze_engine_create");
    memcpy(&create, &symbol, sizeof symbol);
    symbol = dlsym(library, "blaze_engine_destroy");
    memcpy(&destroy, &symbol, sizeof symbol);
    if (create(json, &engine, &error)) return fprintf(stderr, "%s\n", error.message), 1;
    ms = now_ms(CLOCK_MONOTONIC) - ms;
    cpu_ms = now_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu_ms;
    usleep(20000);
    printf("%.4f %.4f %.1f\n", ms, cpu_ms, resident_kib() - kib);
    destroy(engine);
    return 0;
}

static int by_value(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static int many(const char *self, const char *path, const char *what, int processes, const char *name) {
    char command[4096];
    static double ms[MOST], cpu_ms[MOST], kib[MOST];
    for (int index = 0; index < processes; index++) {
        FILE *child;
        int read;
        snprintf(command, sizeof command, "exec '%s' --once '%s' %s", self, path, what);
        child = popen(command, "r");
        if (!child) return 1;
        read = fscanf(child, "%lf %lf %lf", &ms[index], &cpu_ms[index], &kib[index]);
        if (pclose(child) || read != 3) return 1;
    }
    qsort(ms, (size_t)processes, sizeof *ms, by_value);
    qsort(cpu_ms, (size_t)processes, sizeof *cpu_ms, by_value);
    qsort(kib, (size_t)processes, sizeof *kib, by_value);
    printf("| %s | %.2f ms (%.2f to %.2f) | %.2f ms | %.1f MiB |\n", name, ms[processes / 2], ms[0], ms[processes - 1],
           cpu_ms[processes / 2], kib[processes / 2] / 1024);
    return 0;
}

int main(int argc, char **argv) {
    struct stat file;
    int processes = argc > 2 ? atoi(argv[2]) : 31;
    if (argc == 4 && !strcmp(argv[1], "--once")) return once(argv[2], strcmp(argv[3], "model") ? NULL : MODEL);
    if (argc < 2 || processes < 1 || processes > MOST || stat(argv[1], &file))
        return fprintf(stderr, "usage: footprint LIBBLAZE [PROCESSES]\n"), 2;
    printf("%s: %.2f MB\n\n", argv[1], (double)file.st_size / 1e6);
    printf("| median of %d processes (least to most) | load + create | CPU time of it | resident at rest |\n| --- | --- | --- | --- |\n", processes);
    return many(argv[0], argv[1], "bare", processes, "an engine, without ONNX Runtime") ||
           many(argv[0], argv[1], "model", processes, "an engine with ONNX Runtime and a tiny model");
}
