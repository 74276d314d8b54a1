// A thread pool that classifies handwritten digits: four workers share one engine, and Blaze joins what they ask for at the
// same time into batches. Each worker first waits for futures, a window of them at a time; then it works with callbacks,
// which submit the next request by themselves, so that no worker waits for a single one.
//
// usage: thread_pool [MODEL [TEST-SET]]
#include <blaze.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <deque>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int workers = 4, in_flight = 32, repeats = 10;

struct digit {
    std::array<float, 64> pixels;
    unsigned label;
};

/// Records of 64 pixel bytes (0 to 16) and a label; the pixels are scaled to 0..1, as the model was trained.
std::vector<digit> read_digits(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<digit> digits;
    std::array<char, 65> record;
    while (file.read(record.data(), record.size())) {
        digit one;
        for (std::size_t i = 0; i < 64; i++) one.pixels[i] = static_cast<float>(record[i]) / 16.0f;
        one.label = static_cast<unsigned char>(record[64]);
        digits.push_back(one);
    }
    if (digits.empty()) throw std::runtime_error(path + ": there are no digits");
    return digits;
}

unsigned best_class(const blaze::event &answer) {
    const blaze::span<const float> probabilities = answer.values<float>(0);
    return static_cast<unsigned>(std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin());
}

/// What the workers share.
struct pool {
    const std::vector<digit> &digits;
    blaze::model model;
    blaze::dispatcher &dispatcher;
    std::atomic<std::size_t> next{0}, right{0}, failed{0};

    std::size_t total() const { return digits.size() * repeats; }
    /// The next piece of work, for whichever worker comes first; NULL: there is none left.
    const digit *take() {
        const std::size_t mine = next++;
        return mine < total() ? &digits[mine % digits.size()] : nullptr;
    }
    blaze::request ask(const digit &one) const { return blaze::request(model).input(one.pixels, {1, 1, 8, 8}); }
};

void work_with_futures(pool &all) {
    struct asked {
        const digit *what;
        std::future<blaze::event> answer;
    };
    std::deque<asked> window;
    for (const digit *one = all.take(); one || !window.empty();) {
        if (one && window.size() < in_flight) {
            window.push_back({one, all.dispatcher.submit(all.ask(*one))});
            one = all.take();
        } else {
            all.right += best_class(window.front().answer.get()) == window.front().what->label; /* throws if it failed */
            window.pop_front();
        }
    }
}

/// Asks for one digit, and in the answer's callback for the next one: so many chains of these are so many in flight.
struct chain {
    pool *all;
    const digit *one;
    std::atomic<int> *running;

    static void next(pool &all, std::atomic<int> &running) {
        const digit *one = all.take();
        if (one && all.dispatcher.try_submit(all.ask(*one), chain{&all, one, &running})) return;
        all.failed += one != nullptr;
        running--;
    }
    void operator()(blaze::response answer) const {
        if (answer) all->right += best_class(*answer) == one->label;
        else all->failed++;
        next(*all, *running);
    }
};

void work_with_callbacks(pool &all, std::atomic<int> &running) {
    for (int i = 0; i < in_flight; i++) chain::next(all, running);
}

/// Runs `work` in every worker and prints how fast that was. The share of digits that were right.
template <class Work> double measure(const char *name, pool &all, const Work &work) {
    const auto started = blaze::clock::now();
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; i++) threads.emplace_back(work);
    for (std::thread &thread : threads) thread.join();
    while (all.dispatcher.in_flight() > 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    const double seconds = std::chrono::duration<double>(blaze::clock::now() - started).count();
    const double right = static_cast<double>(all.right) / static_cast<double>(all.total());
    std::printf("%-9s  %7.0f requests/s from %d workers, %d in flight each, accuracy %.4f, %zu failed\n", name,
                static_cast<double>(all.total()) / seconds, workers, in_flight, right, all.failed.load());
    return all.failed == 0 ? right : 0;
}

} // namespace

int main(int argc, char **argv) {
    const std::string path = argc > 1 ? argv[1] : "models/digits/digits.onnx";
    try {
        const std::vector<digit> digits = read_digits(argc > 2 ? argv[2] : "models/digits/digits-test.bin");
        const blaze::engine engine = blaze::engine::create();
        const blaze::model model = engine.load(R"({"name": "digits", "path": ")" + path + R"("})");
        blaze::dispatcher dispatcher = blaze::dispatcher::create(engine, workers * in_flight);

        pool futures{digits, model, dispatcher};
        const double first = measure("futures", futures, [&] { work_with_futures(futures); });
        pool callbacks{digits, model, dispatcher};
        std::atomic<int> running{workers * in_flight};
        const double second = measure("callbacks", callbacks, [&] { work_with_callbacks(callbacks, running); });

        const blaze_metrics_info metrics = engine.metrics();
        std::printf("%.1f rows per batch, p99 %.0f us\n",
                    static_cast<double>(metrics.rows) / static_cast<double>(metrics.batches),
                    static_cast<double>(metrics.duration.p99_ns) / 1e3);
        return first >= 0.95 && second >= 0.95 && running == 0 ? 0 : 1;
    } catch (const std::exception &why) {
        std::fprintf(stderr, "%s\n", why.what());
        return 1;
    }
}
