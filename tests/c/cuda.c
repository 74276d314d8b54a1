/* The CUDA backend through the C ABI, with a fake driver: who calls what, and what becomes of it when calls fail. Nothing here
 * says anything about a GPU. */
#include "cuda.h"

/* Results and how they come about --------------------------------------------------------------------------------- */

static void has_metric(blaze_engine *engine, const char *line) {
    static char text[262144];
    CHECK_STATUS(blaze_metrics_text(engine, BLAZE_METRICS_PROMETHEUS, text, sizeof text, NULL), OK);
    if (!strstr(text, line)) FAIL("there is no line \"%s\"", line);
}

static void devices_are_told_of_by_health(void) {
    blaze_engine *engine = new_engine(config_of("\"threads\": 1"));
    const char *health = health_text(engine);
    CHECK_JSON(health, "plugins[0].error", "null");
    CHECK_JSON(health, "plugins[0].backend", "cuda");
    CHECK_JSON(health, "backends[name=cuda].report.devices[0].name", "Fake GPU (no GPU)");
    CHECK_JSON(health, "backends[name=cuda].report.devices[1].device", "1");
    CHECK_JSON(health, "backends[name=cuda].report.devices[0].state", "ready");
    CHECK_JSON(health, "backends[name=cuda].report.devices[0].utilization", "0.42");
    CHECK_JSON(health, "backends[name=cuda].report.driver_version", "13.0");
    CHECK(json_number(health, "backends[name=cuda].report.devices[0].memory.free_bytes") > 0);
    has_metric(engine, "blaze_device_ready{backend=\"cuda\",device=\"1\"} 1\n");
    has_metric(engine, "blaze_device_losses_total{backend=\"cuda\",device=\"0\"} 0\n");
    has_metric(engine, "blaze_device_utilization_ratio{backend=\"cuda\",device=\"0\"} 0.42\n");
    CHECK_INT(fakecuda_live("context"), 0); /* it costs nothing before it is used */
    blaze_engine_destroy(engine);
    nothing_is_left();
}

static void kernels_compute_and_requests_are_joined(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE(""));
    fakecuda_clear();
    for (uint64_t i = 0; i < 300; i++) submit_simple(&rig, i);
    for (int i = 0; i < 300; i++) {
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, OK);
        CHECK_FLOATS(floats(&event, 0), 3, 6, 9, 12);
        blaze_event_release(&event);
    }
    CHECK(fakecuda_count("kernel scale") > 0 && fakecuda_count("kernel scale") < 300);
    CHECK(fakecuda_count("pinned_copies") >= 2 * fakecuda_count("kernel scale"));
    CHECK_INT(fakecuda_count("pageable_copies"), 0);
    CHECK_INT(fakecuda_count("cuStreamSynchronize"), 0);
    CHECK_JSON(health_text(rig.engine), "models[name=m].provider", "cuda");
    CHECK(health_number(rig.engine, "backends[name=cuda].report.devices[0].streams[0].runs") > 0);
    has_metric(rig.engine, "\nblaze_device_stream_busy_seconds_total{backend=\"cuda\",device=\"0\",stream=\"0\"} 0.");
    char runs[128];
    snprintf(runs, sizeof runs, "\nblaze_device_stream_runs_total{backend=\"cuda\",device=\"0\",stream=\"0\"} %lld\n",
             health_number(rig.engine, "backends[name=cuda].report.devices[0].streams[0].runs"));
    has_metric(rig.engine, runs);
    cuda_down(&rig);
}

/* Kernels that follow one another through a buffer, with weights, for batches of every size. */
static void kernels_follow_one_another(void) {
    struct rig rig = cuda_rig("\"threads\": 1", MODEL("mlp", ", \"batching\": {\"max_rows\": 64}"));
    static float x[40][4];
    for (int row = 0; row < 40; row++)
        for (int i = 0; i < 4; i++) x[row][i] = (float)((row * 7 + i * 3) % 11 - 5);
    for (int round = 0; round < 3; round++) {
        for (uint64_t rows = 1; rows <= 40; rows++) {
            struct call call;
            call_with(&call, rig.model, x[0], (int64_t)rows, 4)->user_data = rows;
            submit(&rig, &call.request);
        }
        for (int i = 0; i < 40; i++) {
            blaze_event event = next_event(rig.queue);
            CHECK_STATUS(event.status, OK);
            const float *y = floats(&event, 0);
            for (uint64_t row = 0; y && row < event.user_data; row++) {
                float expected[3];
                mlp(x[row], expected);
                for (int k = 0; k < 3; k++)
                    if (y[row * 3 + (uint64_t)k] != expected[k])
                        FAIL("row %d: %g, not %g", (int)row, (double)y[row * 3 + (uint64_t)k], (double)expected[k]);
            }
            blaze_event_release(&event);
        }
    }
    cuda_down(&rig);
}

static void two_inputs_are_two_copies(void) {
    struct rig rig = cuda_rig("\"threads\": 1", MODEL("add", ""));
    static const float a[] = {1, 2, 3, 4}, b[] = {10, 20, 30, 40};
    int64_t shape[] = {1, 4};
    blaze_tensor inputs[2] = {BLAZE_TENSOR_INIT, BLAZE_TENSOR_INIT};
    for (int i = 0; i < 2; i++) {
        inputs[i].dtype = BLAZE_DTYPE_F32, inputs[i].shape = shape, inputs[i].rank = 2;
        inputs[i].data = (void *)(uintptr_t)(i ? b : a), inputs[i].size_bytes = sizeof a;
    }
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = rig.model, request.inputs = inputs, request.inputs_count = 2;
    submit(&rig, &request);
    blaze_event event = next_event(rig.queue);
    CHECK_FLOATS(floats(&event, 0), 11, 22, 33, 44);
    blaze_event_release(&event);
    cuda_down(&rig);
}

static void buckets_are_one_launch(void) {
    for (int graphs = 0; graphs < 2; graphs++) {
        struct rig rig = cuda_rig("\"threads\": 1", graphs ? SCALE(", \"batching\": {\"max_rows\": 16, \"buckets\": [4, 16]}")
                                                          : SCALE_WITH("\"graphs\": false",
                                                                       ", \"batching\": {\"max_rows\": 16, \"buckets\": [4, 16]}"));
        triples(&rig); /* everything is ready */
        fakecuda_clear();
        for (uint64_t i = 0; i < 100; i++) submit_simple(&rig, i);
        for (int i = 0; i < 100; i++) {
            blaze_event event = next_event(rig.queue);
            CHECK_FLOATS(floats(&event, 0), 3, 6, 9, 12);
            blaze_event_release(&event);
        }
        unsigned long runs = fakecuda_count("kernel scale");
        CHECK(runs > 0);
        if (graphs) {
            CHECK(fakecuda_count("graph_kernels") > 0);
            CHECK_INT(fakecuda_count("cuGraphLaunch"), fakecuda_count("graph_kernels"));
            CHECK_INT(fakecuda_live("graph"), 0);
            CHECK(fakecuda_live("exec") >= 2);
        } else {
            CHECK_INT(fakecuda_count("graph_kernels"), 0);
            CHECK_INT(fakecuda_count("cuLaunchKernel"), runs);
            CHECK_INT(fakecuda_live("exec"), 0);
        }
        cuda_down(&rig);
    }
}

