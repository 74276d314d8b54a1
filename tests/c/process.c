/* What a host may do with its process while Blaze works in it: fork, exec, signals, and ending at bad moments.
 *
 * With "--" and a scene's name the program plays that scene: it ends in some way on purpose, and is started by a test
 * that knows how it must end.
 */
#include "check.h"
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif
#define TINY "{\"name\": \"tiny\", \"path\": \"tests/models/tiny.onnx\", \"intra_op_threads\": 2}"

static int is_short(void) { return getenv("BLAZE_SHORT") != NULL; }

static blaze_status answer(blaze_engine *engine, blaze_model model) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_status status = blaze_infer(engine, simple_call(&call, model), PATIENCE, &event, NULL);
    if (status == BLAZE_STATUS_OK) blaze_event_release(&event);
    return status;
}

/* Load on an engine ---------------------------------------------------------------------------------------------- */

struct load {
    struct rig *rig;
    blaze_queue *queue;
    atomic_int stop;
    atomic_uint wrong, done;
    pthread_t thread;
};

static void *keep_busy(void *argument) {
    struct load *load = argument;
    struct rig own = {load->rig->engine, load->queue, load->rig->model};
    while (!atomic_load(&load->stop)) {
        struct call call;
        blaze_event events[8];
        uint32_t got = 0;
        for (int i = 0; i < 8; i++)
            if (blaze_submit(own.engine, simple_call(&call, own.model), own.queue, NULL, NULL) != BLAZE_STATUS_OK)
                atomic_fetch_add(&load->wrong, 1);
        while (got < 8) {
            uint32_t count = blaze_wait(own.queue, events, sizeof events[0], 8, PATIENCE);
            if (!count) atomic_fetch_add(&load->wrong, 1), got = 8;
            for (uint32_t i = 0; i < count; i++) {
                if (events[i].status != BLAZE_STATUS_OK) atomic_fetch_add(&load->wrong, 1);
                blaze_event_release(&events[i]);
            }
            got += count;
        }
        atomic_fetch_add(&load->done, 1);
    }
    return NULL;
}

static void begin_load(struct load *load, struct rig *rig) {
    *load = (struct load){.rig = rig, .queue = new_queue(rig->engine, 64)};
    REQUIRE(pthread_create(&load->thread, NULL, keep_busy, load) == 0);
}

static void end_load(struct load *load) {
    atomic_store(&load->stop, 1);
    pthread_join(load->thread, NULL);
    CHECK_INT(atomic_load(&load->wrong), 0);
    CHECK_STATUS(blaze_queue_destroy(load->queue), OK);
}

/* Forks ---------------------------------------------------------------------------------------------------------- */

/* The child ends with the number of its failures; one that hangs is ended by its alarm. */
static void in_child(void (*work)(void *), void *argument) {
    fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(is_short() ? 600 : 60); /* valgrind is slow */
        atomic_store(&check_failures, 0);
        if (setjmp(check_abandon) == 0) work(argument);
        fflush(stdout);
        _exit(atomic_load(&check_failures) ? 1 : 0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0) REQUIRE(errno == EINTR);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) FAIL("the child ended with %#x", (unsigned)status);
}

struct inherited {
    struct rig *rig;
    blaze_event *event;
};

