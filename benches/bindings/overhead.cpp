// What a request costs from C++ over what it costs from C: both in this process, on the same engine and model, in
// alternating rounds. The ratio is the median of the rounds' ratios, which a machine that is slower for a while does not
// change; of the processor time of the calling thread, which other programs disturb less than they do the clock, and of
// the time that passes. The C side is written as a C host would write it: descriptions on the stack, made anew for every
// request, as the C++ side does.
//
// usage: overhead [--quick]
#include <blaze.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace {

constexpr float input[4] = {0.1f, 0.2f, 0.3f, 0.4f};
float seen = 0; /* every output is read */

[[noreturn]] void fail(const char *what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

struct c_request {
    blaze_request request = BLAZE_REQUEST_INIT;
    blaze_tensor tensor = BLAZE_TENSOR_INIT;
    std::int64_t shape[2] = {1, 4};

    explicit c_request(blaze_model model) {
        tensor.dtype = BLAZE_DTYPE_F32;
        tensor.shape = shape;
        tensor.rank = 2;
        tensor.data = const_cast<float *>(input);
        tensor.size_bytes = sizeof input;
        request.model = model;
        request.inputs = &tensor;
        request.inputs_count = 1;
    }
};

void read_output(blaze_event &event) {
    blaze_tensor view = BLAZE_TENSOR_INIT;
    if (event.status != BLAZE_STATUS_OK || blaze_event_output(&event, 0, &view) != BLAZE_STATUS_OK) fail("no answer");
    seen += static_cast<const float *>(view.data)[0];
    blaze_event_release(&event);
}

void read_output(const blaze::event &event) { seen += event.values<float>(0)[0]; }

struct rig {
    blaze::engine engine = blaze::engine::create();
    blaze::model model = engine.load(R"({"name": "tiny", "path": "tests/models/tiny.onnx"})");
    blaze::queue queue = engine.queue(1024);
    blaze_error error = {};
};

void infer_c(rig &on, int requests) {
    for (int i = 0; i < requests; i++) {
        const c_request call(on.model.id());
        blaze_event event = BLAZE_EVENT_INIT;
        if (blaze_infer(on.engine.c(), &call.request, UINT64_MAX, &event, &on.error) != BLAZE_STATUS_OK) fail("infer");
        read_output(event);
    }
}

void infer_cpp(rig &on, int requests) {
    for (int i = 0; i < requests; i++) {
        const blaze::event answer = on.model.infer(blaze::tensor(input, {1, 4}));
        read_output(answer);
    }
}

template <int Window> void submit_c(rig &on, int requests) {
    blaze_event events[64];
    for (int sent = 0, done = 0; done < requests;) {
        for (; sent < requests && sent - done < Window; sent++) {
            const c_request call(on.model.id());
            if (blaze_submit(on.engine.c(), &call.request, on.queue.c(), nullptr, &on.error) != BLAZE_STATUS_OK) fail("submit");
        }
        const std::uint32_t count = blaze_wait(on.queue.c(), events, sizeof events[0], 64, UINT64_MAX);
        for (std::uint32_t i = 0; i < count; i++) read_output(events[i]);
        done += static_cast<int>(count);
    }
}

template <int Window> void submit_cpp(rig &on, int requests) {
    blaze::event events[64];
    for (int sent = 0, done = 0; done < requests;) {
        for (; sent < requests && sent - done < Window; sent++)
            on.queue.submit(blaze::request(on.model).input(input, {1, 4}));
        const std::size_t count = on.queue.wait(events);
        for (std::size_t i = 0; i < count; i++) {
            if (!events[i].ok()) fail("no answer");
            read_output(events[i]);
            events[i].release();
        }
        done += static_cast<int>(count);
    }
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

struct cost {
    double cpu_ns, wall_ns;
};

double thread_cpu_ns() {
    timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return static_cast<double>(used.tv_sec) * 1e9 + static_cast<double>(used.tv_nsec);
}

cost of_each(rig &on, void (*run)(rig &, int), int requests) {
    const std::uint64_t started = blaze_now_ns();
    const double used = thread_cpu_ns();
    run(on, requests);
    return {(thread_cpu_ns() - used) / requests, static_cast<double>(blaze_now_ns() - started) / requests};
}

void compare(rig &on, const char *name, void (*c)(rig &, int), void (*cpp)(rig &, int), int rounds, double seconds) {
    const int requests = std::max(1, static_cast<int>(seconds * 1e9 / of_each(on, c, 2000).wall_ns));
    std::vector<double> c_cpu, cpp_cpu, cpu_ratio, c_wall, cpp_wall, wall_ratio;
    for (int round = 0; round < rounds; round++) {
        cost took[2] = {};
        for (int turn = 0; turn < 2; turn++) { /* each is first in half of the rounds */
            const int which = (round + turn) % 2;
            took[which] = of_each(on, which ? cpp : c, requests);
        }
        c_cpu.push_back(took[0].cpu_ns);
        cpp_cpu.push_back(took[1].cpu_ns);
        cpu_ratio.push_back(took[1].cpu_ns / took[0].cpu_ns);
        c_wall.push_back(took[0].wall_ns);
        cpp_wall.push_back(took[1].wall_ns);
        wall_ratio.push_back(took[1].wall_ns / took[0].wall_ns);
    }
    std::printf("%-28s %8.0f ns %8.0f ns %7.3f %11.0f ns %8.0f ns %7.3f\n", name, median(c_cpu), median(cpp_cpu),
                median(cpu_ratio), median(c_wall), median(cpp_wall), median(wall_ratio));
    std::fflush(stdout);
}

} // namespace

int main(int argc, char **argv) {
    const bool quick = argc > 1 && !std::strcmp(argv[1], "--quick");
    const int rounds = quick ? 7 : 41;
    const double seconds = quick ? 0.02 : 0.05;
    rig on;
    std::printf("%-28s %11s %11s %7s %14s %11s %7s\n", "per request", "C, CPU", "C++, CPU", "ratio", "C, time", "C++, time",
                "ratio");
    compare(on, "infer", infer_c, infer_cpp, rounds, seconds);
    compare(on, "submit and wait, 1 in flight", submit_c<1>, submit_cpp<1>, rounds, seconds);
    compare(on, "submit and wait, 64", submit_c<64>, submit_cpp<64>, rounds, seconds);
    return seen > 0 ? 0 : 1;
}