/* A batch fails, and its requests are run one by one, from where their rows are: not from the first row, as the graph of one row. */
static void a_graph_is_only_for_the_memory_that_it_was_made_for(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE(", \"lanes\": 1, \"batching\": {\"max_rows\": 8, \"buckets\": [1, 8]}"));
    triples(&rig);
    uint64_t until = blaze_now_ns() + PATIENCE;
    unsigned long failures = 0;
    fakecuda_clear();
    while (failures < 3 && blaze_now_ns() < until) {
        int alone = 0;
        fakecuda_kernel_ns(10 * MILLISECOND); /* so that requests wait for one another */
        submit_simple(&rig, 1);
        sleep_ns(2 * MILLISECOND);
        fakecuda_fail("cuGraphLaunch", 1, 1);
        for (uint64_t i = 2; i < 10; i++) {
            const float x[4] = {(float)i, 2, 3, (float)(10 * i)};
            struct call call;
            call_with(&call, rig.model, x, 1, 4)->user_data = i;
            submit(&rig, &call.request);
        }
        for (int i = 0; i < 9; i++) {
            blaze_event event = next_event(rig.queue);
            float n = (float)event.user_data;
            alone |= event.status == BLAZE_STATUS_BACKEND_FAILED; /* nobody had joined it */
            if (event.status && !alone) FAIL("%s", blaze_status_name(event.status));
            if (!event.status && event.user_data > 1) CHECK_FLOATS(floats(&event, 0), 3 * n, 6, 9, 30 * n);
            blaze_event_release(&event);
        }
        failures += fakecuda_has_failed() && !alone;
        fakecuda_fail(NULL, 0, 0);
    }
    fakecuda_kernel_ns(0);
    CHECK_INT(failures, 3);
    CHECK(fakecuda_count("cuLaunchKernel") > 0); /* without a graph */
    cuda_down(&rig);
}

static void an_engine_without_threads_runs_them_too(void) {
    struct rig rig = cuda_rig("\"threads\": 0", SCALE(", \"batching\": {\"max_rows\": 8, \"buckets\": [1, 8]}"));
    triples(&rig);
    CHECK(health_number(rig.engine, "memory.devices[name=cuda:0].budget_bytes") > 1000000);
    CHECK(health_number(rig.engine, "memory.devices[name=cuda:0].used_bytes") > 0);
    cuda_down(&rig);
}

/* Asks until something is so. */
static void until_counted(struct rig *rig, const char *name, unsigned long count) {
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (fakecuda_count(name) < count && blaze_now_ns() < until) {
        for (uint64_t i = 0; i < 8; i++) submit_simple(rig, i);
        for (int i = 0; i < 8; i++) {
            blaze_event event = next_event(rig->queue);
            CHECK_STATUS(event.status, OK);
            blaze_event_release(&event);
        }
    }
    if (fakecuda_count(name) < count) FAIL("%s is %lu, not %lu", name, fakecuda_count(name), count);
}

static void lanes_have_streams_of_their_own(void) {
    struct rig rig = cuda_rig("\"threads\": null", SCALE(", \"lanes\": 3, \"batching\": {\"max_rows\": 1}"));
    fakecuda_kernel_ns(2 * MILLISECOND);
    until_counted(&rig, "overlap", 2);
    CHECK(fakecuda_live("stream") >= 2 && fakecuda_live("stream") <= 4);
    CHECK_INT(fakecuda_count("cuStreamSynchronize"), 0);
    fakecuda_kernel_ns(0);
    cuda_down(&rig);
}

static void runs_are_spread_over_devices(void) {
    struct rig rig = cuda_rig("\"threads\": null",
                              SCALE_WITH("\"devices\": [0, 1]", ", \"lanes\": 4, \"batching\": {\"max_rows\": 1}"));
    fakecuda_clear();
    fakecuda_kernel_ns(2 * MILLISECOND);
    until_counted(&rig, "device 0 kernels", 1);
    until_counted(&rig, "device 1 kernels", 1);
    fakecuda_kernel_ns(0);
    CHECK_JSON(health_text(rig.engine), "backends[name=cuda].report.devices[1].state", "ready");
    cuda_down(&rig);
}

static void what_is_cancelled_leaves_no_copies_behind(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE(", \"batching\": {\"max_rows\": 1}"));
    triples(&rig);
    fakecuda_kernel_ns(20 * MILLISECOND);
    for (int round = 0; round < 10; round++) {
        blaze_ticket ticket = submit_simple(&rig, 0);
        if (round % 2) sleep_ns(5 * MILLISECOND);
        blaze_cancel(rig.engine, ticket);
        blaze_event event = next_event(rig.queue);
        CHECK(event.status == BLAZE_STATUS_OK || event.status == BLAZE_STATUS_CANCELLED);
        blaze_event_release(&event);
    }
    submit_simple(&rig, 1);
    blaze_model_unload(rig.engine, rig.model, NULL, NULL);
    fakecuda_kernel_ns(0);
    cuda_down(&rig);
}

/* What is wrong is named ------------------------------------------------------------------------------------------ */