static void call_everything(void *argument) {
    struct inherited *inherited = argument;
    blaze_engine *engine = inherited->rig->engine;
    blaze_queue *queue = inherited->rig->queue, *new = NULL;
    blaze_model model = inherited->rig->model;
    struct call call;
    blaze_error error = {0, "", 0};
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_tensor view = BLAZE_TENSOR_INIT;
    blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    size_t needed;
    int fd;
    simple_call(&call, model);
    CHECK_STATUS(blaze_submit(engine, &call.request, queue, NULL, &error), INVALID_STATE);
    CHECK_TEXT(error.message, "before this process was forked");
    CHECK_STATUS(blaze_infer(engine, &call.request, PATIENCE, &event, NULL), INVALID_STATE);
    CHECK_INT(blaze_poll(queue, &event, sizeof event, 1), 0);
    CHECK_INT(blaze_wait(queue, &event, sizeof event, 1, UINT64_MAX), 0);
    CHECK_STATUS(blaze_queue_fd(queue, &fd), INVALID_STATE);
    CHECK_STATUS(blaze_cancel(engine, 1), INVALID_STATE);
    CHECK_STATUS(blaze_queue_create(engine, 8, &new, NULL), INVALID_STATE);
    CHECK_STATUS(blaze_model_load(engine, "{\"name\": \"n\", \"backend\": \"mock\"}", &model, NULL), INVALID_STATE);
    CHECK_STATUS(blaze_model_find(engine, "mock", &model), INVALID_STATE);
    CHECK_STATUS(blaze_model_unload(engine, model, NULL, NULL), INVALID_STATE);
    CHECK_STATUS(blaze_health(engine, &health), INVALID_STATE);
    CHECK_STATUS(blaze_metrics(engine, &metrics), INVALID_STATE);
    CHECK_STATUS(blaze_health_json(engine, NULL, 0, &needed), INVALID_STATE);
    CHECK_STATUS(blaze_log_configure(engine, "{}", NULL), INVALID_STATE);
    CHECK_STATUS(blaze_profile_start(engine, NULL, NULL), INVALID_STATE);
    CHECK_STATUS(blaze_engine_set_budget(engine, 0), INVALID_STATE);
    CHECK_STATUS(blaze_engine_trim(engine), INVALID_STATE);
    CHECK_STATUS(blaze_pump(engine, 0, NULL), INVALID_STATE);
    CHECK_STATUS(blaze_event_output(inherited->event, 0, &view), INVALID_STATE);
    blaze_event_release(inherited->event);
    CHECK_STATUS(blaze_engine_shutdown(engine, 0), INVALID_STATE);
    CHECK_STATUS(blaze_queue_destroy(queue), INVALID_STATE);
    blaze_engine_destroy(engine);
    /* Still there, and still refused. */
    CHECK_STATUS(blaze_health(engine, &health), INVALID_STATE);
    /* An engine of its own works, and knows nothing of the other one. */
    struct rig own = rig_up(NULL, "", "");
    still_works(&own);
    CHECK_STATUS(blaze_submit(own.engine, &call.request, queue, NULL, NULL), INVALID_STATE);
    rig_down(&own);
}

static void the_child_of_a_fork_is_refused_and_the_parent_works_on(void) {
    struct rig rig = rig_up("{\"threads\": 2}", "\"latency_us\": 50", "");
    struct load loads[2];
    struct call call;
    blaze_event held = BLAZE_EVENT_INIT;
    REQUIRE(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &held, NULL) == BLAZE_STATUS_OK);
    for (int i = 0; i < 2; i++) begin_load(&loads[i], &rig);
    for (int round = 0; round < (is_short() ? 3 : 40); round++) {
        blaze_event copy = held;
        struct inherited inherited = {&rig, &copy};
        in_child(call_everything, &inherited);
    }
    for (int i = 0; i < 2; i++) end_load(&loads[i]);
    CHECK_FLOATS(floats(&held, 0), 3, 5, 7, 9);
    blaze_event_release(&held);
    still_works(&rig);
    rig_down(&rig);
}

static void make_another_child(void *argument) {
    struct rig own = rig_up("{\"threads\": 1}", "", "");
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    REQUIRE(blaze_infer(own.engine, simple_call(&call, own.model), PATIENCE, &event, NULL) == BLAZE_STATUS_OK);
    struct inherited inherited = {&own, &event};
    in_child(call_everything, &inherited);
    in_child(call_everything, argument);
    still_works(&own);
    blaze_event_release(&event);
    rig_down(&own);
}

static void children_of_children_too(void) {
    struct rig rig = rig_up("{\"threads\": 1}", "", "");
    struct call call;
    blaze_event held = BLAZE_EVENT_INIT;
    REQUIRE(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &held, NULL) == BLAZE_STATUS_OK);
    struct inherited inherited = {&rig, &held};
    in_child(make_another_child, &inherited);
    blaze_event_release(&held);
    rig_down(&rig);
}

