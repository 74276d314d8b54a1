// What everything of one engine shares, and completion queues.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_QUEUE_HPP
#define BLAZE_QUEUE_HPP

#include "request.hpp"

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace blaze {

/// A line of the log. What it views is valid during the call only.
struct log_record {
    /// BLAZE_LOG_ERROR to BLAZE_LOG_TRACE.
    blaze_log_level level;
    /// Wall-clock time, UTC.
    std::chrono::system_clock::time_point time;
    /// Which part of the engine speaks.
    std::string_view module;
    std::string_view message;
    /// A JSON object with what the message is about; empty: nothing.
    std::string_view fields;
};

/// What a strategy picks for: the targets that can be asked, at least one, and the request's own numbers.
class route_choice {
public:
    /// Of the C struct, during the call that it came with.
    explicit route_choice(const blaze_route_choice &choice) noexcept : c_(choice) {}

    /// How many targets there are.
    std::uint32_t size() const noexcept { return c_.targets_count; }
    /// A target, from 0 to size() - 1.
    const blaze_route_target &operator[](std::uint32_t at) const noexcept {
        const auto *bytes = reinterpret_cast<const unsigned char *>(c_.targets);
        return *reinterpret_cast<const blaze_route_target *>(bytes + std::size_t{at} * c_.target_stride);
    }
    std::uint64_t session() const noexcept { return c_.session_id; }
    std::uint64_t tenant() const noexcept { return c_.tenant_id; }
    std::uint64_t key() const noexcept { return c_.route_key; }
    /// The C struct.
    const blaze_route_choice &c() const noexcept { return c_; }

private:
    const blaze_route_choice &c_;
};

/// Receives lines of the log; see blaze_log_function. What it throws is dropped.
using log_function = std::function<void(const log_record &)>;
/// Picks a target: returns its place; see blaze_strategy_pick. If it throws, it is the first.
using strategy = std::function<std::uint32_t(const route_choice &)>;

namespace detail {

/// Calls a function of the host's from one of the library's, through which no exception may pass.
template <class Call, class Otherwise> auto guarded(const Call &call, Otherwise otherwise) noexcept {
#if BLAZE_HAS_EXCEPTIONS
    try {
        return call();
    } catch (...) {
        return static_cast<decltype(call())>(otherwise);
    }
#else
    static_cast<void>(otherwise);
    return call();
#endif
}

/// An engine, shared by everything that needs it. The last one destroys it.
class engine_state {
public:
    engine_state() = default;
    engine_state(const engine_state &) = delete;
    engine_state &operator=(const engine_state &) = delete;
    ~engine_state() {
        blaze_engine_destroy(handle);
        for (blaze_queue *queue : abandoned_) blaze_queue_destroy(queue);
    }

    result<void> set_log(log_function function) {
        std::unique_ptr<log_function> next = function ? std::make_unique<log_function>(std::move(function)) : nullptr;
        const std::lock_guard<std::mutex> lock(mutex_);
        reason why;
        const blaze_status code = blaze_log_set_callback(handle, next ? &on_log : nullptr, next.get(), why.out());
        if (code == BLAZE_STATUS_OK) log_.swap(next); /* the one before is not called any more */
        return why.check(code);
    }

    result<void> add_strategy(cstring name, strategy pick) {
        auto kept = std::make_unique<strategy>(std::move(pick));
        const std::lock_guard<std::mutex> lock(mutex_);
        strategies_.reserve(strategies_.size() + 1);
        reason why;
        const blaze_status code =
            blaze_strategy_register(handle, name.c_str(), *kept ? &on_pick : nullptr, kept.get(), why.out());
        if (code == BLAZE_STATUS_OK) strategies_.push_back(std::move(kept));
        return why.check(code);
    }

    result<blaze_queue *> new_queue(std::size_t capacity) {
        const std::lock_guard<std::mutex> lock(mutex_);
        sweep();
        abandoned_.reserve(++queues_); /* so that a destructor does not need memory */
        blaze_queue *made = nullptr;
        reason why;
        const blaze_status code = blaze_queue_create(handle, to_u32(capacity), &made, why.out());
        if (code == BLAZE_STATUS_OK) return made;
        queues_--;
        return why.of(code);
    }

    /// Destroys a queue, now or, while requests are to complete in it, later.
    void drop_queue(blaze_queue *queue) noexcept {
        const std::lock_guard<std::mutex> lock(mutex_);
        abandoned_.push_back(queue);
        sweep();
    }

    blaze_engine *handle = nullptr;

private:
    static void on_log(void *user, const blaze_log_record *line) noexcept {
        const auto text = [](const char *of) { return of ? std::string_view(of) : std::string_view(); };
        const auto since_1970 = std::chrono::nanoseconds(static_cast<std::int64_t>(line->time_ns));
        const auto time = std::chrono::duration_cast<std::chrono::system_clock::duration>(since_1970);
        const log_record record = {line->level, std::chrono::system_clock::time_point(time), text(line->module),
                                   text(line->message), text(line->fields)};
        guarded([&] { return (*static_cast<log_function *>(user))(record), 0; }, 0);
    }

    static std::uint32_t on_pick(void *user, const blaze_route_choice *choice) noexcept {
        return guarded([&] { return (*static_cast<strategy *>(user))(route_choice(*choice)); }, 0u);
    }

    /// Destroys those abandoned queues that nothing will come to any more. Their events go unseen.
    void sweep() noexcept {
        for (std::size_t i = 0; i < abandoned_.size();) {
            event unseen;
            while (blaze_poll(abandoned_[i], unseen.out(), sizeof(event), 1) > 0) unseen.release();
            if (blaze_queue_destroy(abandoned_[i]) == BLAZE_STATUS_OK) {
                abandoned_[i] = abandoned_.back();
                abandoned_.pop_back();
                queues_--;
            } else {
                i++;
            }
        }
    }

    std::mutex mutex_;
    std::unique_ptr<log_function> log_;
    std::vector<std::unique_ptr<strategy>> strategies_;
    std::vector<blaze_queue *> abandoned_;
    std::size_t queues_ = 0;
};

using shared_engine = std::shared_ptr<engine_state>;

inline blaze_engine *handle_of(const shared_engine &engine) noexcept { return engine ? engine->handle : nullptr; }

inline response infer(const shared_engine &engine, const request &work, std::chrono::nanoseconds timeout) {
    reason why;
    event ended;
    const blaze_status code = work.with_c(
        [&](const blaze_request *c) {
            return blaze_infer(handle_of(engine), c, to_ns(timeout), ended.out(), why.out());
        },
        why.out());
    if (code != BLAZE_STATUS_OK) return why.of(code);
    return response(std::move(ended));
}

} // namespace detail

/// A completion queue, where events wait for the program. Made by engine::queue. Any thread may submit to it; one thread
/// at a time may poll or wait.
///
/// When it is destroyed its events go unseen: those that wait in it, and those of requests that are under way. Requests
/// go on then, so what they borrow must stay; shutting the engine down first ends them.
class queue {
public:
    /// No queue.
    queue() noexcept = default;
    queue(queue &&other) noexcept : engine_(std::move(other.engine_)), handle_(std::exchange(other.handle_, nullptr)) {}
    queue &operator=(queue &&other) noexcept {
        if (this != &other) {
            close();
            engine_ = std::move(other.engine_);
            handle_ = std::exchange(other.handle_, nullptr);
        }
        return *this;
    }
    queue(const queue &) = delete;
    queue &operator=(const queue &) = delete;
    ~queue() { close(); }

    /// Takes up to `events.size()` events without waiting, and says how many; what was in `events` is released.
    /// See blaze_poll.
    std::size_t poll(span<event> events) noexcept {
        for (event &one : events) one.release();
        return events.empty() ? 0 : blaze_poll(handle_, events.data()->out(), sizeof(event), room(events));
    }
    /// Takes events, and waits for the first one for at most `timeout` if there is none. See blaze_wait, also for when it
    /// returns 0 before its time.
    std::size_t wait(span<event> events, std::chrono::nanoseconds timeout = forever) noexcept {
        for (event &one : events) one.release();
        return events.empty() ? 0
                              : blaze_wait(handle_, events.data()->out(), sizeof(event), room(events),
                                           detail::to_ns(timeout));
    }
    /// Takes one event without waiting; says whether there was one.
    bool poll(event &one) noexcept { return poll(span<event>(&one, 1)) == 1; }
    /// Takes one event, and waits for it for at most `timeout`; says whether one came.
    bool wait(event &one, std::chrono::nanoseconds timeout = forever) noexcept {
        return wait(span<event>(&one, 1), timeout) == 1;
    }
    /// Has the thread that waits return with 0 at once, or else the next one that does. See blaze_queue_wake.
    void wake() noexcept {
        if (handle_) blaze_queue_wake(handle_);
    }

    /// A descriptor that is readable while events wait, for epoll and the like. The queue's own: see blaze_queue_fd.
    result<int> try_fd() {
        int fd = -1;
        const blaze_status code = blaze_queue_fd(handle_, &fd);
        if (code != BLAZE_STATUS_OK) return detail::to_error(code, "the queue has no descriptor");
        return fd;
    }

    /// Submits a request whose events come here, with its user_data. Never blocks. See blaze_submit.
    result<ticket> try_submit(const request &work) {
        detail::reason why;
        ticket id = 0;
        const blaze_status code = work.with_c(
            [&](const blaze_request *c) {
                return blaze_submit(detail::handle_of(engine_), c, handle_, &id, why.out());
            },
            why.out());
        if (code != BLAZE_STATUS_OK) return why.of(code);
        return id;
    }
#if BLAZE_HAS_EXCEPTIONS
    /// As try_fd; throws.
    int fd() { return try_fd().value(); }
    /// As try_submit; throws.
    ticket submit(const request &work) { return try_submit(work).value(); }
#endif

    /// The C handle, which stays this queue's; NULL if there is no queue.
    blaze_queue *c() const noexcept { return handle_; }

private:
    friend class engine;
    queue(detail::shared_engine engine, blaze_queue *handle) noexcept : engine_(std::move(engine)), handle_(handle) {}

    static std::uint32_t room(span<event> events) noexcept { return detail::to_u32(events.size()); }
    void close() noexcept {
        if (handle_) engine_->drop_queue(std::exchange(handle_, nullptr));
        engine_.reset();
    }

    detail::shared_engine engine_;
    blaze_queue *handle_ = nullptr;
};

} // namespace blaze

#endif
