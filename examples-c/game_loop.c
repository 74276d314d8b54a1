/* A game whose agents think through a neural network, at a fixed 60 ticks a second.
 *
 * usage: game_loop [SECONDS [MODEL]]
 *
 * What it shows:
 * - A fixed-step simulation (AGENTS bodies that steer, collide and bounce; real work, some milliseconds of each frame), whose
 *   agents each ask a small network once a tick: 64 numbers that they sense go in, 8 that say what to do come out. The
 *   network has random weights, so what it decides is not clever; it costs what a clever one would.
 * - Asking is blaze_submit: it copies 256 bytes into a batch that is filling, and never blocks or allocates. Hundreds of
 *   requests become a few batches, since the engine joins what comes so fast.
 * - Answers are used when they come. The game never waits for one: an agent goes on doing what it last decided, and its
 *   next question is sent when the last one has been answered. At the beginning of a tick blaze_poll takes what is there,
 *   at most POLL_AT_ONCE events at a call, and stops when poll_budget_ns is spent; what is left comes with the next tick.
 * - A request has a deadline of DEADLINE_TICKS ticks: an answer to what an agent saw long ago is worth nothing, so on a
 *   machine that is too slow the engine drops the question instead of falling behind for ever. (What a request is refused for,
 *   such as QUEUE_FULL, is treated the same way: this agent goes on as before and asks again in the next tick.)
 * - "threads": 1 leaves the other cores to the game. The thread belongs to the process: how it is to be ranked against the
 *   game's own is the host's business, and it is done here as it would be in a game, by raising the niceness of every
 *   thread that blaze_engine_create has started (Linux). On a machine with a core to spare that changes nothing.
 * - Whether it costs the game anything: frames with inference and without it take turns, a stretch of stretch_seconds
 *   each, in one process, and the work of frames (from the tick until there is nothing left to do in it, without the
 *   sleep) is compared. What is to be seen is that the 99th percentile moves by less than half a millisecond out of
 *   16.6 ms. That takes a minute or so: the short form without arguments only shows that it runs.
 */
#define _GNU_SOURCE
#include <blaze.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    AGENTS = 384,
    SENSES = 64,
    ACTIONS = 8,
    TICKS_PER_SECOND = 60,
    DEADLINE_TICKS = 6,
    POLL_AT_ONCE = 64,
    STEPS_PER_TICK = 4, /* of physics */
    MAX_FRAMES = 1 << 20
};

static const uint64_t frame_ns = 1000000000 / TICKS_PER_SECOND;
static const uint64_t poll_budget_ns = 500000;
static const double stretch_seconds = 1.0;

/* ---- the game: knows nothing of Blaze ----------------------------------------------------------------------------- */

struct agent {
    float x, y, dx, dy;           /* where it is and moves to, in a square of side 1 */
    float actions[ACTIONS];       /* what it last decided */
    float senses[SENSES];         /* what it sees just now */
    int waiting;                  /* a question of its is under way */
    uint32_t asked_at;            /* in which tick */
};

static struct agent agents[AGENTS];

static float random_float(void) {
    static uint32_t state = 12345;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 16777216.0f;
}

static void set_up_game(void) {
    for (int i = 0; i < AGENTS; i++) {
        agents[i].x = random_float(), agents[i].y = random_float();
        agents[i].dx = random_float() - 0.5f, agents[i].dy = random_float() - 0.5f;
    }
}

/* One step of physics: everyone pushes away whoever is too near, steers as it has decided, and bounces off the walls. */
static void step(float seconds) {
    const float near_by = 0.02f;
    for (int i = 0; i < AGENTS; i++) {
        struct agent *me = &agents[i];
        float push_x = 0, push_y = 0;
        for (int j = 0; j < AGENTS; j++) {
            float x = me->x - agents[j].x, y = me->y - agents[j].y, distance = x * x + y * y;
            if (distance < near_by * near_by && j != i) push_x += x / (distance + 1e-4f), push_y += y / (distance + 1e-4f);
        }
        me->dx += seconds * (push_x * 1e-3f + me->actions[0] - me->actions[1]);
        me->dy += seconds * (push_y * 1e-3f + me->actions[2] - me->actions[3]);
        float speed = sqrtf(me->dx * me->dx + me->dy * me->dy), limit = 0.2f + 0.3f * me->actions[4];
        if (speed > limit) me->dx *= limit / speed, me->dy *= limit / speed;
    }
    for (int i = 0; i < AGENTS; i++) {
        struct agent *me = &agents[i];
        me->x += seconds * me->dx, me->y += seconds * me->dy;
        if (me->x < 0 || me->x > 1) me->dx = -me->dx, me->x = fminf(fmaxf(me->x, 0), 1);
        if (me->y < 0 || me->y > 1) me->dy = -me->dy, me->y = fminf(fmaxf(me->y, 0), 1);
    }
}

