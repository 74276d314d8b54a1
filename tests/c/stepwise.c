/* Models that advance by steps: what their requests say, how they begin, go on together and end, and what their backends break. */
#include "json.h"
#include <pthread.h>

#define MIB ((size_t)1 << 20)

/* A backend that counts: a request for n takes n steps, and says "0 ", "1 " and so on. Its output is how many it has said. */
struct backend {
    blaze_backend functions;
    const blaze_host *host;
    const char *name;
    atomic_int models, closes, live, most_live, begins, ends, steps, entered, together;
    atomic_int permits;      /* steps that may be made; negative: any number */
    atomic_int fail_begin, fail_step, fail_at_end; /* a status, until it is 0 again */
    atomic_int fails_after;  /* with fail_at_end: after so many pieces */
    atomic_size_t size;      /* bytes of each piece, filled up with dots; 0: as short as it is */
    atomic_int burst;        /* pieces in one step */
    atomic_int quiet;        /* only progress */
    atomic_int full;         /* how often there was no room */
    atomic_int refused;      /* how often nobody wanted what was said */
    atomic_int only_text;    /* there are no outputs */
    atomic_int on_device;    /* it has one, whose memory nobody but itself can reach */
    atomic_size_t far, next; /* bytes there that are not freed, and where the next ones are */
    atomic_int stubborn;     /* never finishes */
    atomic_int least;        /* pieces that every request asks for */
    atomic_int breaks;       /* which word: see `break_word` */
    atomic_int broken;
    int64_t order[16];       /* requests, as they began */
};

enum { KEEPS, FINISHES_TWICE, SPEAKS_AFTER_THE_END, HAS_NO_STATE, FORGETS_OUTPUTS, SAYS_NONSENSE, ENDS_AT_ONCE, STATUS_UNKNOWN, ENDS_ELSEWHERE };

struct sequence {
    struct backend *own;
    blaze_call *call;
    const blaze_backend_run *run;
    int64_t n, done;
    void *cache; /* on the device */
};

static void open_backend(void *user, const blaze_host *host) {
    ((struct backend *)user)->host = host;
}

static void close_backend(void *user) {
    struct backend *own = user;
    CHECK_INT(atomic_load(&own->models), 0);
    CHECK_INT(atomic_load(&own->live), 0);
    atomic_fetch_add(&own->closes, 1);
}

static blaze_status load(void *user, const blaze_backend_load *load, blaze_call *call, void **model, blaze_error *err) {
    struct backend *own = user;
    (void)load, (void)err;
    float nothing = 0;
    CHECK_STATUS(own->host->emit(call, "x", 1, nothing), INVALID_STATE); /* it is no request */
    own->host->finish(call, BLAZE_STATUS_OK, NULL);
    atomic_fetch_add(&own->models, 1);
    *model = own;
    return BLAZE_STATUS_OK;
}

static blaze_status describe(void *user, void *model, char *buffer, size_t capacity, size_t *needed) {
    static const char only[] = "{\"inputs\": [{\"name\": \"n\", \"dtype\": \"i64\", \"shape\": [1]}], \"outputs\": []}";
    static const char usual[] =
        "{\"inputs\": [{\"name\": \"n\", \"dtype\": \"i64\", \"shape\": [1]},"
        "              {\"name\": \"more\", \"dtype\": \"u8\", \"shape\": [\"bytes\"], \"optional\": true}],"
        " \"outputs\": [{\"name\": \"count\", \"dtype\": \"i64\", \"shape\": [\"k\"]}], \"on_cpu\": false, \"memory_bytes\": 1048576}";
    struct backend *own = user;
    (void)model;
    static const char far[] = "{\"inputs\": [{\"name\": \"n\", \"dtype\": \"i64\", \"shape\": [1]},"
                              "              {\"name\": \"more\", \"dtype\": \"u8\", \"shape\": [\"bytes\"], \"optional\": true}],"
                              " \"outputs\": [{\"name\": \"count\", \"dtype\": \"i64\", \"shape\": [\"k\"]}], \"devices\": [0]}";
    const char *text = atomic_load(&own->only_text) ? only : atomic_load(&own->on_device) ? far : usual;
    *needed = strlen(text) + 1;
    if (*needed > capacity) return BLAZE_STATUS_BUFFER_TOO_SMALL;
    memcpy(buffer, text, *needed);
    return BLAZE_STATUS_OK;
}

#define FAR ((size_t)0x7100000000000000) /* no address of any host's */

static void *allocate(void *user, blaze_memory memory, int32_t device, size_t bytes) {
    struct backend *own = user;
    CHECK_INT(memory, BLAZE_MEMORY_CUDA);
    CHECK_INT(device, 0);
    atomic_fetch_add(&own->far, bytes);
    return (void *)(FAR + atomic_fetch_add(&own->next, (bytes + 255) / 256 * 256));
}

static void free_memory(void *user, blaze_memory memory, int32_t device, void *address, size_t bytes) {
    struct backend *own = user;
    (void)memory, (void)device;
    CHECK((size_t)address >= FAR);
    atomic_fetch_sub(&own->far, bytes);
}

static void unload(void *user, void *model) {
    struct backend *own = user;
    CHECK(model == user);
    CHECK_INT(atomic_load(&own->live), 0);
    atomic_fetch_sub(&own->models, 1);
}

static void finish_well(struct sequence *sequence) {
    const blaze_host *host = sequence->own->host;
    const int64_t shape[] = {1};
    void *data = NULL;
    const blaze_tensor *wanted = atomic_load(&sequence->own->only_text) ? NULL : sequence->run->outputs;
    if (wanted && wanted->memory == BLAZE_MEMORY_CUDA) {
        CHECK_STATUS(host->output(sequence->call, 0, shape, 1, BLAZE_MEMORY_HOST, 0, &data), INVALID_ARGUMENT);
        CHECK_STATUS(host->output(sequence->call, 0, shape, 1, wanted->memory, wanted->device, &data), OK);
        CHECK((size_t)data >= FAR);
        host->finish(sequence->call, BLAZE_STATUS_OK, NULL);
        return;
    }
    blaze_status status = host->output(sequence->call, 0, shape, 1, BLAZE_MEMORY_HOST, 0, &data);
    CHECK_INT(status, atomic_load(&sequence->own->only_text) ? BLAZE_STATUS_INVALID_ARGUMENT : BLAZE_STATUS_OK);
    if (data) *(int64_t *)data = sequence->done;
    host->finish(sequence->call, BLAZE_STATUS_OK, NULL);
}

static blaze_status begin(void *user, void *model, const blaze_backend_run *run, blaze_call *call, void **state,
                          blaze_error *err) {
    struct backend *own = user;
    CHECK(model == user);
    CHECK_INT(run->struct_size, sizeof *run);
    CHECK_INT(run->inputs_count, atomic_load(&own->only_text) ? 1 : 2);
    CHECK_INT(run->outputs_count, atomic_load(&own->only_text) ? 0 : 1);
    CHECK(atomic_load(&own->only_text) || !run->outputs[0].data);
    if (atomic_load(&own->fail_begin)) {
        snprintf(err->message, sizeof err->message, "not today");
        return atomic_load(&own->fail_begin);
    }
    struct sequence *sequence = calloc(1, sizeof *sequence);
    *sequence = (struct sequence){own, call, run, *(const int64_t *)run->inputs[0].data, 0, NULL};
    if (sequence->n < atomic_load(&own->least)) sequence->n = atomic_load(&own->least);
    if (atomic_load(&own->on_device)) {
        sequence->cache = own->host->take(call, BLAZE_MEMORY_CUDA, 0, 4096, BLAZE_PURPOSE_BUFFERS);
        CHECK(sequence->cache);
        if (run->inputs[1].data) CHECK((size_t)run->inputs[1].data >= FAR && run->inputs[1].memory == BLAZE_MEMORY_CUDA);
    }
    int begins = atomic_fetch_add(&own->begins, 1);
    if (begins < (int)COUNT(own->order)) own->order[begins] = sequence->n;
    int live = atomic_fetch_add(&own->live, 1) + 1, most = atomic_load(&own->most_live);
    while (live > most && !atomic_compare_exchange_weak(&own->most_live, &most, live)) continue;
    *state = sequence;
    if (atomic_load(&own->breaks) == ENDS_AT_ONCE) finish_well(sequence);
    if (atomic_load(&own->breaks) == HAS_NO_STATE) {
        *state = NULL;
        atomic_fetch_sub(&own->live, 1);
        free(sequence);
    }
    return BLAZE_STATUS_OK;
}

static void end(void *user, void *model, void *state) {
    struct backend *own = user;
    struct sequence *sequence = state;
    CHECK(model == user);
    CHECK(sequence->own == own);
    if (!atomic_load(&own->least)) CHECK_INT(*(const int64_t *)sequence->run->inputs[0].data, sequence->n); /* still there */
    sequence->own = NULL;
    if (sequence->cache) own->host->give(own->host, sequence->cache);
    free(sequence);
    atomic_fetch_add(&own->ends, 1);
    atomic_fetch_sub(&own->live, 1);
}