static void load_onnx(void *refused) {
    blaze_engine *engine = new_engine(NULL);
    blaze_model model = 0;
    blaze_error error = {0, "", 0};
    blaze_status status = blaze_model_load(engine, TINY, &model, &error);
    if (refused) {
        CHECK_INT(status, BLAZE_STATUS_INVALID_STATE);
        CHECK_TEXT(error.message, "forked");
    } else {
        CHECK_INT(status, BLAZE_STATUS_OK);
        CHECK_STATUS(answer(engine, model), OK);
    }
    blaze_engine_destroy(engine);
}

/* ONNX Runtime's locks and threads cannot be repaired in a child, so it is refused there rather than hang one day. */
static void a_child_has_onnx_models_if_the_parent_had_none(void) {
    in_child(load_onnx, NULL);
    load_onnx(NULL);
    in_child(load_onnx, "refused");
}

static void a_child_that_execs_has_none_of_our_descriptors(void) {
    struct rig rig = rig_up(NULL, "", "");
    int fd = -1, status = 0;
    char script[200], place[64], ours[64] = "";
    CHECK_STATUS(blaze_log_configure(rig.engine, "{\"level\": \"trace\", \"target\": \"file\", \"file\": {\"path\": "
                                                 "\"target/c/process.log\"}}", NULL), OK);
    REQUIRE(blaze_queue_fd(rig.queue, &fd) == BLAZE_STATUS_OK);
    snprintf(place, sizeof place, "/proc/self/fd/%d", fd);
    REQUIRE(readlink(place, ours, sizeof ours - 1) > 0); /* pipe:[number] */
    /* Neither end of the pipe, nor the log. */
    snprintf(script, sizeof script, "for fd in /proc/$$/fd/*; do case $(readlink $fd) in '%s' | */process.log) exit 1;; esac; done",
             ours);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", script, (char *)NULL);
        _exit(127);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    rig_down(&rig);
    unlink("target/c/process.log");
}

/* Signals -------------------------------------------------------------------------------------------------------- */

static atomic_uint signals_taken, signals_elsewhere;
static pid_t main_thread;

static void take_signal(int number) {
    (void)number;
    atomic_fetch_add(&signals_taken, 1);
    if (syscall(SYS_gettid) != main_thread) atomic_fetch_add(&signals_elsewhere, 1);
}

static void handle(int number, void (*handler)(int)) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler; /* without SA_RESTART: system calls are interrupted */
    REQUIRE(sigaction(number, &action, NULL) == 0);
}

/* Whether all threads but this one have a signal blocked, as the system sees it. */
static void check_masks(int number) {
    DIR *tasks = opendir("/proc/self/task");
    REQUIRE(tasks);
    unsigned threads = 0;
    for (struct dirent *entry; (entry = readdir(tasks));) {
        char path[300], line[256], name[64] = "";
        unsigned long long blocked = 0;
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == main_thread) continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        while (fgets(line, sizeof line, file)) {
            sscanf(line, "Name: %63s", name);
            sscanf(line, "SigBlk: %llx", &blocked);
        }
        fclose(file);
        threads++;
        if (!(blocked >> (number - 1) & 1)) FAIL("the thread %s does not have signal %d blocked", name, number);
    }
    closedir(tasks);
    CHECK(threads >= 3);
}

static void the_hosts_signals_come_to_the_hosts_threads(void) {
    sigset_t set, before;
    main_thread = (pid_t)syscall(SYS_gettid);
    struct rig rig = rig_up("{\"threads\": 3, \"repository\": {\"directory\": \"models\", \"poll_ms\": 100}}", "", "");
    blaze_model tiny = load_model(rig.engine, TINY);
    CHECK_STATUS(answer(rig.engine, tiny), OK);
    struct call call;
    simple_call(&call, rig.model)->deadline_ns = blaze_now_ns() + PATIENCE; /* has the deadlines' thread started */
    submit(&rig, &call.request);
    blaze_event event = next_event(rig.queue);
    blaze_event_release(&event);
    if (!is_short()) { /* under valgrind masks are its own */
        check_masks(SIGUSR1);
        check_masks(SIGTERM);
        check_masks(SIGPROF);
    }
    handle(SIGUSR1, take_signal);
    atomic_store(&signals_taken, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &set, &before) == 0);
    for (int i = 0; i < 20; i++) {
        REQUIRE(kill(getpid(), SIGUSR1) == 0);
        still_works(&rig);
        CHECK_STATUS(answer(rig.engine, tiny), OK);
    }
    CHECK_INT(atomic_load(&signals_taken), 0); /* there was nobody to take it */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    CHECK_INT(atomic_load(&signals_taken), 1);
    CHECK_INT(atomic_load(&signals_elsewhere), 0);
    rig_down(&rig);
    handle(SIGUSR1, SIG_DFL);
}