/* What an agent sees: how near the nearest other one is, in each of 60 directions, and its own movement. */
static void sense(struct agent *me) {
    const int directions = SENSES - 4;
    for (int i = 0; i < directions; i++) me->senses[i] = 0;
    for (int j = 0; j < AGENTS; j++) {
        float x = agents[j].x - me->x, y = agents[j].y - me->y, distance = x * x + y * y;
        if (distance > 0.04f || &agents[j] == me) continue;
        int direction = (int)((atan2f(y, x) + 3.1415927f) * (float)directions / 6.2831860f) % directions;
        me->senses[direction] = fmaxf(me->senses[direction], 1.0f - 5.0f * sqrtf(distance));
    }
    me->senses[directions] = me->x, me->senses[directions + 1] = me->y;
    me->senses[directions + 2] = me->dx, me->senses[directions + 3] = me->dy;
}

static void simulate(void) {
    for (int i = 0; i < STEPS_PER_TICK; i++) step(1.0f / TICKS_PER_SECOND / STEPS_PER_TICK);
    for (int i = 0; i < AGENTS; i++) sense(&agents[i]);
}

/* ---- its agents' minds -------------------------------------------------------------------------------------------- */

struct minds {
    blaze_engine *engine;
    blaze_queue *queue;
    blaze_model model;
    uint64_t asked, answered, too_late, refused, failed, ticks_waited;
};

static void require(const char *what, blaze_status status, const char *why) {
    if (status == BLAZE_STATUS_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), why ? why : "");
    exit(1);
}

/* Gives every thread of the process but the calling one a lower priority than the game's. */
static void rank_threads_below(void) {
#ifdef __linux__
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks) return;
    for (struct dirent *task; (task = readdir(tasks));) {
        int id = atoi(task->d_name);
        if (id > 0 && id != getpid()) setpriority(PRIO_PROCESS, (id_t)id, 5);
    }
    closedir(tasks);
#endif
}

static void set_up_minds(struct minds *minds, const char *path) {
    char config[1024];
    blaze_error error;
    require("engine", blaze_engine_create("{\"threads\": 1}", &minds->engine, &error), error.message);
    snprintf(config, sizeof config, "{\"name\": \"policy\", \"path\": \"%s\", \"batching\": {\"max_rows\": 64}}", path);
    require("model", blaze_model_load(minds->engine, config, &minds->model, &error), error.message);
    require("queue", blaze_queue_create(minds->engine, AGENTS, &minds->queue, &error), error.message);
    rank_threads_below();
}

/* Takes answers for at most the budget. The game copies the few numbers that it wants and gives the event back at once. */
static void take_answers(struct minds *minds, uint32_t tick) {
    uint64_t until = blaze_now_ns() + poll_budget_ns;
    do {
        blaze_event events[POLL_AT_ONCE];
        uint32_t count = blaze_poll(minds->queue, events, sizeof events[0], POLL_AT_ONCE);
        for (uint32_t i = 0; i < count; i++) {
            struct agent *agent = &agents[events[i].user_data];
            blaze_tensor output = BLAZE_TENSOR_INIT;
            agent->waiting = 0;
            if (events[i].status == BLAZE_STATUS_OK && blaze_event_output(&events[i], 0, &output) == BLAZE_STATUS_OK) {
                memcpy(agent->actions, output.data, sizeof agent->actions);
                minds->answered++;
                minds->ticks_waited += tick - agent->asked_at;
            } else if (events[i].status == BLAZE_STATUS_EXPIRED) {
                minds->too_late++;
            } else {
                if (!minds->failed++) fprintf(stderr, "an answer: %s\n", events[i].text ? events[i].text : "");
            }
            blaze_event_release(&events[i]);
        }
        if (count < POLL_AT_ONCE) return;
    } while (blaze_now_ns() < until);
}