static void *finish_elsewhere(void *argument) {
    struct sequence *sequence = argument;
    sleep_ns(20 * MILLISECOND); /* most likely, nothing goes on then */
    finish_well(sequence);
    return NULL;
}

static void break_word(struct sequence *sequence) {
    struct backend *own = sequence->own;
    const blaze_host *host = own->host;
    const int64_t shape[] = {1};
    void *data = NULL;
    float progress = 0;
    switch (atomic_load(&own->breaks)) {
    case FINISHES_TWICE:
        finish_well(sequence);
        host->finish(sequence->call, BLAZE_STATUS_BACKEND_FAILED, "and again");
        break;
    case SPEAKS_AFTER_THE_END:
        finish_well(sequence);
        CHECK_STATUS(host->emit(sequence->call, "late", 4, progress), INVALID_STATE);
        CHECK_STATUS(host->output(sequence->call, 0, shape, 1, BLAZE_MEMORY_HOST, 0, &data), INVALID_STATE);
        CHECK(!data);
        break;
    case FORGETS_OUTPUTS:
        host->finish(sequence->call, BLAZE_STATUS_OK, "forgotten");
        break;
    case STATUS_UNKNOWN:
        host->finish(sequence->call, 4711, NULL);
        break;
    case SAYS_NONSENSE: {
        char *large = calloc(1, MIB + 1);
        CHECK_STATUS(host->emit(NULL, "x", 1, progress), NULL_POINTER);
        CHECK_STATUS(host->emit(sequence->call, NULL, 1, progress), NULL_POINTER);
        CHECK_STATUS(host->emit(sequence->call, large, SIZE_MAX, progress), INVALID_SIZE);
        CHECK_STATUS(host->emit(sequence->call, large, MIB + 1, progress), INVALID_ARGUMENT);
        CHECK_STATUS(host->emit(sequence->call, NULL, 0, 7), OK); /* no text, and no progress either */
        CHECK_STATUS(host->output(sequence->call, 9, shape, 1, BLAZE_MEMORY_HOST, 0, &data), INVALID_ARGUMENT);
        host->finish(NULL, BLAZE_STATUS_OK, NULL);
        free(large);
        finish_well(sequence);
        break;
    }
    case ENDS_ELSEWHERE: {
        pthread_t thread;
        if (sequence->done++) return;
        char *large = calloc(1, MIB);
        CHECK_STATUS(host->emit(sequence->call, large, MIB, progress), OK);
        free(large);
        CHECK(!pthread_create(&thread, NULL, finish_elsewhere, sequence));
        pthread_detach(thread);
        break;
    }
    default:
        return;
    }
    atomic_fetch_add(&own->broken, 1);
}

/* One piece of text; 0: there was no room, or nobody wants it. */
static int say(struct sequence *sequence) {
    struct backend *own = sequence->own;
    size_t size = atomic_load(&own->size);
    char piece[32];
    int length = snprintf(piece, sizeof piece, "%lld ", (long long)sequence->done);
    float progress = (float)(sequence->done + 1) / (float)sequence->n;
    blaze_status status;
    if (atomic_load(&own->quiet)) {
        status = own->host->emit(sequence->call, NULL, 0, progress);
    } else if (size > (size_t)length) {
        char *text = malloc(size);
        memset(text, '.', size);
        memcpy(text, piece, (size_t)length);
        status = own->host->emit(sequence->call, text, size, progress);
        free(text);
    } else {
        status = own->host->emit(sequence->call, piece, (size_t)length, progress);
    }
    if (status == BLAZE_STATUS_QUEUE_FULL) atomic_fetch_add(&own->full, 1);
    if (status == BLAZE_STATUS_CANCELLED) atomic_fetch_add(&own->refused, 1);
    if (status == BLAZE_STATUS_OK) sequence->done++;
    CHECK(status == BLAZE_STATUS_OK || status == BLAZE_STATUS_QUEUE_FULL || status == BLAZE_STATUS_CANCELLED);
    return status == BLAZE_STATUS_OK;
}

static blaze_status step(void *user, void *model, void *const *states, uint32_t count, blaze_error *err) {
    struct backend *own = user;
    CHECK(model == user);
    CHECK(count > 0);
    atomic_store(&own->together, (int)count);
    atomic_fetch_add(&own->entered, 1);
    while (atomic_load(&own->permits) == 0) {
        int wanted = 0;
        for (uint32_t i = 0; i < count; i++) wanted |= !own->host->is_cancelled(((struct sequence *)states[i])->call);
        if (!wanted) break;
        sleep_ns(MILLISECOND);
    }
    if (atomic_load(&own->permits) > 0) atomic_fetch_sub(&own->permits, 1);
    atomic_fetch_add(&own->steps, 1);
    if (atomic_load(&own->fail_step)) {
        snprintf(err->message, sizeof err->message, "a step too far");
        return atomic_load(&own->fail_step);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct sequence *sequence = states[i];
        CHECK(sequence->own == own);
        int fails = atomic_load(&own->fail_at_end);
        if (fails && sequence->done >= atomic_load(&own->fails_after)) {
            own->host->finish(sequence->call, fails, "it had to come to this");
            continue;
        }
        if (atomic_load(&own->breaks)) {
            break_word(sequence);
            continue;
        }
        int burst = atomic_load(&own->burst);
        for (int piece = 0; piece < (burst ? burst : 1) && sequence->done < sequence->n; piece++)
            if (!say(sequence)) break;
        if (sequence->done >= sequence->n && !atomic_load(&own->stubborn)) finish_well(sequence);
    }
    return BLAZE_STATUS_OK;
}

static void make(struct backend *own) {
    *own = (struct backend){.functions = BLAZE_BACKEND_INIT};
    own->name = "own";
    own->functions.name = own->name, own->functions.user = own;
    own->functions.open = open_backend, own->functions.close = close_backend;
    own->functions.load = load, own->functions.describe = describe, own->functions.unload = unload;
    own->functions.begin = begin, own->functions.step = step, own->functions.end = end;
    atomic_store(&own->permits, -1);
}

static void add(blaze_engine *engine, struct backend *own) {
    blaze_error error = {.status = 0};
    if (blaze_backend_register(engine, &own->functions, &error)) FAIL("register: %s", error.message);
    REQUIRE(own->host);
}

static struct rig rig_of(struct backend *own, const char *engine, const char *more) {
    char model[512];
    struct rig rig = {new_engine(engine), NULL, 0};
    rig.queue = new_queue(rig.engine, 1024);
    add(rig.engine, own);
    snprintf(model, sizeof model, "{\"name\": \"m\", \"backend\": \"own\"%s}", more);
    rig.model = load_model(rig.engine, model);
    return rig;
}

static void is_closed(struct rig *rig, struct backend *own) {
    rig_down(rig);
    CHECK_INT(atomic_load(&own->closes), 1);
    CHECK_INT(atomic_load(&own->models), 0);
    CHECK_INT(atomic_load(&own->live), 0);
}

/* A request that says so many pieces. Points into itself: do not copy. */
struct ask {
    blaze_request request;
    blaze_tensor input;
    int64_t shape[1], n;
};

static blaze_request *ask_for(struct ask *ask, blaze_model model, int64_t n) {
    *ask = (struct ask){BLAZE_REQUEST_INIT, BLAZE_TENSOR_INIT, {1}, n};
    ask->input.dtype = BLAZE_DTYPE_I64;
    ask->input.shape = ask->shape, ask->input.rank = 1;
    ask->input.data = &ask->n, ask->input.size_bytes = sizeof ask->n;
    ask->request.model = model;
    ask->request.inputs = &ask->input, ask->request.inputs_count = 1;
    ask->request.user_data = (uint64_t)n;
    return &ask->request;
}

static blaze_ticket submit_for(struct rig *rig, int64_t n) {
    struct ask ask;
    return submit(rig, ask_for(&ask, rig->model, n));
}