static void manifests_are_checked(void) {
    static const struct {
        const char *from, *to;
        blaze_status status;
        const char *says;
    } cases[] = {
        {"\"kernels.ptx\"", "\"nowhere.ptx\"", BLAZE_STATUS_MODEL_NOT_FOUND, "nowhere.ptx"},
        {"\"kernels.ptx\"", "\"../kernels.ptx\"", BLAZE_STATUS_MODEL_INVALID, "module"},
        {"\"kernels.ptx\"", "\"scale.json\"", BLAZE_STATUS_MODEL_INVALID, "missing .version directive"},
        {"\"kernels.ptx\"", "\"cut.cubin\"", BLAZE_STATUS_MODEL_INVALID, "module: "},
        {"\"kernels.ptx\"", "\"cut.fatbin\"", BLAZE_STATUS_MODEL_INVALID, "a fatbin that is cut off"},
        {"\"name\": \"scale\"", "\"name\": \"scales\"", BLAZE_STATUS_MODEL_INVALID, "kernels[0].name: the module has no \"scales\""},
        {"{\"f32\": 3}", "{\"f64\": 3}", BLAZE_STATUS_MODEL_INVALID, "kernels[0].arguments[3]: has 8 bytes; \"scale\" takes 4"},
        {", {\"f32\": 3}", "", BLAZE_STATUS_MODEL_INVALID, "kernels[0].arguments: \"scale\" takes more than 3"},
        {"{\"f32\": 3}", "{\"f32\": 3}, {\"u32\": 1}", BLAZE_STATUS_MODEL_INVALID, "kernels[0].arguments[4]: \"scale\" takes only 4"},
        {"{\"input\": \"x\"}", "{\"input\": \"z\"}", BLAZE_STATUS_MODEL_INVALID, "kernels[0].arguments[0].input"},
        {"\"block\": [256]", "\"block\": [\"width\"]", BLAZE_STATUS_MODEL_INVALID, "no input has an axis \"width\""},
        {"\"dtype\": \"f32\"", "\"dtype\": \"f31\"", BLAZE_STATUS_MODEL_INVALID, "inputs[0].dtype"},
        {"\"module\"", "\"modules\"", BLAZE_STATUS_MODEL_INVALID, "modules"},
        {"\"outputs\"", "\"weights\": {\"file\": \"none.bin\", \"tensors\": [{\"name\": \"w\", \"dtype\": \"f32\", \"shape\": [1], "
                        "\"offset\": 0}]}, \"outputs\"", BLAZE_STATUS_MODEL_NOT_FOUND, "none.bin"},
        {"\"outputs\"", "\"weights\": {\"file\": \"scale.json\", \"tensors\": [{\"name\": \"w\", \"dtype\": \"f32\", \"shape\": "
                        "[1000000], \"offset\": 0}]}, \"outputs\"", BLAZE_STATUS_MODEL_INVALID, "of the 4000000 that"},
        {"{", "{{", BLAZE_STATUS_MODEL_INVALID, "scale.json"},
    };
    const char *directory = new_directory();
    char manifest[4096], path[256], config[1024];
    snprintf(path, sizeof path, "%s/kernels.ptx", directory);
    copy_file("tests/cuda/kernels.ptx", path);
    snprintf(path, sizeof path, "%s/cut.cubin", directory);
    write_file(path, "\177ELF\2\1\1", 7);
    snprintf(path, sizeof path, "%s/cut.fatbin", directory);
    write_file(path, "\x50\xed\x55\xba\1\0\x10\0\0\1\0\0\0\0\0\0", 16);
    read_text("tests/cuda/scale.json", manifest, sizeof manifest);
    blaze_engine *engine = new_engine(config_of("\"threads\": 1"));
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    snprintf(path, sizeof path, "%s/scale.json", directory);
    snprintf(config, sizeof config, "{\"name\": \"m\", \"backend\": \"cuda\", \"path\": \"%s\"}", path);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char changed[8192];
        const char *at = strstr(manifest, cases[i].from);
        REQUIRE(at);
        snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - manifest), manifest, cases[i].to, at + strlen(cases[i].from));
        write_file(path, changed, strlen(changed));
        blaze_status status = blaze_model_load(engine, config, &model, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].says))
            FAIL("case %zu: %s: %s, not %s: %s", i, blaze_status_name(status), error.message, blaze_status_name(cases[i].status),
                 cases[i].says);
        CHECK_INT(fakecuda_live("module"), 0);
        CHECK_INT(fakecuda_live("allocation"), 0);
    }
    write_file(path, manifest, strlen(manifest));
    struct rig rig = {engine, new_queue(engine, 64), load_model(engine, config)};
    triples(&rig);
    cuda_down(&rig);
    remove_directory(directory);
}

static void options_are_checked(void) {
    static const struct {
        const char *model;
        blaze_status status;
        const char *says;
    } cases[] = {
        {SCALE_WITH("\"devices\": [2]", ""), BLAZE_STATUS_INVALID_CONFIG, "options.devices[0]: there is no device 2: there are 2"},
        {SCALE_WITH("\"devices\": []", ""), BLAZE_STATUS_INVALID_CONFIG, "options.devices"},
        {SCALE_WITH("\"devices\": [0, 0]", ""), BLAZE_STATUS_INVALID_CONFIG, "options.devices[1]"},
        {SCALE_WITH("\"devices\": \"all\"", ""), BLAZE_STATUS_INVALID_CONFIG, "options.devices"},
        {SCALE_WITH("\"graphs\": 1", ""), BLAZE_STATUS_INVALID_CONFIG, "options.graphs"},
        {SCALE_WITH("\"colour\": 1", ""), BLAZE_STATUS_INVALID_CONFIG, "colour"},
        {"{\"name\": \"m\", \"backend\": \"cuda\"}", BLAZE_STATUS_INVALID_CONFIG, "path"},
    };
    blaze_engine *engine = new_engine(config_of("\"threads\": 1"));
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    for (size_t i = 0; i < COUNT(cases); i++) {
        blaze_status status = blaze_model_load(engine, cases[i].model, &model, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].says))
            FAIL("case %zu: %s: %s", i, blaze_status_name(status), error.message);
    }
    CHECK_STATUS(blaze_model_load_memory(engine, "{\"name\": \"m\", \"backend\": \"cuda\"}", "{}", 2, &model, &error), UNSUPPORTED);
    CHECK_TEXT(error.message, "must have a path");
    blaze_engine_destroy(engine);
    nothing_is_left();
}