static void nothing_minds_a_storm_of_signals(void) {
    main_thread = (pid_t)syscall(SYS_gettid);
    struct itimerval often = {{0, is_short() ? 20000 : 100}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    atomic_store(&signals_taken, 0);
    atomic_store(&signals_elsewhere, 0);
    handle(SIGALRM, take_signal);
    handle(SIGPIPE, take_signal);
    REQUIRE(setitimer(ITIMER_REAL, &often, NULL) == 0);
    uint64_t until = blaze_now_ns() + (is_short() ? 1 : 2) * SECOND;
    for (int round = 0; round < 2 || (blaze_now_ns() < until && round < 200); round++) {
        struct rig rig = rig_up("{\"threads\": 2, \"repository\": {\"directory\": \"models\"}}", "\"latency_us\": 300", "");
        int fd = -1;
        blaze_model tiny = load_model(rig.engine, TINY);
        CHECK_STATUS(blaze_log_configure(rig.engine, "{\"level\": \"trace\", \"target\": \"file\", \"file\": {\"path\": "
                                                     "\"target/c/process.log\"}}", NULL), OK);
        REQUIRE(blaze_queue_fd(rig.queue, &fd) == BLAZE_STATUS_OK);
        for (int i = 0; i < 20; i++) {
            still_works(&rig);
            CHECK_STATUS(answer(rig.engine, tiny), OK);
            submit_simple(&rig, 0);
            struct pollfd wait = {fd, POLLIN, 0};
            while (poll(&wait, 1, 10000) < 0) CHECK_INT(errno, EINTR);
            blaze_event event = next_event(rig.queue);
            CHECK_INT(event.status, BLAZE_STATUS_OK);
            blaze_event_release(&event);
            CHECK_INT(blaze_wait(rig.queue, &event, sizeof event, 1, 100 * UINT64_C(1000)), 0); /* interrupted, it waits on */
            kill(getpid(), SIGPIPE);
        }
        CHECK_STATUS(blaze_repository_rescan(rig.engine, NULL, 0, NULL, NULL), OK);
        rig_down(&rig);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    handle(SIGPIPE, SIG_DFL);
    handle(SIGALRM, SIG_IGN);
    CHECK(atomic_load(&signals_taken) > 0);
    CHECK_INT(atomic_load(&signals_elsewhere), 0);
    unlink("target/c/process.log");
}

/* Ending --------------------------------------------------------------------------------------------------------- */

static struct rig stage;
static struct load stage_loads[2];
static blaze_model stage_tiny;

/* Requests of all kinds are under way: in a hanging run, in one of ONNX Runtime's, in queues, and coming. */
static void set_the_stage(void) {
    stage = rig_up("{\"threads\": 3}", "\"latency_us\": 50", "");
    stage_tiny = load_model(stage.engine, TINY);
    blaze_model hangs = load_mock(stage.engine, "hangs", HANGS_ALWAYS, "\"warmup\": false");
    struct call call;
    for (int i = 0; i < 5; i++) {
        submit(&stage, simple_call(&call, hangs));
        submit(&stage, simple_call(&call, stage_tiny));
    }
    for (int i = 0; i < 2; i++) begin_load(&stage_loads[i], &stage);
    while (atomic_load(&stage_loads[0].done) < 3) sleep_ns(MILLISECOND);
}

static void *exit_elsewhere(void *unused) {
    (void)unused;
    exit(3);
}

static void *load_for_ever(void *unused) {
    (void)unused;
    for (unsigned i = 0;; i++) {
        char json[200];
        blaze_model model = 0;
        snprintf(json, sizeof json, "{\"name\": \"n%u\", \"path\": \"tests/models/tiny.onnx\"}", i);
        /* Refused once the process ends, which it may do right here. */
        if (blaze_model_load(stage.engine, json, &model, NULL) || blaze_model_unload(stage.engine, model, NULL, NULL))
            break;
    }
    for (;;) pause();
    return NULL;
}

static void destroy_at_exit(void) {
    for (int i = 0; i < 2; i++) end_load(&stage_loads[i]);
    blaze_engine_destroy(stage.engine);
    if (atomic_load(&check_failures)) _exit(8);
}

static int play(const char *scene) {
    pthread_t thread;
    if (setjmp(check_abandon)) return 99;
    if (!strcmp(scene, "atexit")) atexit(destroy_at_exit);
    set_the_stage();
    if (!strcmp(scene, "return") || !strcmp(scene, "atexit")) return 3;
    if (!strcmp(scene, "exit")) exit(3);
    if (!strcmp(scene, "_exit")) _exit(3);
    if (!strcmp(scene, "quick_exit")) quick_exit(3);
    if (!strcmp(scene, "exit while loading")) {
        if (pthread_create(&thread, NULL, load_for_ever, NULL)) return 98;
        sleep_ns(5 * MILLISECOND);
        exit(3);
    }
    if (!strcmp(scene, "exit elsewhere")) {
        if (pthread_create(&thread, NULL, exit_elsewhere, NULL)) return 98;
        for (;;) answer(stage.engine, stage_tiny);
    }
    if (!strcmp(scene, "exit late")) {
        blaze_engine_shutdown(stage.engine, 0);
        exit(3);
    }
    if (!strcmp(scene, "main ends")) { /* the others go on until one of them ends the process */
        if (pthread_create(&thread, NULL, exit_elsewhere, NULL)) return 98;
        pthread_exit(NULL);
    }
    if (!strcmp(scene, "exec")) {
        execl("/bin/sh", "sh", "-c", "exit 3", (char *)NULL);
        return 97;
    }
    if (!strcmp(scene, "sigterm")) kill(getpid(), SIGTERM);
    if (!strcmp(scene, "sigint")) kill(getpid(), SIGINT);
    for (;;) pause();
}

/* Whoever runs the tests may ignore or block some: a shell ignores SIGINT for what it runs in the background. */
static void take_signals_as_usual(void) {
    static const int usual[] = {SIGINT, SIGTERM, SIGALRM};
    sigset_t none;
    sigemptyset(&none);
    for (size_t i = 0; i < COUNT(usual); i++) signal(usual[i], SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Plays a scene in a process of its own; returns how it ended, as waitpid does. */
static int end_of(const char *scene) {
    fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* what is alive at the end is not lost */
        take_signals_as_usual();
        alarm(is_short() ? 600 : 60); /* valgrind is slow */
        execl("/proc/self/exe", "process", "--", scene, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0) REQUIRE(errno == EINTR);
    return status;
}

static void a_process_may_end_at_any_moment(void) {
    static const char *const scenes[] = {"return", "exit", "_exit", "quick_exit", "exit while loading", "exit elsewhere",
                                         "exit late", "main ends", "exec", "atexit"};
    for (int round = 0; round < (is_short() ? 1 : 5); round++)
        for (size_t i = 0; i < COUNT(scenes); i++) {
            int status = end_of(scenes[i]);
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 3)
                FAIL("%s: the process ended with %#x, not with 3", scenes[i], (unsigned)status);
        }
}

static void a_signal_ends_it_as_usual(void) {
    int status = end_of("sigterm");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    status = end_of("sigint");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--")) return play(argv[2]);
    static const struct test tests[] = {
        TEST(a_child_has_onnx_models_if_the_parent_had_none), /* first: nothing is loaded yet */
        TEST(the_child_of_a_fork_is_refused_and_the_parent_works_on),
        TEST(children_of_children_too),
        TEST(a_child_that_execs_has_none_of_our_descriptors),
        TEST(the_hosts_signals_come_to_the_hosts_threads),
        TEST(nothing_minds_a_storm_of_signals),
        TEST(a_process_may_end_at_any_moment),
        TEST(a_signal_ends_it_as_usual),
    };
    /* Not the first three: a child would find the sanitizer's allocator locked for ever, if a thread was at it at the fork. */
    size_t skipped = SANITIZED ? 3 : 0;
    return run_tests(tests + skipped, COUNT(tests) - skipped, argc, argv);
}