static void until_int(atomic_int *place, int wanted) {
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (atomic_load(place) < wanted && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    if (atomic_load(place) < wanted) FAIL("%d, not %d", atomic_load(place), wanted);
    REQUIRE(atomic_load(place) >= wanted);
}

/* What n pieces of this size are together. */
static char *pieces(int64_t from, int64_t n, size_t size) {
    char *text = malloc((size_t)n * (size > 24 ? size : 24) + 1), *at = text;
    for (int64_t i = from; i < n; i++) {
        int length = sprintf(at, "%lld ", (long long)i);
        at += length;
        if (size > (size_t)length) memset(at, '.', size - (size_t)length), at += size - (size_t)length;
    }
    *at = 0;
    return text;
}

/* What came of a request: all that it said, and how it ended. */
struct answer {
    char *text;
    size_t bytes, tokens, progresses;
    blaze_status status;
    int64_t count;
    float progress;
    char reason[256];
};

static void take_event(struct answer *answer, blaze_event *event) {
    if (event->kind == BLAZE_EVENT_DONE) {
        answer->status = event->status;
        snprintf(answer->reason, sizeof answer->reason, "%s", event->text ? event->text : "");
        if (event->status == BLAZE_STATUS_OK && event->outputs_count > 0) {
            blaze_tensor view = BLAZE_TENSOR_INIT;
            CHECK_STATUS(blaze_event_output(event, 0, &view), OK);
            CHECK_INT(view.size_bytes, sizeof(int64_t));
            answer->count = *(const int64_t *)view.data;
        }
        return;
    }
    CHECK(event->flags & BLAZE_EVENT_FLAG_MORE);
    CHECK_STATUS(event->status, OK);
    CHECK_INT(event->outputs_count, 0);
    CHECK(event->progress >= answer->progress);
    answer->progress = event->progress;
    if (event->kind == BLAZE_EVENT_PROGRESS) {
        CHECK(!event->text);
        answer->progresses++;
        return;
    }
    CHECK_INT(event->kind, BLAZE_EVENT_TOKEN);
    CHECK(event->text && event->text_bytes > 0 && !event->text[event->text_bytes]);
    answer->tokens++;
    answer->text = realloc(answer->text, answer->bytes + event->text_bytes + 1);
    memcpy(answer->text + answer->bytes, event->text, event->text_bytes + 1);
    answer->bytes += event->text_bytes;
}

/* Takes events until the one that ends this request; there must be no others'. */
static struct answer answer_of(blaze_queue *queue, blaze_ticket ticket) {
    struct answer answer = {calloc(1, 1), 0, 0, 0, -1, -1, 0, ""};
    for (int over = 0; !over;) {
        blaze_event event = next_event(queue);
        CHECK_INT(event.ticket, ticket);
        over = event.kind == BLAZE_EVENT_DONE;
        take_event(&answer, &event);
        blaze_event_release(&event);
    }
    return answer;
}

static void is_answer(struct answer answer, blaze_status status, int64_t n, size_t size) {
    CHECK_INT(answer.status, status);
    if (status == BLAZE_STATUS_OK) {
        char *text = pieces(0, n, size);
        CHECK_INT(answer.count, n);
        CHECK_INT(answer.bytes, strlen(text));
        CHECK(!strcmp(answer.text, text));
        free(text);
    }
    free(answer.text);
}

static void what_is_said_comes_before_the_end(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    for (int64_t n = 1; n < 60; n += 7) {
        struct answer answer = answer_of(rig.queue, submit_for(&rig, n));
        CHECK(answer.tokens >= 1 && answer.tokens <= (size_t)n);
        is_answer(answer, BLAZE_STATUS_OK, n, 0);
    }
    no_event(rig.queue);
    CHECK_INT(atomic_load(&own.begins), atomic_load(&own.ends));
    CHECK_JSON(health_text(rig.engine), "state", "ok");
    is_closed(&rig, &own);
}

static void what_nobody_takes_is_one_event(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    blaze_ticket ticket = submit_for(&rig, 500);
    until_int(&own.ends, 1);
    struct answer answer = answer_of(rig.queue, ticket);
    CHECK_INT(answer.tokens, 1);
    is_answer(answer, BLAZE_STATUS_OK, 500, 0);
    /* Whoever keeps up gets each piece. */
    atomic_store(&own.permits, 0);
    ticket = submit_for(&rig, 4);
    for (int i = 0; i < 4; i++) {
        char piece[16];
        snprintf(piece, sizeof piece, "%d ", i);
        atomic_store(&own.permits, 1);
        blaze_event event = next_event(rig.queue);
        CHECK_INT(event.kind, BLAZE_EVENT_TOKEN);
        CHECK_INT(event.ticket, ticket);
        CHECK_INT(event.user_data, 4);
        CHECK_INT(event.model, rig.model);
        CHECK(!strcmp(event.text, piece));
        CHECK(event.progress > (float)i / 4 && event.progress < (float)(i + 2) / 4);
        blaze_tensor view = BLAZE_TENSOR_INIT;
        CHECK_STATUS(blaze_event_output(&event, 0, &view), NOT_FOUND);
        blaze_event_release(&event);
    }
    EXPECT_EVENT(rig.queue, ticket, OK);
    is_closed(&rig, &own);
}

static void progress_alone_is_told(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    atomic_store(&own.quiet, 1);
    struct answer answer = answer_of(rig.queue, submit_for(&rig, 9));
    CHECK_INT(answer.tokens, 0);
    CHECK(answer.progresses >= 1 && answer.progresses <= 9);
    CHECK(answer.progress > 0.99f);
    CHECK_INT(answer.status, BLAZE_STATUS_OK);
    free(answer.text);
    is_closed(&rig, &own);
}

static void whoever_comes_late_joins_at_the_next_step(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    atomic_store(&own.permits, 0);
    submit_for(&rig, 100);
    until_int(&own.entered, 1);
    CHECK_INT(atomic_load(&own.together), 1);
    submit_for(&rig, 1);
    submit_for(&rig, 2);
    atomic_store(&own.permits, 1);
    until_int(&own.entered, 2); /* the step after: all are in it, though the first has 99 to go */
    CHECK_INT(atomic_load(&own.together), 3);
    atomic_store(&own.permits, 1);
    until_int(&own.entered, 3);
    CHECK_INT(atomic_load(&own.together), 2);
    atomic_store(&own.permits, -1);
    for (int ended = 0; ended < 3;) {
        blaze_event event = next_event(rig.queue);
        ended += event.kind == BLAZE_EVENT_DONE;
        CHECK_STATUS(event.status, OK);
        blaze_event_release(&event);
    }
    is_closed(&rig, &own);
}

static void no_more_live_than_may(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", ", \"batching\": {\"max_rows\": 3}");
    for (int64_t n = 0; n < 20; n++) submit_for(&rig, 5);
    for (int ended = 0; ended < 20;) {
        blaze_event event = next_event(rig.queue);
        ended += event.kind == BLAZE_EVENT_DONE;
        CHECK_STATUS(event.status, OK);
        blaze_event_release(&event);
    }
    CHECK_INT(atomic_load(&own.begins), 20);
    CHECK(atomic_load(&own.most_live) <= 3);
    is_closed(&rig, &own);
}

static void one_that_is_cancelled_leaves_the_others(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    atomic_store(&own.permits, 0);
    blaze_ticket first = submit_for(&rig, 3);
    until_int(&own.entered, 1);
    blaze_ticket second = submit_for(&rig, 3);
    CHECK_STATUS(blaze_cancel(rig.engine, first), OK); /* while it is in a step */
    EXPECT_EVENT(rig.queue, first, CANCELLED);
    CHECK_STATUS(blaze_cancel(rig.engine, first), NOT_FOUND);
    until_int(&own.ends, 1);
    until_int(&own.entered, 2);
    CHECK_INT(atomic_load(&own.together), 1);
    atomic_store(&own.permits, -1);
    is_answer(answer_of(rig.queue, second), BLAZE_STATUS_OK, 3, 0);
    CHECK_JSON(health_text(rig.engine), "models[name=m].state", "ready");
    /* One that would never end, and one that has not begun. */
    atomic_store(&own.stubborn, 1);
    blaze_ticket endless = submit_for(&rig, 1);
    blaze_event event = next_event(rig.queue);
    CHECK_INT(event.kind, BLAZE_EVENT_TOKEN);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_cancel(rig.engine, endless), OK);
    EXPECT_EVENT(rig.queue, endless, CANCELLED);
    until_int(&own.ends, 3);
    is_closed(&rig, &own);
}

static void deadlines_act_between_steps(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    struct ask ask;
    atomic_store(&own.stubborn, 1);
    ask_for(&ask, rig.model, 1)->deadline_ns = blaze_now_ns() + 300 * MILLISECOND;
    blaze_ticket ticket = submit(&rig, &ask.request);
    struct answer answer = answer_of(rig.queue, ticket);
    CHECK_INT(answer.status, BLAZE_STATUS_EXPIRED);
    free(answer.text);
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (atomic_load(&own.live) > 0 && blaze_now_ns() < until) sleep_ns(MILLISECOND);
    CHECK_INT(atomic_load(&own.live), 0);
    /* Also of one that waits because its consumer is slow. */
    atomic_store(&own.size, 700 * 1024);
    ask_for(&ask, rig.model, 100)->deadline_ns = blaze_now_ns() + 300 * MILLISECOND;
    ticket = submit(&rig, &ask.request);
    sleep_ns(400 * MILLISECOND);
    answer = answer_of(rig.queue, ticket);
    CHECK_INT(answer.status, BLAZE_STATUS_EXPIRED);
    free(answer.text);
    is_closed(&rig, &own);
}

static void the_urgent_ones_begin_first(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", ", \"batching\": {\"max_rows\": 1, \"priority_aging_ms\": 100000}");
    struct ask ask;
    atomic_store(&own.permits, 0);
    submit_for(&rig, 1);
    until_int(&own.entered, 1);
    ask_for(&ask, rig.model, 2)->priority = BLAZE_PRIORITY_LOW;
    submit(&rig, &ask.request);
    ask_for(&ask, rig.model, 3)->priority = BLAZE_PRIORITY_CRITICAL;
    submit(&rig, &ask.request);
    ask_for(&ask, rig.model, 4)->priority = BLAZE_PRIORITY_NORMAL;
    submit(&rig, &ask.request);
    atomic_store(&own.permits, -1);
    for (int ended = 0; ended < 4;) {
        blaze_event event = next_event(rig.queue);
        ended += event.kind == BLAZE_EVENT_DONE;
        blaze_event_release(&event);
    }
    CHECK(own.order[0] == 1 && own.order[1] == 3 && own.order[2] == 4 && own.order[3] == 2);
    is_closed(&rig, &own);
}