static void without_a_driver_or_a_device_the_engine_works(void) {
    static const struct {
        const char *driver, *devices, *config, *says;
    } cases[] = {{"/nowhere/libcuda.so.1", "2", "", "/nowhere/libcuda.so.1"},
                 {NULL, "0", "", "CUDA_ERROR_NO_DEVICE (100)"},
                 {"libc.so.6", "2", "", "it has no cuInit"},
                 {NULL, "2", ", \"colour\": 1", "config.colour"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        setenv("FAKECUDA_DEVICES", cases[i].devices, 1);
        blaze_engine *engine = new_engine(config_with(cases[i].driver, cases[i].config, "\"threads\": 1"));
        CHECK_TEXT(json_text(health_text(engine), "plugins[0].error"), cases[i].says);
        blaze_model model = 0;
        blaze_error error = {.status = 0};
        CHECK_STATUS(blaze_model_load(engine, SCALE(""), &model, &error), BACKEND_UNAVAILABLE);
        CHECK_TEXT(error.message, cases[i].says);
        struct rig rig = {engine, new_queue(engine, 64), load_mock(engine, "mock", "", "")};
        still_works(&rig);
        cuda_down(&rig);
    }
    setenv("FAKECUDA_DEVICES", "2", 1);
}

/* As it is configured where there is a GPU. Here there need not be one, nor a driver: then health says what the loader says. */
static void its_name_is_enough(void) {
    blaze_engine *engine = new_engine("{\"plugins\": [\"cuda\"], \"threads\": 1}");
    const char *error = json_text(health_text(engine), "plugins[0].error");
    if (!strcmp(error, "null")) CHECK_JSON(health_text(engine), "plugins[0].backend", "cuda");
    else CHECK_TEXT(error, "libcuda.so.1");
    CHECK_TEXT(json_text(health_text(engine), "plugins[0].file"), "libblaze_cuda.so");
    blaze_engine_destroy(engine);
}

/* Before 12.4 nobody can say how many parameters a kernel takes. What the manifest does not have are zeros. */
static void with_an_old_driver_missing_arguments_are_zeros(void) {
    const char *directory = new_directory();
    char manifest[4096], changed[4096], path[256], config[1024];
    snprintf(path, sizeof path, "%s/kernels.ptx", directory);
    copy_file("tests/cuda/kernels.ptx", path);
    read_text("tests/cuda/scale.json", manifest, sizeof manifest);
    static const char last[] = ", {\"f32\": 3}";
    const char *at = strstr(manifest, last);
    REQUIRE(at);
    snprintf(changed, sizeof changed, "%.*s%s", (int)(at - manifest), manifest, at + strlen(last));
    snprintf(path, sizeof path, "%s/scale.json", directory);
    write_file(path, changed, strlen(changed));
    snprintf(config, sizeof config, "{\"name\": \"m\", \"backend\": \"cuda\", \"path\": \"%s\"}", path);
    blaze_engine *engine = new_engine(config_with("target/fakecuda/libfakecuda_old.so", "", "\"threads\": 1"));
    struct rig rig = {engine, new_queue(engine, 64), load_model(engine, config)};
    submit_simple(&rig, 1);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, OK);
    CHECK_FLOATS(floats(&event, 0), 0, 0, 0, 0);
    blaze_event_release(&event);
    rig.model = load_model(engine, "{\"name\": \"right\", \"backend\": \"cuda\", \"path\": \"tests/cuda/scale.json\"}");
    triples(&rig);
    cuda_down(&rig);
    remove_directory(directory);
}

/* Memory ---------------------------------------------------------------------------------------------------------- */

static void everything_goes_back(void) {
    struct rig rig = cuda_rig("\"threads\": 1", NULL);
    int rounds = getenv("BLAZE_SHORT") ? 10 : 100;
    for (int round = 0; round < rounds; round++) {
        rig.model = load_model(rig.engine, round % 2 ? MODEL("mlp", "") : SCALE(", \"batching\": {\"max_rows\": 8, \"buckets\": [1, 8]}"));
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, rig.model), PATIENCE, &event, NULL), OK);
        blaze_event_release(&event);
        CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
        CHECK_INT(fakecuda_live("module"), 0);
        CHECK_INT(fakecuda_live("exec"), 0);
    }
    CHECK(fakecuda_live("allocation") <= 4); /* what the engine keeps for whoever comes next */
    CHECK(fakecuda_live("stream") <= 4);
    cuda_down(&rig);
}

static void models_leave_a_device_for_others(void) {
    const char *directory = new_directory();
    char path[256], config[1024], text[4096];
    snprintf(path, sizeof path, "%s/kernels.ptx", directory);
    copy_file("tests/cuda/kernels.ptx", path);
    static char weights[600000];
    snprintf(path, sizeof path, "%s/w.bin", directory);
    write_file(path, weights, sizeof weights);
    read_text("tests/cuda/scale.json", text, sizeof text);
    char *at = strstr(text, "\"inputs\"");
    REQUIRE(at);
    char manifest[8192];
    snprintf(manifest, sizeof manifest, "%.*s\"weights\": {\"file\": \"w.bin\", \"tensors\": [{\"name\": \"w\", \"dtype\": \"u8\", "
             "\"shape\": [600000], \"offset\": 0}]}, %s", (int)(at - text), text, at);
    snprintf(path, sizeof path, "%s/large.json", directory);
    write_file(path, manifest, strlen(manifest));
    struct rig rig = cuda_rig("\"threads\": 1, \"memory\": {\"devices\": {\"cuda:0\": 1500000, \"cuda:1\": 500000}}", NULL);
    blaze_model models[3];
    for (int i = 0; i < 3; i++) {
        snprintf(config, sizeof config, "{\"name\": \"m%d\", \"backend\": \"cuda\", \"path\": \"%s\"}", i, path);
        rig.model = models[i] = load_model(rig.engine, config);
        triples(&rig);
        CHECK(fakecuda_live("bytes") <= 1500000);
    }
    CHECK(!is_resident(rig.engine, "m0") || !is_resident(rig.engine, "m1"));
    for (int i = 0; i < 3; i++) { /* and come back */
        rig.model = models[i];
        triples(&rig);
    }
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    snprintf(config, sizeof config, "{\"name\": \"other\", \"backend\": \"cuda\", \"path\": \"%s\", \"options\": {\"devices\": [1]}}", path);
    CHECK_STATUS(blaze_model_load(rig.engine, config, &model, &error), OVER_BUDGET);
    CHECK_TEXT(error.message, "device 1 has no room for 600000 bytes of weights");
    cuda_down(&rig);
    remove_directory(directory);
}

/* Memory of a device with floats in it, which a host would make with CUDA itself: here in the plugin's context. */
static uint64_t on_device(int device, const float *data, size_t count) {
    uint64_t address = fakecuda_allocate(device, count * sizeof *data);
    REQUIRE(address);
    fakecuda_write(address, data, count * sizeof *data);
    return address;
}

static void check_device_floats(uint64_t address, float a, float b, float c, float d) {
    float values[4] = {0};
    fakecuda_read(address, values, sizeof values);
    CHECK_FLOATS(values, a, b, c, d);
}

static blaze_request *far_call(struct call *call, blaze_model model, uint64_t x, int device) {
    simple_call(call, model)->flags = BLAZE_REQUEST_BORROW;
    call->input.memory = BLAZE_MEMORY_CUDA, call->input.device = device, call->input.data = (void *)(uintptr_t)x;
    return &call->request;
}