/* Everyone that has no question under way asks what to do. */
static void ask(struct minds *minds, uint32_t tick) {
    const int64_t shape[] = {1, SENSES};
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = shape;
    input.rank = 2;
    input.size_bytes = sizeof agents[0].senses;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = minds->model;
    request.inputs = &input;
    request.inputs_count = 1;
    request.deadline_ns = blaze_now_ns() + DEADLINE_TICKS * frame_ns;
    for (uint32_t i = 0; i < AGENTS; i++) {
        if (agents[i].waiting) continue;
        input.data = agents[i].senses;
        request.user_data = i;
        if (blaze_submit(minds->engine, &request, minds->queue, NULL, NULL) != BLAZE_STATUS_OK) {
            minds->refused++;
            continue;
        }
        agents[i].waiting = 1;
        agents[i].asked_at = tick;
        minds->asked++;
    }
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

struct frames {
    const char *name;
    uint32_t *work_ns;
    uint32_t count, missed;
};

static int smaller(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double quantile_ms(const struct frames *frames, double q) {
    return (double)frames->work_ns[(uint32_t)(q * (frames->count - 1))] / 1e6;
}

static void print_frames(struct frames *frames) {
    qsort(frames->work_ns, frames->count, sizeof *frames->work_ns, smaller);
    printf("%-18s %6" PRIu32 " frames, work p50 %.3f ms, p99 %.3f ms, max %.3f ms, %" PRIu32 " missed\n", frames->name,
           frames->count, quantile_ms(frames, 0.5), quantile_ms(frames, 0.99), quantile_ms(frames, 1.0), frames->missed);
}

static void sleep_until(uint64_t time_ns) {
    uint64_t now = blaze_now_ns();
    if (now >= time_ns) return;
    struct timespec left = {.tv_sec = (time_t)((time_ns - now) / 1000000000), .tv_nsec = (long)((time_ns - now) % 1000000000)};
    while (nanosleep(&left, &left) && errno == EINTR) continue;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2.0;
    const char *path = argc > 2 ? argv[2] : "tests/models/small.onnx";
    double stretch = fmin(stretch_seconds, seconds / 4);
    struct frames both[2] = {{"without inference", NULL, 0, 0}, {"with inference", NULL, 0, 0}};
    struct minds minds = {0};
    if (!(seconds > 0) || seconds > 3600) {
        fprintf(stderr, "usage: game_loop [SECONDS [MODEL]]\n");
        return 2;
    }
    for (int i = 0; i < 2; i++)
        if (!(both[i].work_ns = malloc(MAX_FRAMES * sizeof *both[i].work_ns))) return 1;
    set_up_game();
    set_up_minds(&minds, path);

    uint32_t ticks = (uint32_t)(seconds * TICKS_PER_SECOND), per_stretch = (uint32_t)fmax(1, stretch * TICKS_PER_SECOND);
    uint64_t tick_at = blaze_now_ns() + frame_ns;
    for (uint32_t tick = 0; tick < ticks; tick++, tick_at += frame_ns) {
        int thinking = tick / per_stretch % 2 == 1;
        sleep_until(tick_at);
        uint64_t started = blaze_now_ns();
        /* Also in stretches without: what was asked at the end of the last one comes in its first frame or two. */
        take_answers(&minds, tick);
        simulate();
        if (thinking) ask(&minds, tick);
        uint64_t ended = blaze_now_ns();

        /* The first frames of a stretch have the other one's answers in them. */
        struct frames *frames = &both[thinking];
        if (tick % per_stretch >= DEADLINE_TICKS && frames->count < MAX_FRAMES) {
            frames->work_ns[frames->count++] = (uint32_t)(ended - started);
            frames->missed += ended > tick_at + frame_ns;
        }
        /* A frame that took too long: the ones that should have been meanwhile are left out, not made up for. */
        while (ended > tick_at + frame_ns) tick_at += frame_ns;
    }

    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    blaze_metrics(minds.engine, &metrics);
    if (!both[0].count || !both[1].count) {
        fprintf(stderr, "too short to measure anything\n");
        return 1;
    }
    print_frames(&both[0]);
    print_frames(&both[1]);
    printf("inference moves the frames' p50 by %+.3f ms, their p99 by %+.3f ms\n",
           quantile_ms(&both[1], 0.5) - quantile_ms(&both[0], 0.5), quantile_ms(&both[1], 0.99) - quantile_ms(&both[0], 0.99));
    printf("%" PRIu64 " questions, %" PRIu64 " answers after %.2f ticks, %" PRIu64 " too late, %" PRIu64 " refused, "
           "%.1f rows per batch\n", minds.asked, minds.answered,
           minds.answered ? (double)minds.ticks_waited / (double)minds.answered : 0, minds.too_late, minds.refused,
           metrics.batches ? (double)metrics.rows / (double)metrics.batches : 0);

    int ok = minds.answered > 0 && minds.failed == 0;
    blaze_engine_destroy(minds.engine); /* a queue whose engine is gone may be destroyed with events in it */
    ok &= blaze_queue_destroy(minds.queue) == BLAZE_STATUS_OK;
    for (int i = 0; i < 2; i++) free(both[i].work_ns);
    return ok ? 0 : 1;
}