/* One whose consumer does not look is left out, and the others go on. */
static void a_slow_consumer_stops_nobody_but_itself(void) {
    enum { SIZE = 300 * 1024, LARGE = 40 };
    for (int burst = 0; burst < 2; burst++) {
        struct backend own;
        make(&own);
        struct rig rig = rig_of(&own, "{}", "");
        blaze_queue *other = new_queue(rig.engine, 16);
        atomic_store(&own.size, SIZE);
        atomic_store(&own.burst, burst ? 8 : 1);
        blaze_ticket slow = submit_for(&rig, LARGE);
        struct ask ask;
        blaze_ticket quick = 0;
        CHECK_STATUS(blaze_submit(rig.engine, ask_for(&ask, rig.model, 60), other, &quick, NULL), OK);
        is_answer(answer_of(other, quick), BLAZE_STATUS_OK, 60, SIZE); /* while nobody looks after the other one */
        CHECK_INT(atomic_load(&own.live), 1);
        if (burst) CHECK(atomic_load(&own.full) > 0);
        unsigned long long said = (unsigned long long)LARGE + 60;
        struct answer answer = answer_of(rig.queue, slow);
        CHECK(answer.tokens >= LARGE * (size_t)SIZE / MIB);
        is_answer(answer, BLAZE_STATUS_OK, LARGE, SIZE);
        static char text[262144], wanted[64];
        snprintf(wanted, sizeof wanted, "blaze_model_tokens_total{model=\"m:1\"} %llu\n", said);
        CHECK_STATUS(blaze_metrics_text(rig.engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK);
        CHECK_TEXT(text, wanted); /* each once, however often there was no room for it */
        CHECK_STATUS(blaze_queue_destroy(other), OK);
        is_closed(&rig, &own);
    }
}

static void a_pump_makes_one_step_at_a_time(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"threads\": 0}", "");
    uint32_t did = 0;
    CHECK_STATUS(blaze_pump(rig.engine, 0, &did), OK);
    CHECK_INT(did, 0);
    blaze_ticket first = submit_for(&rig, 3);
    CHECK_INT(atomic_load(&own.begins), 0); /* nothing happens by itself */
    for (int i = 1; i <= 2; i++) {
        CHECK_STATUS(blaze_pump(rig.engine, 0, &did), OK);
        CHECK_INT(did, 1);
        CHECK_INT(atomic_load(&own.steps), i);
    }
    blaze_ticket second = submit_for(&rig, 1);
    CHECK_STATUS(blaze_pump(rig.engine, 0, &did), OK);
    CHECK_INT(atomic_load(&own.together), 2); /* the new one was taken in first */
    unsigned ended = 0;
    blaze_event events[8];
    int count = (int)blaze_poll(rig.queue, events, sizeof events[0], 8);
    for (int i = 0; i < count; i++) {
        CHECK(events[i].ticket == first || events[i].ticket == second);
        ended += events[i].kind == BLAZE_EVENT_DONE;
        blaze_event_release(&events[i]);
    }
    CHECK_INT(ended, 2);
    CHECK_STATUS(blaze_pump(rig.engine, PATIENCE, &did), OK);
    CHECK_INT(did, 0);
    is_answer(answer_of(rig.queue, submit_for(&rig, 20)), BLAZE_STATUS_OK, 20, 0); /* whoever waits works */
    /* Nobody takes what it says: there is nothing to do, and a pump says so. */
    atomic_store(&own.size, 700 * 1024);
    blaze_ticket large = submit_for(&rig, 3);
    CHECK_STATUS(blaze_pump(rig.engine, PATIENCE, &did), OK);
    CHECK_INT(did, 1);
    is_answer(answer_of(rig.queue, large), BLAZE_STATUS_OK, 3, 700 * 1024);
    /* Unloading makes the steps that are left, though nobody takes what they say. */
    large = submit_for(&rig, 5);
    CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
    is_answer(answer_of(rig.queue, large), BLAZE_STATUS_OK, 5, 700 * 1024);
    is_closed(&rig, &own);
}

static void infer_gives_all_of_the_text(void) {
    for (int threads = 0; threads < 2; threads++) {
        struct backend own;
        make(&own);
        struct rig rig = rig_of(&own, threads ? "{\"threads\": 2}" : "{\"threads\": 0}", "");
        for (uint32_t flags = 0; flags < 2; flags++) {
            struct ask ask;
            blaze_event event = BLAZE_EVENT_INIT;
            blaze_error error = {.status = 0};
            int64_t count = 0;
            const int64_t shape[] = {1};
            blaze_tensor output = BLAZE_TENSOR_INIT;
            output.dtype = BLAZE_DTYPE_I64, output.shape = shape, output.rank = 1;
            output.data = &count, output.size_bytes = sizeof count;
            ask_for(&ask, rig.model, 50)->flags = flags ? BLAZE_REQUEST_BORROW : 0;
            ask.request.outputs = &output, ask.request.outputs_count = 1;
            CHECK_STATUS(blaze_infer(rig.engine, &ask.request, PATIENCE, &event, &error), OK);
            char *text = pieces(0, 50, 0);
            CHECK(event.text && !strcmp(event.text, text));
            CHECK_INT(event.text_bytes, strlen(text));
            CHECK_INT(count, 50);
            blaze_tensor view = BLAZE_TENSOR_INIT;
            CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
            CHECK(view.data == &count);
            free(text);
            blaze_event copy = event;
            blaze_event_release(&event);
            blaze_event_release(&copy); /* does nothing more */
            atomic_store(&own.fail_at_end, BLAZE_STATUS_OUT_OF_MEMORY);
            CHECK_STATUS(blaze_infer(rig.engine, &ask.request, PATIENCE, &event, &error), OUT_OF_MEMORY);
            CHECK_TEXT(error.message, "it had to come to this");
            atomic_store(&own.fail_at_end, 0);
            atomic_store(&own.stubborn, 1);
            CHECK_STATUS(blaze_infer(rig.engine, &ask.request, 50 * MILLISECOND, &event, &error), TIMEOUT);
            atomic_store(&own.stubborn, 0);
        }
        is_closed(&rig, &own);
    }
}

static void a_model_may_have_nothing_but_text(void) {
    struct backend own;
    make(&own);
    atomic_store(&own.only_text, 1);
    struct rig rig = rig_of(&own, "{}", "");
    struct answer answer = answer_of(rig.queue, submit_for(&rig, 3));
    CHECK_INT(answer.status, BLAZE_STATUS_OK);
    CHECK(!strcmp(answer.text, "0 1 2 "));
    free(answer.text);
    struct ask ask;
    blaze_event events[2] = {BLAZE_EVENT_INIT, BLAZE_EVENT_INIT};
    for (int i = 0; i < 2; i++) {
        CHECK_STATUS(blaze_infer(rig.engine, ask_for(&ask, rig.model, 3 + i), PATIENCE, &events[i], NULL), OK);
        CHECK_INT(events[i].outputs_count, 0);
    }
    is_closed(&rig, &own);
    CHECK(!strcmp(events[0].text, "0 1 2 ") && !strcmp(events[1].text, "0 1 2 3 "));
    for (int i = 0; i < 2; i++) blaze_event_release(&events[i]);
    make(&own); /* one that runs must have some */
    atomic_store(&own.only_text, 1);
    own.functions.begin = NULL, own.functions.end = NULL;
    rig = (struct rig){new_engine("{}"), NULL, 0};
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_backend_register(rig.engine, &own.functions, &error), NULL_POINTER);
    CHECK_TEXT(error.message, "backend.begin"); /* not one or two of the three */
    blaze_engine_destroy(rig.engine);
}