static void tensors_on_a_device_stay_there(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE_WITH("\"devices\": [1, 0]", ""));
    triples(&rig);
    for (int device = 0; device < 2; device++) {
        uint64_t x = on_device(device, ones_to_four, 4), y = on_device(device, ones_to_four, 4);
        for (int wants = 0; wants < 3; wants++) { /* the output on the host; where the request says; on the device */
            struct call call;
            blaze_tensor output = BLAZE_TENSOR_INIT;
            far_call(&call, rig.model, x, device);
            if (wants == 1) {
                output.dtype = BLAZE_DTYPE_F32, output.data = (void *)(uintptr_t)y, output.size_bytes = 4 * sizeof(float);
                output.shape = call.shape, output.rank = 2;
                output.memory = BLAZE_MEMORY_CUDA, output.device = device;
                call.request.outputs = &output, call.request.outputs_count = 1;
            }
            if (wants == 2) call.request.flags |= BLAZE_REQUEST_DEVICE_OUTPUTS;
            fakecuda_clear();
            submit(&rig, &call.request);
            blaze_event event = next_event(rig.queue);
            if (event.status) FAIL("device %d, output %d: %s", device, wants, event.text);
            CHECK_INT(event.flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED, BLAZE_EVENT_FLAG_BUFFERS_RELEASED);
            CHECK_INT(fakecuda_count("cuMemcpyHtoDAsync_v2"), 0);
            CHECK_INT(fakecuda_count("cuMemcpyDtoHAsync_v2"), wants == 0);
            blaze_tensor view = BLAZE_TENSOR_INIT;
            CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
            CHECK_INT(view.memory, wants ? BLAZE_MEMORY_CUDA : BLAZE_MEMORY_HOST);
            CHECK_INT(view.device, wants ? device : 0);
            if (wants) check_device_floats((uint64_t)(uintptr_t)view.data, 3, 6, 9, 12);
            else CHECK_FLOATS(floats(&event, 0), 3, 6, 9, 12);
            blaze_event_release(&event);
        }
        fakecuda_free(x), fakecuda_free(y);
    }
    cuda_down(&rig);
}

/* Addresses that are none, too little memory, another device's: refused before a kernel sees them, which would cost the device. */
static void wrong_addresses_are_refused(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE_WITH("\"devices\": [0, 1]", ""));
    triples(&rig);
    uint64_t other = on_device(1, ones_to_four, 4), small = fakecuda_allocate(0, 8);
    const struct {
        uint64_t address;
        const char *says;
    } cases[] = {{0x1234, "is no memory of a CUDA device"},
                 {(uint64_t)(uintptr_t)&rig, "is no memory of a CUDA device"},
                 {other, "is memory of device 1, not 0"},
                 {small, "has not 16 bytes"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call call;
        submit(&rig, far_call(&call, rig.model, cases[i].address, 0));
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, INVALID_SHAPE);
        CHECK_TEXT(event.text, cases[i].says);
        CHECK_TEXT(event.text, "input \"x\"");
        blaze_event_release(&event);
    }
    triples(&rig);
    fakecuda_free(other), fakecuda_free(small);
    cuda_down(&rig);
}

/* Outputs on a device are gone with it. What the engine has kept of its memory is not handed out again. */
static void outputs_on_a_device_after_it_was_lost(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE(""));
    for (int round = 0; round < 3; round++) {
        uint64_t until = blaze_now_ns() + PATIENCE;
        for (;;) {
            struct call call;
            blaze_event event = BLAZE_EVENT_INIT;
            blaze_error error = {.status = 0};
            simple_call(&call, rig.model)->flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
            blaze_status status = blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error);
            blaze_tensor view = BLAZE_TENSOR_INIT;
            if (!status) {
                CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
                check_device_floats((uint64_t)(uintptr_t)view.data, 3, 6, 9, 12);
                if (round < 2) fakecuda_lose(0, 700); /* the output is lost, and is released after that */
            }
            blaze_event_release(&event);
            if (!status || blaze_now_ns() > until) {
                CHECK_STATUS(status, OK);
                break;
            }
            CHECK_STATUS(status, DEVICE_LOST);
            sleep_ns(10 * MILLISECOND);
        }
    }
    cuda_down(&rig);
}

/* Failures -------------------------------------------------------------------------------------------------------- */

/* Asks a model that multiplies by three. Returns how that went; the message is empty unless it says why it did not go well. */
static blaze_status ask(blaze_engine *engine, blaze_model model, uint32_t flags, char *message, size_t size) {
    struct call call;
    blaze_event event = BLAZE_EVENT_INIT;
    blaze_error error = {.status = 0};
    simple_call(&call, model)->flags = flags;
    blaze_status status = blaze_infer(engine, &call.request, PATIENCE, &event, &error);
    if (status) {
        snprintf(message, size, "%s", error.message);
    } else {
        blaze_tensor view = BLAZE_TENSOR_INIT;
        CHECK_STATUS(blaze_event_output(&event, 0, &view), OK);
        if (view.memory == BLAZE_MEMORY_HOST) CHECK_FLOATS(view.data, 3, 6, 9, 12);
    }
    blaze_event_release(&event);
    return status;
}

/* Everything that a model's life consists of, once: also the loss of its device, and its return with another model. Returns the
 * first failure. */
static blaze_status live_once(const char *config, const char *second, char *message, size_t size) {
    blaze_error error = {.status = 0};
    blaze_engine *engine = NULL;
    blaze_model model = 0;
    blaze_status status = blaze_engine_create(config_of("\"threads\": 1, \"memory\": {\"idle_ms\": 1}"), &engine, &error);
    REQUIRE(status == BLAZE_STATUS_OK);
    *message = 0;
    status = blaze_model_load(engine, config, &model, &error);
    if (status) snprintf(message, size, "%s", error.message);
    if (!status) status = ask(engine, model, 0, message, size);
    if (!status) status = ask(engine, model, BLAZE_REQUEST_DEVICE_OUTPUTS, message, size);
    if (!status) {
        char lost[1100];
        fakecuda_lose(0, 719);
        blaze_status said = ask(engine, model, 0, lost, sizeof lost);
        if (said != BLAZE_STATUS_DEVICE_LOST && (!said || !fakecuda_has_failed())) FAIL("%s: %s", blaze_status_name(said), lost);
        status = blaze_model_load(engine, second, &model, &error);
        if (status) snprintf(message, size, "%s", error.message);
        if (!status) status = ask(engine, model, 0, message, size);
    }
    health_text(engine);
    blaze_engine_destroy(engine);
    return status;
}