/* With tensors that only the device can reach, and memory of its for as long as a request lives. */
static void tensors_may_be_on_a_device(void) {
    struct backend own;
    make(&own);
    own.functions.allocate = allocate, own.functions.free = free_memory;
    atomic_store(&own.on_device, 1);
    struct rig rig = rig_of(&own, "{}", "");
    for (int i = 0; i < 4; i++) {
        const int64_t shapes[2][1] = {{1}, {7}};
        const int64_t n = 5;
        blaze_tensor inputs[2] = {BLAZE_TENSOR_INIT, BLAZE_TENSOR_INIT};
        blaze_request request = BLAZE_REQUEST_INIT;
        inputs[0].dtype = BLAZE_DTYPE_I64, inputs[0].shape = shapes[0], inputs[0].rank = 1;
        inputs[0].data = (void *)(uintptr_t)&n, inputs[0].size_bytes = sizeof n;
        inputs[1].dtype = BLAZE_DTYPE_U8, inputs[1].shape = shapes[1], inputs[1].rank = 1;
        inputs[1].data = (void *)(FAR + 64), inputs[1].size_bytes = 7, inputs[1].memory = BLAZE_MEMORY_CUDA;
        request.model = rig.model, request.inputs = inputs, request.inputs_count = 2;
        request.flags = BLAZE_REQUEST_BORROW | BLAZE_REQUEST_DEVICE_OUTPUTS;
        blaze_ticket ticket = submit(&rig, &request);
        if (i == 3) blaze_cancel(rig.engine, ticket); /* unless it has ended */
        int more = 1;
        while (more) {
            blaze_event event = next_event(rig.queue);
            CHECK_INT(event.ticket, ticket);
            more = event.flags & BLAZE_EVENT_FLAG_MORE;
            if (event.kind == BLAZE_EVENT_DONE && event.status == BLAZE_STATUS_OK) {
                blaze_tensor view = BLAZE_TENSOR_INIT;
                CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
                CHECK_INT(view.memory, BLAZE_MEMORY_CUDA);
                CHECK_INT(view.size_bytes, sizeof(int64_t));
                CHECK((size_t)view.data >= FAR);
                CHECK(event.flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
            } else if (event.kind == BLAZE_EVENT_DONE) {
                CHECK_INT(i, 3);
            }
            blaze_event_release(&event);
        }
    }
    is_answer(answer_of(rig.queue, submit_for(&rig, 4)), BLAZE_STATUS_OK, 4, 0); /* on the host, too */
    /* By way of a route; and to a buffer there that no number can begin at. */
    const int64_t shape[] = {1}, n = 2;
    blaze_tensor input = BLAZE_TENSOR_INIT, output = BLAZE_TENSOR_INIT;
    blaze_request request = BLAZE_REQUEST_INIT;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    input.dtype = output.dtype = BLAZE_DTYPE_I64, input.shape = shape, input.rank = 1;
    input.data = (void *)(uintptr_t)&n, input.size_bytes = sizeof n;
    output.memory = BLAZE_MEMORY_CUDA, output.data = (void *)(FAR + 4), output.size_bytes = sizeof n;
    CHECK_STATUS(blaze_route_create(rig.engine, "{\"name\": \"r\", \"targets\": [{\"model\": \"m\"}]}", &request.model, &error), OK);
    request.inputs = &input, request.inputs_count = 1, request.flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
    CHECK_STATUS(blaze_infer(rig.engine, &request, PATIENCE, &event, &error), OK);
    CHECK_STATUS(blaze_event_output(&event, 0, &input), OK);
    CHECK_INT(input.memory, BLAZE_MEMORY_CUDA);
    blaze_event_release(&event);
    input.memory = BLAZE_MEMORY_HOST, input.data = (void *)(uintptr_t)&n, input.name = NULL;
    input.shape = shape, input.rank = 1, input.size_bytes = sizeof n;
    request.model = rig.model, request.outputs = &output, request.outputs_count = 1;
    CHECK_STATUS(blaze_infer(rig.engine, &request, PATIENCE, &event, &error), INVALID_ARGUMENT);
    CHECK_TEXT(error.message, "output \"count\": data of i64 that is borrowed must be aligned to 8 bytes");
    CHECK(atomic_load(&own.far) > 0);
    is_closed(&rig, &own);
    CHECK_INT(atomic_load(&own.far), 0);
}

static void *unload_model(void *argument) {
    struct rig *rig = argument;
    CHECK_STATUS(blaze_model_unload(rig->engine, rig->model, NULL, NULL), OK);
    return NULL;
}

static void unloading_waits_for_those_that_live(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", ", \"batching\": {\"max_rows\": 2}");
    pthread_t thread;
    atomic_store(&own.permits, 0);
    atomic_store(&own.size, 400 * 1024);
    blaze_ticket tickets[4];
    for (int i = 0; i < 4; i++) tickets[i] = submit_for(&rig, 6); /* two of them wait */
    until_int(&own.entered, 1);
    REQUIRE(!pthread_create(&thread, NULL, unload_model, &rig));
    struct ask ask;
    blaze_ticket late = 0;
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (blaze_now_ns() < until) {
        if (blaze_submit(rig.engine, ask_for(&ask, rig.model, 1), rig.queue, &late, NULL) == BLAZE_STATUS_NOT_FOUND) break;
        CHECK_STATUS(blaze_cancel(rig.engine, late), OK);
        EXPECT_EVENT(rig.queue, late, CANCELLED);
    }
    atomic_store(&own.permits, -1);
    pthread_join(thread, NULL); /* nobody polls meanwhile */
    CHECK_INT(atomic_load(&own.models), 0);
    struct answer answers[4] = {{.bytes = 0}};
    for (int ended = 0; ended < 4;) {
        blaze_event event = next_event(rig.queue);
        for (int i = 0; i < 4; i++)
            if (event.ticket == tickets[i]) take_event(&answers[i], &event);
        ended += event.kind == BLAZE_EVENT_DONE;
        blaze_event_release(&event);
    }
    for (int i = 0; i < 4; i++) is_answer(answers[i], BLAZE_STATUS_OK, 6, 400 * 1024);
    is_closed(&rig, &own);
}

static void a_shutdown_ends_them(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    atomic_store(&own.stubborn, 1);
    atomic_store(&own.size, 700 * 1024); /* one of them is left out, its consumer being slow */
    submit_for(&rig, 3);
    submit_for(&rig, 0);
    until_int(&own.begins, 2);
    CHECK_STATUS(blaze_engine_shutdown(rig.engine, 0), OK);
    int ended = 0;
    blaze_event event = BLAZE_EVENT_INIT;
    while (blaze_wait(rig.queue, &event, sizeof event, 1, PATIENCE) == 1) { /* ends when nothing can come any more */
        if (event.kind == BLAZE_EVENT_DONE) CHECK_STATUS(event.status, SHUT_DOWN);
        ended += event.kind == BLAZE_EVENT_DONE;
        blaze_event_release(&event);
    }
    CHECK_INT(ended, 2);
    is_closed(&rig, &own);
}

static void what_fails_says_why(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", ", \"recovery\": false");
    atomic_store(&own.fail_begin, BLAZE_STATUS_OUT_OF_MEMORY);
    struct answer answer = answer_of(rig.queue, submit_for(&rig, 3));
    CHECK_INT(answer.status, BLAZE_STATUS_OUT_OF_MEMORY);
    CHECK_TEXT(answer.reason, "backend \"own\": not today");
    free(answer.text);
    CHECK_INT(atomic_load(&own.ends), 0);
    atomic_store(&own.fail_begin, 0);
    atomic_store(&own.fails_after, 2);
    atomic_store(&own.fail_at_end, BLAZE_STATUS_BACKEND_FAILED);
    answer = answer_of(rig.queue, submit_for(&rig, 9));
    CHECK_INT(answer.status, BLAZE_STATUS_BACKEND_FAILED);
    CHECK_TEXT(answer.reason, "it had to come to this");
    CHECK(!strcmp(answer.text, "0 1 "));
    free(answer.text);
    atomic_store(&own.fail_at_end, 0);
    CHECK_JSON(health_text(rig.engine), "models[name=m].state", "degraded");
    /* A step that fails ends all of them. */
    atomic_store(&own.permits, 0);
    for (int i = 0; i < 3; i++) submit_for(&rig, 9);
    until_int(&own.begins, 2); /* the one above, and at least one of these */
    atomic_store(&own.fail_step, BLAZE_STATUS_DEVICE_LOST);
    atomic_store(&own.permits, -1);
    for (int i = 0; i < 3; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, DEVICE_LOST);
        CHECK_TEXT(event.text, "a step too far");
        blaze_event_release(&event);
    }
    CHECK_JSON(health_text(rig.engine), "models[name=m].state", "failed");
    atomic_store(&own.fail_step, 0);
    is_answer(answer_of(rig.queue, submit_for(&rig, 3)), BLAZE_STATUS_OK, 3, 0);
    CHECK_JSON(health_text(rig.engine), "models[name=m].state", "ready");
    is_closed(&rig, &own);
}

/* A model whose device was lost is loaded anew, and proves itself by a request of several steps. */
static void a_lost_model_comes_back(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    atomic_store(&own.fail_step, BLAZE_STATUS_DEVICE_LOST);
    struct answer answer = answer_of(rig.queue, submit_for(&rig, 3));
    CHECK_INT(answer.status, BLAZE_STATUS_DEVICE_LOST);
    free(answer.text);
    atomic_store(&own.fail_step, 0);
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (health_number(rig.engine, "models[name=m].recovered") < 1 && blaze_now_ns() < until) sleep_ns(10 * MILLISECOND);
    CHECK_JSON(health_text(rig.engine), "models[name=m].state", "ready");
    is_answer(answer_of(rig.queue, submit_for(&rig, 3)), BLAZE_STATUS_OK, 3, 0);
    no_event(rig.queue); /* nobody hears of the request that has proved it */
    is_closed(&rig, &own);
}

/* Whether a model works shows in the first that it says: how long it goes on is no matter. */
static void one_that_never_ends_works_all_the_same(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    atomic_store(&own.stubborn, 1);
    atomic_store(&own.least, 3); /* also of requests that the engine makes up */
    atomic_store(&own.fail_step, BLAZE_STATUS_DEVICE_LOST);
    struct answer answer = answer_of(rig.queue, submit_for(&rig, 3));
    CHECK_INT(answer.status, BLAZE_STATUS_DEVICE_LOST);
    free(answer.text);
    atomic_store(&own.fail_step, 0);
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (health_number(rig.engine, "models[name=m].recovered") < 1 && blaze_now_ns() < until) sleep_ns(10 * MILLISECOND);
    CHECK_JSON(health_text(rig.engine), "models[name=m].state", "ready");
    int before = atomic_load(&own.begins);
    blaze_model route = 0;
    blaze_error error = {.status = 0};
    if (blaze_route_create(rig.engine, "{\"name\": \"r\", \"health\": {\"interval_ms\": 20, \"timeout_ms\": 2000}, \"targets\": [{\"model\": \"m\"}]}",
                           &route, &error))
        FAIL("route: %s", error.message);
    until_int(&own.begins, before + 8);
    CHECK_JSON(health_text(rig.engine), "routes[name=r].targets[0].state", "ready");
    CHECK_INT((long)health_number(rig.engine, "routes[name=r].targets[0].failed"), 0);
    is_closed(&rig, &own);
}

static void a_backend_that_breaks_its_word_harms_nobody(void) {
    static const struct {
        int breaks;
        blaze_status status;
        const char *text;
    } cases[] = {{FINISHES_TWICE, BLAZE_STATUS_OK, ""},
                 {SPEAKS_AFTER_THE_END, BLAZE_STATUS_OK, ""},
                 {HAS_NO_STATE, BLAZE_STATUS_BACKEND_FAILED, "no state"},
                 {FORGETS_OUTPUTS, BLAZE_STATUS_BACKEND_FAILED, "output \"count\""},
                 {SAYS_NONSENSE, BLAZE_STATUS_OK, ""},
                 {ENDS_AT_ONCE, BLAZE_STATUS_OK, ""},
                 {STATUS_UNKNOWN, BLAZE_STATUS_BACKEND_FAILED, "status 4711"}};
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", ", \"recovery\": false");
    for (size_t i = 0; i < COUNT(cases); i++) {
        atomic_store(&own.breaks, cases[i].breaks);
        struct answer answer = answer_of(rig.queue, submit_for(&rig, 3));
        CHECK_INT(answer.status, cases[i].status);
        CHECK_TEXT(answer.reason, cases[i].text);
        CHECK_INT(answer.tokens, 0);
        free(answer.text);
    }
    CHECK_INT(atomic_load(&own.broken), 5);
    atomic_store(&own.breaks, KEEPS);
    is_answer(answer_of(rig.queue, submit_for(&rig, 3)), BLAZE_STATUS_OK, 3, 0);
    is_closed(&rig, &own);
}

/* By a thread of the backend's, while no step is made since nobody takes what was said. */
static void one_may_end_between_steps(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    atomic_store(&own.breaks, ENDS_ELSEWHERE);
    blaze_ticket ticket = submit_for(&rig, 1);
    until_int(&own.ends, 1);
    struct answer answer = answer_of(rig.queue, ticket);
    CHECK_INT(answer.bytes, MIB);
    CHECK_INT(answer.status, BLAZE_STATUS_OK);
    free(answer.text);
    is_closed(&rig, &own);
}

static void an_engine_may_be_destroyed_while_they_live(void) {
    for (int threads = 0; threads < 2; threads++) {
        struct backend own;
        make(&own);
        struct rig rig = rig_of(&own, threads ? "{\"threads\": 1}" : "{\"threads\": 0}", "");
        atomic_store(&own.stubborn, 1);
        for (int i = 0; i < 5; i++) submit_for(&rig, 3);
        if (threads) until_int(&own.begins, 5);
        else CHECK_STATUS(blaze_pump(rig.engine, 0, NULL), OK);
        CHECK_INT(atomic_load(&own.live), 5);
        blaze_engine_destroy(rig.engine);
        CHECK_INT(atomic_load(&own.closes), 1);
        CHECK_INT(atomic_load(&own.ends), 5);
        blaze_event event = BLAZE_EVENT_INIT;
        int ended = 0;
        while (blaze_poll(rig.queue, &event, sizeof event, 1) == 1) {
            ended += event.kind == BLAZE_EVENT_DONE;
            blaze_event_release(&event);
        }
        CHECK_INT(ended, 5);
        CHECK_STATUS(blaze_queue_destroy(rig.queue), OK);
    }
}

/* Every request holds two places in its queue: for what it says, and for its end. */
static void places_are_kept_for_what_is_said(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    blaze_queue *small = new_queue(rig.engine, 3);
    struct ask ask;
    blaze_ticket ticket = 0, second = 0;
    blaze_metrics_info metrics = BLAZE_METRICS_INFO_INIT;
    atomic_store(&own.permits, 0);
    CHECK_STATUS(blaze_submit(rig.engine, ask_for(&ask, rig.model, 5), small, &ticket, NULL), OK);
    CHECK_STATUS(blaze_submit(rig.engine, &ask.request, small, &second, NULL), QUEUE_FULL);
    CHECK_STATUS(blaze_queue_destroy(small), BUSY);
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.events_waiting, 0);
    until_int(&own.entered, 1);
    atomic_store(&own.permits, 1);
    until_int(&own.entered, 2);
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.events_waiting, 1);
    blaze_event event = next_event(small);
    CHECK_INT(event.kind, BLAZE_EVENT_TOKEN);
    blaze_event_release(&event);
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.events_waiting, 0);
    CHECK_STATUS(blaze_submit(rig.engine, &ask.request, small, &second, NULL), QUEUE_FULL); /* it may say more */
    atomic_store(&own.permits, -1);
    struct answer answer = answer_of(small, ticket);
    CHECK_INT(answer.status, BLAZE_STATUS_OK);
    CHECK(!strcmp(answer.text, "1 2 3 4 "));
    free(answer.text);
    for (int i = 0; i < 10; i++) {
        CHECK_STATUS(blaze_submit(rig.engine, ask_for(&ask, rig.model, 5), small, &ticket, NULL), OK);
        blaze_status status = i % 2 ? blaze_cancel(rig.engine, ticket) : BLAZE_STATUS_OK;
        CHECK(status == BLAZE_STATUS_OK || status == BLAZE_STATUS_NOT_FOUND);
        answer = answer_of(small, ticket);
        CHECK(answer.status == BLAZE_STATUS_OK || (i % 2 && answer.status == BLAZE_STATUS_CANCELLED));
        free(answer.text);
    }
    CHECK_STATUS(blaze_metrics(rig.engine, &metrics), OK);
    CHECK_INT(metrics.events_waiting, 0);
    CHECK_STATUS(blaze_queue_destroy(small), OK);
    is_closed(&rig, &own);
}

static void texts_stay_until_they_are_released(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    blaze_event kept[12];
    int count = 0;
    atomic_store(&own.permits, 0);
    submit_for(&rig, 10);
    for (;; count++) {
        REQUIRE(count < 12);
        atomic_store(&own.permits, 1);
        kept[count] = next_event(rig.queue);
        if (kept[count].kind == BLAZE_EVENT_DONE) break;
    }
    CHECK_INT(count, 10);
    blaze_event copy = kept[0], done = kept[count];
    blaze_event_release(&kept[0]);
    blaze_event_release(&copy);
    blaze_tensor view = BLAZE_TENSOR_INIT;
    CHECK_STATUS(blaze_event_output(&done, 0, &view), OK); /* not released with it */
    CHECK_INT(*(const int64_t *)view.data, 10);
    for (int i = 1; i < count; i++) {
        char piece[16];
        snprintf(piece, sizeof piece, "%d ", i);
        CHECK(!strcmp(kept[i].text, piece));
    }
    blaze_event_release(&kept[count]);
    for (int i = 1; i < count; i += 2) blaze_event_release(&kept[i]);
    is_closed(&rig, &own);
    for (int i = 2; i < count; i += 2) { /* after the engine's end */
        char piece[16];
        snprintf(piece, sizeof piece, "%d ", i);
        CHECK(!strcmp(kept[i].text, piece));
        blaze_event_release(&kept[i]);
    }
}

static void settings_that_mean_nothing_are_refused(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"n\", \"backend\": \"own\", \"lanes\": 2}", &model, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "lanes");
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"n\", \"backend\": \"own\", \"batching\": {\"axes\": {\"bytes\": {\"buckets\": [4]}}}}",
                                  &model, &error), INVALID_CONFIG);
    CHECK_TEXT(error.message, "batching.axes");
    CHECK_STATUS(blaze_model_configure(rig.engine, rig.model, "{\"lanes\": 3}", &error), INVALID_STATE);
    CHECK_TEXT(error.message, "steps");
    CHECK_STATUS(blaze_tune(rig.engine, "{\"model\": \"m\"}", NULL, 0, NULL, &error), INVALID_STATE);
    CHECK_TEXT(error.message, "steps");
    static char info[8192];
    CHECK_STATUS(blaze_model_info(rig.engine, rig.model, info, sizeof info, NULL), OK);
    CHECK_JSON(info, "stepwise", "true");
    CHECK_JSON(info, "lanes", "1");
    CHECK_JSON(info, "batching.reason", "it advances by steps");
    is_closed(&rig, &own);
}