/* Each function fails, at its first calls, with an error that costs no more than what it was to do, and with one that costs the
 * device; and with one that nobody has heard of. */
static void whatever_fails_is_told_and_leaves_nothing(void) {
#define ONCE "\"backend\": \"cuda\", \"path\": \"tests/cuda/scale.json\", \"recovery\": false, " \
             "\"batching\": {\"max_rows\": 8, \"buckets\": [1, 8]}}"
    static const char *const first = "{\"name\": \"m\", " ONCE, *const second = "{\"name\": \"n\", " ONCE;
    int most = getenv("BLAZE_SHORT") ? 1 : 4, tried = 0;
    char message[1100];
    static const unsigned codes[] = {1, 719, 4242};
    for (int index = 0; fakecuda_function(index); index++) {
        const char *function = fakecuda_function(index);
        for (int after = 1; after <= most; after++)
            for (size_t k = 0; k < COUNT(codes); k++) {
                fakecuda_fail(function, after, codes[k]);
                blaze_status status = live_once(first, second, message, sizeof message);
                int has_failed = fakecuda_has_failed();
                fakecuda_fail(NULL, 0, 0);
                tried += has_failed;
                if (status == BLAZE_STATUS_INTERNAL) FAIL("%s, call %d, code %u: %s", function, after, codes[k], message);
                if (status && !has_failed) FAIL("%s never failed, but: %s", function, message);
                /* Of host memory the engine says no more than that there is none; the log says why. */
                const char *said = strcmp(function, "cuMemHostRegister_v2") ? "cu" : "cannot allocate";
                if (status && !strstr(message, function) && !strstr(message, said))
                    FAIL("%s, call %d, code %u: the message does not say so: %s", function, after, codes[k], message);
                if (has_failed && !strcmp(function, "cuDevicePrimaryCtxRelease_v2")) fakecuda_end(); /* that was its last chance */
                nothing_is_left();
            }
    }
    CHECK_INT(tried >= (most > 1 ? 300 : 100), 1);
    CHECK_STATUS(live_once(first, second, message, sizeof message), OK);
    nothing_is_left();
}

static const char *device_state(blaze_engine *engine) {
    return json_text(health_text(engine), "backends[name=cuda].report.devices[0].state");
}

/* Waits until the model works. */
static void until_it_works(struct rig *rig) {
    uint64_t until = blaze_now_ns() + PATIENCE;
    for (;;) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_infer(rig->engine, simple_call(&call, rig->model), PATIENCE, &event, &error);
        if (!status) status = event.status;
        if (!status) CHECK_FLOATS(floats(&event, 0), 3, 6, 9, 12);
        blaze_event_release(&event);
        if (!status || blaze_now_ns() > until) {
            CHECK_STATUS(status, OK);
            return;
        }
        sleep_ns(10 * MILLISECOND);
    }
}

/* Counts warnings that say something. */
struct heard {
    const char *says;
    atomic_int times;
};

static void hear(void *user, const blaze_log_record *record) {
    struct heard *heard = user;
    if (strstr(record->message, heard->says)) atomic_fetch_add(&heard->times, 1);
}

static void what_cannot_be_captured_is_launched(void) {
    static const struct {
        const char *function;
        unsigned code;
    } cases[] = {{"cuStreamBeginCapture_v2", 1}, {"cuStreamEndCapture", 901}, {"cuGraphInstantiateWithFlags", 801},
                 {"cuGraphInstantiateWithFlags", 2}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct heard heard = {.says = "run without a graph"};
        struct rig rig = cuda_rig("\"threads\": 1, \"log\": {\"target\": \"callback\"}", NULL);
        CHECK_STATUS(blaze_log_set_callback(rig.engine, hear, &heard, NULL), OK);
        fakecuda_fail(cases[i].function, 0, cases[i].code);
        fakecuda_clear();
        rig.model = load_model(rig.engine, SCALE(", \"batching\": {\"max_rows\": 16, \"buckets\": [1, 4, 16]}"));
        triples(&rig);
        CHECK(fakecuda_has_failed());
        CHECK(fakecuda_count("cuLaunchKernel") > 0);
        CHECK_INT(fakecuda_count("cuGraphLaunch"), 0);
        fakecuda_fail(NULL, 0, 0);
        rig_down(&rig);
        CHECK_INT(heard.times, 1);
        nothing_is_left();
    }
}

static void memory_need_not_be_registered(void) {
    struct heard heard = {.says = "not registered with the driver"};
    struct rig rig = cuda_rig("\"threads\": 1, \"log\": {\"target\": \"callback\"}", NULL);
    CHECK_STATUS(blaze_log_set_callback(rig.engine, hear, &heard, NULL), OK);
    fakecuda_fail("cuMemHostRegister_v2", 0, 801);
    fakecuda_clear();
    rig.model = load_model(rig.engine, SCALE(", \"batching\": {\"max_rows\": 16, \"buckets\": [1, 16]}"));
    triples(&rig);
    CHECK(fakecuda_count("cuMemHostRegister_v2") > 1);
    CHECK(fakecuda_count("pageable_copies") > 0);
    CHECK_INT(fakecuda_live("registration"), 0);
    fakecuda_fail(NULL, 0, 0);
    rig_down(&rig);
    CHECK_INT(heard.times, 1);
    nothing_is_left();
}

/* What the driver has already it is told to let go of before the memory is freed. */
static void memory_that_is_registered_already_is_let_go(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE(""));
    triples(&rig);
    fakecuda_fail("cuMemHostRegister_v2", 0, 712);
    fakecuda_lose(0, 719);
    until_it_works(&rig);
    CHECK(fakecuda_has_failed());
    fakecuda_fail(NULL, 0, 0);
    fakecuda_clear();
    rig_down(&rig);
    CHECK(fakecuda_count("cuMemHostUnregister") > 0);
    nothing_is_left();
}