static void steps_and_pieces_are_counted(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    static char text[262144];
    for (int i = 0; i < 3; i++) is_answer(answer_of(rig.queue, submit_for(&rig, 7)), BLAZE_STATUS_OK, 7, 0);
    CHECK_STATUS(blaze_metrics_text(rig.engine, BLAZE_METRICS_JSON, text, sizeof text, NULL), OK);
    CHECK_JSON(text, "models[name=m:1].steps", "21");
    CHECK_JSON(text, "models[name=m:1].tokens", "21");
    CHECK_JSON(text, "models[name=m:1].outcomes.ok", "3");
    CHECK_STATUS(blaze_metrics_text(rig.engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK);
    CHECK_TEXT(text, "blaze_model_steps_total{model=\"m:1\"} 21");
    CHECK_TEXT(text, "blaze_model_tokens_total{model=\"m:1\"} 21");
    is_closed(&rig, &own);
}

/* Where the time went, in the event and in a profile. */
static void their_times_are_told(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", "");
    CHECK_STATUS(blaze_profile_start(rig.engine, "{\"level\": \"comprehensive\"}", NULL), OK);
    uint64_t began = blaze_now_ns();
    atomic_store(&own.permits, 0);
    blaze_ticket ticket = submit_for(&rig, 2);
    until_int(&own.entered, 1);
    uint64_t entered = blaze_now_ns();
    sleep_ns(20 * MILLISECOND);
    uint64_t left = blaze_now_ns();
    atomic_store(&own.permits, -1);
    for (int over = 0; !over;) {
        blaze_event event = next_event(rig.queue);
        const blaze_timing *timing = &event.timing;
        over = event.kind == BLAZE_EVENT_DONE;
        if (over) {
            CHECK_INT(event.ticket, ticket);
            CHECK(timing->computed_ns >= left - entered); /* from its begin to its end */
            CHECK(timing->queued_ns + timing->batched_ns + timing->computed_ns <= blaze_now_ns() - began);
            CHECK_INT(timing->batch_rows, 1);
        }
        blaze_event_release(&event);
    }
    for (int i = 0; i < 4; i++) is_answer(answer_of(rig.queue, submit_for(&rig, 3)), BLAZE_STATUS_OK, 3, 0);
    static char text[4 << 20];
    uint64_t until = blaze_now_ns() + PATIENCE;
    do { /* it is recorded after the event is out */
        sleep_ns(MILLISECOND);
        CHECK_STATUS(blaze_profile_report(rig.engine, BLAZE_REPORT_JSON, text, sizeof text, NULL, NULL), OK);
    } while (json_number(text, "requests") < 5 && blaze_now_ns() < until);
    CHECK_INT(json_number(text, "requests"), 5);
    CHECK_INT(json_number(text, "models[name=m:1].total.count"), 5);
    CHECK_STATUS(blaze_profile_report(rig.engine, BLAZE_REPORT_TRACE, text, sizeof text, NULL, NULL), OK);
    CHECK(json_count(text, "traceEvents") > 5);
    is_closed(&rig, &own);
}

/* Routes -------------------------------------------------------------------------------------------------------- */

struct pair {
    struct backend own, other;
    struct rig rig;
};

static void pair_up(struct pair *pair, const char *route) {
    char config[512];
    make(&pair->own);
    make(&pair->other);
    pair->other.name = pair->other.functions.name = "other";
    pair->rig = (struct rig){new_engine("{}"), NULL, 0};
    pair->rig.queue = new_queue(pair->rig.engine, 1024);
    add(pair->rig.engine, &pair->own);
    add(pair->rig.engine, &pair->other);
    load_model(pair->rig.engine, "{\"name\": \"a\", \"backend\": \"own\", \"recovery\": false}");
    load_model(pair->rig.engine, "{\"name\": \"b\", \"backend\": \"other\", \"recovery\": false}");
    snprintf(config, sizeof config, "{\"name\": \"r\", \"targets\": [{\"model\": \"a\", \"tier\": 0}, {\"model\": \"b\", \"tier\": 1}]%s}", route);
    blaze_error error = {.status = 0};
    if (blaze_route_create(pair->rig.engine, config, &pair->rig.model, &error)) FAIL("route: %s", error.message);
    REQUIRE(pair->rig.model);
}

static void pair_down(struct pair *pair) {
    rig_down(&pair->rig);
    CHECK_INT(atomic_load(&pair->own.closes) + atomic_load(&pair->other.closes), 2);
}

static void a_route_goes_elsewhere_until_something_is_said(void) {
    struct pair pair;
    pair_up(&pair, ", \"breaker\": {\"enabled\": false}");
    /* Before: as for any request. */
    atomic_store(&pair.own.fail_step, BLAZE_STATUS_BACKEND_FAILED);
    is_answer(answer_of(pair.rig.queue, submit_for(&pair.rig, 5)), BLAZE_STATUS_OK, 5, 0);
    CHECK_INT(atomic_load(&pair.other.begins), 1);
    atomic_store(&pair.own.fail_step, 0);
    atomic_store(&pair.own.fail_begin, BLAZE_STATUS_BACKEND_FAILED);
    is_answer(answer_of(pair.rig.queue, submit_for(&pair.rig, 5)), BLAZE_STATUS_OK, 5, 0);
    CHECK_INT(atomic_load(&pair.other.begins), 2);
    struct ask ask;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_infer(pair.rig.engine, ask_for(&ask, pair.rig.model, 3), PATIENCE, &event, &error), OK);
    CHECK_TEXT(event.text, "0 1 2 ");
    blaze_event_release(&event);
    CHECK_INT(atomic_load(&pair.other.begins), 3);
    atomic_store(&pair.own.fail_begin, 0);
    /* Afterwards there is no going back. */
    atomic_store(&pair.own.fails_after, 2);
    atomic_store(&pair.own.fail_at_end, BLAZE_STATUS_BACKEND_FAILED);
    struct answer answer = answer_of(pair.rig.queue, submit_for(&pair.rig, 5));
    CHECK_INT(answer.status, BLAZE_STATUS_BACKEND_FAILED);
    CHECK_TEXT(answer.reason, "it had to come to this");
    CHECK(!strcmp(answer.text, "0 1 "));
    free(answer.text);
    CHECK_INT(atomic_load(&pair.other.begins), 3);
    /* Also if it is the second target that has said something. */
    atomic_store(&pair.own.fails_after, 0);
    atomic_store(&pair.other.fails_after, 1);
    atomic_store(&pair.other.fail_at_end, BLAZE_STATUS_BACKEND_FAILED);
    answer = answer_of(pair.rig.queue, submit_for(&pair.rig, 5));
    CHECK_INT(answer.status, BLAZE_STATUS_BACKEND_FAILED);
    CHECK(!strcmp(answer.text, "0 "));
    free(answer.text);
    no_event(pair.rig.queue);
    pair_down(&pair);
}

/* Those that wait for their turn are told of like any. */
static void those_that_wait_for_their_turn_speak_too(void) {
    struct pair pair;
    pair_up(&pair, ", \"limits\": {\"concurrency\": 2, \"waiting\": 20}");
    blaze_ticket tickets[10];
    struct answer answers[10] = {{.bytes = 0}};
    atomic_store(&pair.own.permits, 0);
    for (int i = 0; i < 10; i++) tickets[i] = submit_for(&pair.rig, 20 + i);
    CHECK_STATUS(blaze_cancel(pair.rig.engine, tickets[9]), OK);
    atomic_store(&pair.own.permits, -1);
    for (int ended = 0; ended < 10;) {
        blaze_event event = next_event(pair.rig.queue);
        for (int i = 0; i < 10; i++)
            if (event.ticket == tickets[i]) take_event(&answers[i], &event);
        ended += event.kind == BLAZE_EVENT_DONE;
        blaze_event_release(&event);
    }
    for (int i = 0; i < 10; i++) is_answer(answers[i], i < 9 ? BLAZE_STATUS_OK : BLAZE_STATUS_CANCELLED, 20 + i, 0);
    CHECK(atomic_load(&pair.own.most_live) <= 2);
    no_event(pair.rig.queue);
    pair_down(&pair);
}