static void a_lost_device_comes_back(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE(", \"batching\": {\"max_rows\": 8, \"buckets\": [1, 8]}"));
    triples(&rig);
    static const unsigned codes[] = {719, 700, 214, 999, 911};
    CHECK_INT(health_number(rig.engine, "backends[name=cuda].report.devices[0].losses"), 0);
    submit_simple(&rig, 1);
    blaze_event kept = next_event(rig.queue); /* its outputs are in pinned memory */
    for (size_t i = 0; i < COUNT(codes); i++) {
        fakecuda_fail("cuDevicePrimaryCtxReset_v2", 0, 1); /* not yet */
        fakecuda_lose(0, codes[i]);
        submit_simple(&rig, 1);
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, DEVICE_LOST);
        char number[16];
        snprintf(number, sizeof number, "(%u)", codes[i]);
        if (codes[i] != 911) CHECK_TEXT(event.text, number);
        CHECK_TEXT(event.text, i == 4 ? "error 911" : "CUDA_ERROR_");
        CHECK_TEXT(event.text, "device 0 (Fake GPU (no GPU)) is lost");
        blaze_event_release(&event);
        CHECK_TEXT(device_state(rig.engine), "lost");
        has_metric(rig.engine, "blaze_device_ready{backend=\"cuda\",device=\"0\"} 0\n");
        fakecuda_fail(NULL, 0, 0);
        until_it_works(&rig);
        CHECK_TEXT(device_state(rig.engine), "ready");
        CHECK_INT(health_number(rig.engine, "backends[name=cuda].report.devices[0].losses"), i + 1);
        CHECK_FLOATS(floats(&kept, 0), 3, 6, 9, 12);
    }
    CHECK(fakecuda_live("registration") > 0); /* it is registered anew */
    blaze_event_release(&kept);
    cuda_down(&rig);
}

/* Outputs of before are still in the host's hands, at the addresses that the device would use again, and it is too small for both. */
static void a_device_that_is_back_has_no_room_until_all_is_given_back(void) {
    enum { ROWS = 65536 };
    static float x[ROWS * 4];
    setenv("FAKECUDA_MEMORY", "2900000", 1);
    int has_waited = 0;
    for (int round = 0; round < 50 && !has_waited; round++) { /* whether they are the same addresses depends on who is first */
        struct rig rig = cuda_rig("\"threads\": 1, \"memory\": {\"devices\": {\"cuda:0\": 100000000}}", SCALE(""));
        struct call call;
        blaze_event kept = BLAZE_EVENT_INIT, event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        triples(&rig);
        fakecuda_lose(0, 719); /* the first context has other addresses than those after a proof */
        until_it_works(&rig);
        call_with(&call, rig.model, x, ROWS, 4)->flags = BLAZE_REQUEST_DEVICE_OUTPUTS;
        CHECK_STATUS(blaze_infer(rig.engine, &call.request, PATIENCE, &kept, &error), OK);
        fakecuda_lose(0, 719);
        until_it_works(&rig);
        blaze_status status = blaze_infer(rig.engine, &call.request, PATIENCE, &event, &error);
        if (status) {
            CHECK_STATUS(status, DEVICE_LOST);
            CHECK_TEXT(error.message, "what was on it is not all given back yet");
            has_waited = 1;
        }
        blaze_event_release(&event);
        blaze_event_release(&kept);
        until_it_works(&rig);
        cuda_down(&rig);
    }
    CHECK_INT(has_waited, 1);
    unsetenv("FAKECUDA_MEMORY");
}

/* It is reset, but does not keep what is written: it stays away. */
static void a_device_that_fails_its_proof_stays_away(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE(""));
    triples(&rig);
    fakecuda_fail("cuMemsetD8Async", 0, 1);
    fakecuda_lose(0, 719);
    submit_simple(&rig, 1);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, DEVICE_LOST);
    blaze_event_release(&event);
    uint64_t until = blaze_now_ns() + PATIENCE;
    while (!fakecuda_has_failed() && blaze_now_ns() < until) sleep_ns(10 * MILLISECOND);
    CHECK(fakecuda_has_failed());
    CHECK_TEXT(device_state(rig.engine), "lost");
    blaze_model model = 0;
    blaze_error error = {.status = 0};
    CHECK_STATUS(blaze_model_load(rig.engine, "{\"name\": \"n\", \"backend\": \"cuda\", \"path\": \"tests/cuda/add.json\"}", &model,
                                  &error), DEVICE_LOST);
    CHECK_TEXT(error.message, "cuMemsetD8Async");
    fakecuda_fail(NULL, 0, 0);
    until_it_works(&rig);
    cuda_down(&rig);
}

/* Not the driver's word, but a kernel that writes where nothing is. The one of a single row does not. */
static void a_kernel_that_breaks_the_device_is_told_of(void) {
    struct rig rig = cuda_rig("\"threads\": 1", MODEL("crash", ", \"batching\": {\"max_rows\": 2}"));
    static const float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct call call;
    for (int round = 0; round < 3; round++) {
        uint64_t until = blaze_now_ns() + PATIENCE;
        for (int works = 0; !works && blaze_now_ns() < until; sleep_ns(10 * MILLISECOND)) {
            submit_simple(&rig, 1);
            blaze_event event = next_event(rig.queue);
            works = event.status == BLAZE_STATUS_OK;
            if (works) CHECK_FLOATS(floats(&event, 0), 1, 2, 3, 4);
            else CHECK_STATUS(event.status, DEVICE_LOST);
            blaze_event_release(&event);
        }
        submit(&rig, call_with(&call, rig.model, x, 2, 4));
        blaze_event event = next_event(rig.queue);
        CHECK_STATUS(event.status, DEVICE_LOST);
        CHECK_TEXT(event.text, "cuEventQuery: CUDA_ERROR_ILLEGAL_ADDRESS (700)");
        blaze_event_release(&event);
    }
    cuda_down(&rig);
}

/* One model's kernel costs all models the device; the others are rebuilt too, also another engine's. */
static void all_models_of_a_device_share_its_fate(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE("")), other = cuda_rig("\"threads\": 1", SCALE(""));
    triples(&rig), triples(&other);
    fakecuda_fail("cuLaunchKernel", 1, 719);
    submit_simple(&rig, 1);
    blaze_event event = next_event(rig.queue);
    CHECK_STATUS(event.status, DEVICE_LOST);
    CHECK_TEXT(event.text, "kernels[0] \"scale\": device 0");
    blaze_event_release(&event);
    until_it_works(&rig);
    until_it_works(&other);
    until_it_works(&rig);
    CHECK_INT(fakecuda_count("cuDevicePrimaryCtxReset_v2") > 0, 1);
    rig_down(&rig);
    cuda_down(&other);
}

/* One of two devices is lost, and stays away: the other does it all. Then it is back. */
static void the_other_device_goes_on(void) {
    for (int lost = 0; lost < 2; lost++) {
        struct rig rig = cuda_rig("\"threads\": 1", SCALE_WITH("\"devices\": [0, 1]", ""));
        triples(&rig);
        fakecuda_fail("cuDevicePrimaryCtxReset_v2", 0, 999);
        fakecuda_lose(lost, 719);
        CHECK_TEXT(json_text(health_text(rig.engine), "backends[name=cuda].report.devices[0].state"), lost ? "ready" : "lost");
        until_it_works(&rig);
        uint64_t until = blaze_now_ns() + PATIENCE;
        while (!fakecuda_has_failed() && blaze_now_ns() < until) until_it_works(&rig);
        until_it_works(&rig);
        triples(&rig);
        fakecuda_fail(NULL, 0, 0);
        CHECK_STATUS(blaze_model_unload(rig.engine, rig.model, NULL, NULL), OK);
        rig.model = load_model(rig.engine, SCALE_WITH("\"devices\": [0, 1]", ""));
        triples(&rig);
        for (int i = 0; i < 2; i++) {
            char path[80];
            snprintf(path, sizeof path, "backends[name=cuda].report.devices[%d].state", i);
            CHECK_JSON(health_text(rig.engine), path, "ready");
        }
        cuda_down(&rig);
    }
}

static void a_route_goes_to_the_processor_meanwhile(void) {
    struct rig rig = cuda_rig("\"threads\": 1", SCALE(""));
    load_mock(rig.engine, "slow", "", "");
    blaze_model route = new_route(rig.engine, "{\"name\": \"r\", \"breaker\": {\"slow_factor\": 0}, \"targets\": "
                                              "[{\"model\": \"m\"}, {\"model\": \"slow\", \"tier\": 1}]}");
    struct rig routed = {rig.engine, rig.queue, route};
    triples(&routed);
    fakecuda_fail("cuDevicePrimaryCtxReset_v2", 0, 999);
    fakecuda_lose(0, 719);
    for (int i = 0; i < 20; i++) still_works(&routed); /* not one fails: 3, 5, 7, 9 are the other target's */
    CHECK_TEXT(device_state(rig.engine), "lost");
    fakecuda_fail(NULL, 0, 0);
    uint64_t until = blaze_now_ns() + PATIENCE;
    for (int in_a_row = 0; in_a_row < 3 && blaze_now_ns() < until; sleep_ns(10 * MILLISECOND)) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        CHECK_STATUS(blaze_infer(rig.engine, simple_call(&call, route), PATIENCE, &event, NULL), OK);
        const float *y = floats(&event, 0);
        in_a_row = y && y[1] == 6 ? in_a_row + 1 : 0;
        blaze_event_release(&event);
    }
    triples(&routed);
    cuda_down(&rig);
}

/* Losses come while several threads ask, and models are loaded and unloaded. */
struct storm {
    struct rig *rig;
    atomic_int stop;
    atomic_uint ended_well, lost;
};

static void *asks(void *pointer) {
    struct storm *storm = pointer;
    while (!atomic_load(&storm->stop)) {
        struct call call;
        blaze_event event = BLAZE_EVENT_INIT;
        blaze_error error = {.status = 0};
        blaze_status status = blaze_infer(storm->rig->engine, simple_call(&call, storm->rig->model), PATIENCE, &event, &error);
        if (!status) status = event.status;
        if (!status) atomic_fetch_add(&storm->ended_well, 1);
        else if (status == BLAZE_STATUS_DEVICE_LOST) atomic_fetch_add(&storm->lost, 1);
        else FAIL("%s: %s", blaze_status_name(status), error.message);
        blaze_event_release(&event);
        if (status) sleep_ns(MILLISECOND);
    }
    return NULL;
}

static void losses_under_load_harm_nobody(void) {
    struct rig rig = cuda_rig("\"threads\": null", SCALE_WITH("\"devices\": [0, 1]", ", \"lanes\": 3, \"batching\": {\"max_rows\": 4, "
                                                                                  "\"buckets\": [1, 4]}"));
    struct storm storm = {.rig = &rig};
    pthread_t threads[3];
    fakecuda_kernel_ns(MILLISECOND / 5);
    for (size_t i = 0; i < COUNT(threads); i++) REQUIRE(!pthread_create(&threads[i], NULL, asks, &storm));
    int losses = getenv("BLAZE_SHORT") ? 3 : 12;
    uint64_t until = blaze_now_ns() + PATIENCE;
    for (int i = 0; i < losses; i++) {
        unsigned before = atomic_load(&storm.ended_well);
        if (i == losses - 1) /* at least one has been noticed, or there is nothing to see */
            while (!atomic_load(&storm.lost) && blaze_now_ns() < until) sleep_ns(MILLISECOND);
        while (atomic_load(&storm.ended_well) < before + 5 && blaze_now_ns() < until) sleep_ns(MILLISECOND);
        fakecuda_lose(i % 2, i % 3 ? 719 : 700);
    }
    fakecuda_kernel_ns(0);
    until_it_works(&rig);
    atomic_store(&storm.stop, 1);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    CHECK(atomic_load(&storm.lost) > 0);
    until_it_works(&rig);
    cuda_down(&rig);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(devices_are_told_of_by_health),
        TEST(kernels_compute_and_requests_are_joined),
        TEST(kernels_follow_one_another),
        TEST(two_inputs_are_two_copies),
        TEST(buckets_are_one_launch),
        TEST(a_graph_is_only_for_the_memory_that_it_was_made_for),
        TEST(an_engine_without_threads_runs_them_too),
        TEST(lanes_have_streams_of_their_own),
        TEST(runs_are_spread_over_devices),
        TEST(what_is_cancelled_leaves_no_copies_behind),
        TEST(manifests_are_checked),
        TEST(options_are_checked),
        TEST(without_a_driver_or_a_device_the_engine_works),
        TEST(its_name_is_enough),
        TEST(with_an_old_driver_missing_arguments_are_zeros),
        TEST(everything_goes_back),
        TEST(models_leave_a_device_for_others),
        TEST(tensors_on_a_device_stay_there),
        TEST(wrong_addresses_are_refused),
        TEST(outputs_on_a_device_after_it_was_lost),
        TEST(whatever_fails_is_told_and_leaves_nothing),
        TEST(what_cannot_be_captured_is_launched),
        TEST(memory_need_not_be_registered),
        TEST(memory_that_is_registered_already_is_let_go),
        TEST(a_lost_device_comes_back),
        TEST(a_device_that_is_back_has_no_room_until_all_is_given_back),
        TEST(a_device_that_fails_its_proof_stays_away),
        TEST(a_kernel_that_breaks_the_device_is_told_of),
        TEST(all_models_of_a_device_share_its_fate),
        TEST(the_other_device_goes_on),
        TEST(a_route_goes_to_the_processor_meanwhile),
        TEST(losses_under_load_harm_nobody),
    };
    setenv("FAKECUDA_DEVICES", "2", 1);
    return RUN_TESTS(tests, argc, argv);
}