/* Two attempts at once: whichever says something first answers, and the other is given up. */
static void of_two_attempts_only_one_speaks(void) {
    struct pair pair;
    pair_up(&pair, ", \"breaker\": {\"enabled\": false}, \"retry\": {\"attempts\": 2, \"attempt_timeout_ms\": 20,"
                   " \"budget\": 1, \"reserve\": 1000}");
    for (int well = 0, tries = 0; well < 8 && tries < 1000; tries++) {
        int begins = atomic_load(&pair.other.begins), over = 0;
        atomic_store(&pair.own.permits, 0);
        blaze_ticket ticket = submit_for(&pair.rig, 30);
        struct answer answer = {calloc(1, 1), 0, 0, 0, -1, -1, 0, ""};
        uint64_t until = blaze_now_ns() + PATIENCE;
        while (!over && blaze_now_ns() < until) {
            if (atomic_load(&pair.other.begins) > begins) atomic_store(&pair.own.permits, -1); /* the first took too long */
            blaze_event event = BLAZE_EVENT_INIT;
            if (blaze_wait(pair.rig.queue, &event, sizeof event, 1, MILLISECOND / 4) != 1) continue;
            CHECK_INT(event.ticket, ticket);
            over = event.kind == BLAZE_EVENT_DONE;
            take_event(&answer, &event);
            blaze_event_release(&event);
        }
        REQUIRE(over);
        atomic_store(&pair.own.permits, -1);
        well += answer.status == BLAZE_STATUS_OK;
        if (answer.status != BLAZE_STATUS_OK) CHECK_INT(answer.status, BLAZE_STATUS_TIMEOUT); /* both took too long */
        is_answer(answer, answer.status, 30, 0);
        while (atomic_load(&pair.own.live) + atomic_load(&pair.other.live) > 0 && blaze_now_ns() < until) sleep_ns(MILLISECOND);
        CHECK_INT(atomic_load(&pair.own.live) + atomic_load(&pair.other.live), 0);
        no_event(pair.rig.queue);
        CHECK(tries < 999);
    }
    pair_down(&pair);
}

/* The mock ------------------------------------------------------------------------------------------------------ */

static void the_mock_takes_steps(void) {
    struct rig rig = rig_up("{}", "\"steps\": 3", "");
    for (int i = 0; i < 20; i++) {
        char said[64] = "";
        for (;;) {
            if (i == 0 && !*said) submit_simple(&rig, 0);
            blaze_event event = next_event(rig.queue);
            if (event.kind == BLAZE_EVENT_DONE) {
                CHECK_FLOATS(floats(&event, 0), 3, 5, 7, 9);
                blaze_event_release(&event);
                break;
            }
            strncat(said, event.text, sizeof said - strlen(said) - 1);
            blaze_event_release(&event);
        }
        CHECK_TEXT(said, "step 1 step 2 step 3 ");
        if (i < 19) submit_simple(&rig, 0);
    }
    still_works(&rig);
    rig_down(&rig);
    /* Faults strike steps. */
    rig = rig_up("{}", "\"steps\": 4, \"faults\": [{\"kind\": \"error\", \"after\": 2, \"count\": 1}, {\"kind\": \"panic\", \"after\": 3, \"count\": 1}]",
                 "\"recovery\": false");
    for (int i = 0; i < 2; i++) {
        struct answer answer = {calloc(1, 1), 0, 0, 0, -1, -1, 0, ""};
        blaze_ticket ticket = submit_simple(&rig, 0);
        answer = (free(answer.text), answer_of(rig.queue, ticket));
        CHECK_INT(answer.status, i ? BLAZE_STATUS_INTERNAL : BLAZE_STATUS_BACKEND_FAILED);
        free(answer.text);
    }
    still_works(&rig);
    rig_down(&rig);
    rig = rig_up("{}", "\"steps\": 4, " HANGS_ALWAYS, "");
    blaze_ticket ticket = submit_simple(&rig, 0);
    until_running(rig.engine);
    CHECK_STATUS(blaze_cancel(rig.engine, ticket), OK);
    EXPECT_EVENT(rig.queue, ticket, CANCELLED);
    rig_down(&rig);
}

/* Many at once -------------------------------------------------------------------------------------------------- */

struct worker {
    struct rig *rig;
    unsigned seed, done;
    int rounds;
};

static void *work(void *argument) {
    struct worker *worker = argument;
    blaze_queue *queue = new_queue(worker->rig->engine, 64);
    for (int round = 0; round < worker->rounds; round++) {
        blaze_ticket tickets[8];
        struct answer answers[8];
        int64_t asked[8];
        for (int i = 0; i < 8; i++) {
            struct ask ask;
            asked[i] = 1 + rand_r(&worker->seed) % 20;
            answers[i] = (struct answer){calloc(1, 1), 0, 0, 0, -1, -1, 0, ""};
            ask_for(&ask, worker->rig->model, asked[i]);
            if (rand_r(&worker->seed) % 8 == 0) ask.request.deadline_ns = blaze_now_ns() + 200000;
            blaze_status status = blaze_submit(worker->rig->engine, &ask.request, queue, &tickets[i], NULL);
            if (status) FAIL("submit: %s", blaze_status_name(status));
        }
        for (int i = 0; i < 8; i++)
            if (rand_r(&worker->seed) % 4 == 0) blaze_cancel(worker->rig->engine, tickets[i]);
        for (int ended = 0; ended < 8;) {
            blaze_event event = BLAZE_EVENT_INIT;
            if (blaze_wait(queue, &event, sizeof event, 1, PATIENCE) != 1) {
                FAIL("an event is missing");
                break;
            }
            int known = 0;
            for (int i = 0; i < 8; i++) {
                if (event.ticket != tickets[i]) continue;
                known = 1;
                CHECK_INT(answers[i].status, -1); /* nothing after the end, which comes once */
                take_event(&answers[i], &event);
            }
            CHECK(known);
            ended += event.kind == BLAZE_EVENT_DONE;
            blaze_event_release(&event);
        }
        for (int i = 0; i < 8; i++) {
            worker->done += answers[i].status == BLAZE_STATUS_OK;
            CHECK(answers[i].status == BLAZE_STATUS_OK || answers[i].status == BLAZE_STATUS_CANCELLED ||
                  answers[i].status == BLAZE_STATUS_EXPIRED);
            char *text = pieces(0, asked[i], 0);
            CHECK(!strncmp(answers[i].text, text, answers[i].bytes)); /* however it ended: no gap, no other one's */
            free(text);
            is_answer(answers[i], answers[i].status, asked[i], 0);
        }
    }
    CHECK_STATUS(blaze_queue_destroy(queue), OK);
    return NULL;
}

static void many_threads_at_once(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{}", ", \"batching\": {\"max_rows\": 12}");
    struct worker workers[4];
    pthread_t threads[4];
    int rounds = getenv("BLAZE_SHORT") ? 10 : 150;
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){&rig, i + 1, 0, rounds};
        REQUIRE(!pthread_create(&threads[i], NULL, work, &workers[i]));
    }
    unsigned done = 0;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL), done += workers[i].done;
    CHECK(done > 0);
    is_closed(&rig, &own);
    CHECK_INT(atomic_load(&own.begins), atomic_load(&own.ends));
}

/* Taken out of memory for another one, and loaded again for a request. */
static void its_models_come_and_go(void) {
    struct backend own;
    make(&own);
    struct rig rig = rig_of(&own, "{\"memory\": {\"budget_bytes\": 1600000}}", "");
    struct rig other = rig;
    other.model = load_model(rig.engine, "{\"name\": \"other\", \"backend\": \"own\"}");
    for (int i = 0; i < 4; i++) {
        is_answer(answer_of(rig.queue, submit_for(&rig, 4)), BLAZE_STATUS_OK, 4, 0);
        is_answer(answer_of(rig.queue, submit_for(&other, 4)), BLAZE_STATUS_OK, 4, 0);
    }
    CHECK(health_number(rig.engine, "memory.evictions") >= 7);
    is_closed(&rig, &own);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(what_is_said_comes_before_the_end),
        TEST(what_nobody_takes_is_one_event),
        TEST(progress_alone_is_told),
        TEST(whoever_comes_late_joins_at_the_next_step),
        TEST(no_more_live_than_may),
        TEST(one_that_is_cancelled_leaves_the_others),
        TEST(deadlines_act_between_steps),
        TEST(the_urgent_ones_begin_first),
        TEST(a_slow_consumer_stops_nobody_but_itself),
        TEST(a_pump_makes_one_step_at_a_time),
        TEST(infer_gives_all_of_the_text),
        TEST(a_model_may_have_nothing_but_text),
        TEST(tensors_may_be_on_a_device),
        TEST(unloading_waits_for_those_that_live),
        TEST(a_shutdown_ends_them),
        TEST(what_fails_says_why),
        TEST(a_lost_model_comes_back),
        TEST(one_that_never_ends_works_all_the_same),
        TEST(a_backend_that_breaks_its_word_harms_nobody),
        TEST(one_may_end_between_steps),
        TEST(an_engine_may_be_destroyed_while_they_live),
        TEST(places_are_kept_for_what_is_said),
        TEST(texts_stay_until_they_are_released),
        TEST(settings_that_mean_nothing_are_refused),
        TEST(steps_and_pieces_are_counted),
        TEST(their_times_are_told),
        TEST(a_route_goes_elsewhere_until_something_is_said),
        TEST(those_that_wait_for_their_turn_speak_too),
        TEST(of_two_attempts_only_one_speaks),
        TEST(the_mock_takes_steps),
        TEST(many_threads_at_once),
        TEST(its_models_come_and_go),
    };
    return RUN_TESTS(tests, argc, argv);
}
