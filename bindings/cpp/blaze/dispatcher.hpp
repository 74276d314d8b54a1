// Dispatchers: futures, callbacks and coroutines over a completion queue.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_DISPATCHER_HPP
#define BLAZE_DISPATCHER_HPP

#include "operations.hpp"

#include <future>
#include <system_error>
#if defined(__cpp_impl_coroutine) && __has_include(<coroutine>)
#include <coroutine>
#endif

/// 1 where dispatchers can be awaited: under C++20.
#ifdef __cpp_lib_coroutine
#define BLAZE_HAS_COROUTINES 1
#else
#define BLAZE_HAS_COROUTINES 0
#endif
#if defined(__GNUC__)
/// Frames may be gone before await_suspend returns, so nothing of it may be in them.
#define BLAZE_NOINLINE __attribute__((noinline))
#else
#define BLAZE_NOINLINE
#endif

namespace blaze {

#if BLAZE_HAS_COROUTINES
/// What co_await takes from a dispatcher. The coroutine goes on where the dispatcher completes: on its thread, or in poll().
/// It must not be destroyed while it waits here.
template <class Start, class Finish> class [[nodiscard]] awaitable final : operation {
public:
    awaitable(std::shared_ptr<detail::operations> all, Start start, Finish finish)
        : all_(std::move(all)), start_(std::move(start)), finish_(std::move(finish)) {}

    bool await_ready() const noexcept { return false; }
    BLAZE_NOINLINE bool await_suspend(std::coroutine_handle<> waiter) {
        waiter_ = waiter;
        const std::shared_ptr<detail::operations> all = all_;
        const Start start = start_;
        if (!all) {
            answer_.emplace(detail::to_error(BLAZE_STATUS_NULL_POINTER, "there is no dispatcher"));
            return false;
        }
        result<ticket> begun = all->start([this](detail::slot &into) { into.work = this; }, start);
        if (begun) return true; /* this may be gone */
        answer_.emplace(std::move(begun).error());
        return false;
    }
    auto await_resume() { return finish_(*std::move(answer_)); }

private:
    void complete(response &&answer) noexcept override {
        answer_.emplace(std::move(answer));
        waiter_.resume();
    }

    std::shared_ptr<detail::operations> all_;
    Start start_;
    Finish finish_;
    std::coroutine_handle<> waiter_;
    std::optional<response> answer_;
};
#endif

/// A completion queue with somebody who looks after it: requests that are submitted here are answered by a callback, a
/// std::future, an operation of the caller's, or where a coroutine waits. A request is complete when its terminal event is
/// there, and with borrowed inputs and output buffers also when those have been released.
///
/// create() gives it a thread, on which everything completes. polled() does without: everything completes in poll(), on the
/// thread that calls it, such as a game's main thread. Callbacks and coroutines must not throw out of it, and should be
/// quick: others wait for them. They may submit.
///
/// Submitting makes nothing on the heap once as many requests were in flight as ever are, but for futures' state and for
/// callables of more than about 80 bytes. A request's user_data is the dispatcher's own.
///
/// When it is destroyed, what is under way is cancelled and completes, as CANCELLED if not otherwise; that blocks until
/// backends have let go of buffers that were lent. In a callback of its own it may be destroyed, too: what is under way
/// completes after the callback then.
class dispatcher {
public:
    /// No dispatcher.
    dispatcher() noexcept = default;
    dispatcher(dispatcher &&other) noexcept = default;
    dispatcher &operator=(dispatcher &&other) noexcept {
        if (this != &other) {
            close();
            engine_ = std::move(other.engine_);
            all_ = std::move(other.all_);
            thread_ = std::move(other.thread_);
        }
        return *this;
    }
    dispatcher(const dispatcher &) = delete;
    dispatcher &operator=(const dispatcher &) = delete;
    ~dispatcher() { close(); }

    /// A dispatcher with a thread of its own, for `capacity` requests in flight; borrowing ones count twice.
    /// Fails as engine::try_queue does; OUT_OF_MEMORY if there is no thread to be had.
    static result<dispatcher> try_create(const engine &from, std::size_t capacity = 1024) {
        result<dispatcher> made = try_polled(from, capacity);
        if (!made) return made;
        const auto run = [all = made->all_] { all->run(); };
#if BLAZE_HAS_EXCEPTIONS
        try {
            made->thread_ = std::thread(run);
        } catch (const std::system_error &) {
            return detail::to_error(BLAZE_STATUS_OUT_OF_MEMORY, "the system has no thread for the dispatcher");
        }
#else
        made->thread_ = std::thread(run);
#endif
        return made;
    }
    /// A dispatcher without a thread: see poll().
    static result<dispatcher> try_polled(const engine &from, std::size_t capacity = 1024) {
        result<queue> events = from.try_queue(capacity);
        if (!events) return std::move(events).error();
        dispatcher made;
        made.engine_ = from.state_;
        made.all_ = std::make_shared<detail::operations>(from.state_, *std::move(events));
        return made;
    }

    /// Completes on this thread what there is to complete, until `budget` has passed, but at least one, so that whoever
    /// polls gets on; never waits. Returns how many events it has taken. For polled dispatchers; with a thread it does
    /// nothing. Threads: one at a time.
    std::size_t poll(std::chrono::nanoseconds budget = forever) {
        const std::shared_ptr<detail::operations> all = all_; /* a callback may destroy this */
        return all && !thread_.joinable() ? all->poll(budget) : 0;
    }

    /// Submits a request, and has `callback` called with its response: void(blaze::response). Never blocks.
    /// See blaze_submit.
    template <class Callback, class = std::enable_if_t<std::is_invocable_v<std::decay_t<Callback> &, response>>>
    result<ticket> try_submit(const request &work, Callback &&callback) {
        return start(
            [&](detail::slot &into) {
                detail::install<std::decay_t<Callback>>(into, std::forward<Callback>(callback));
            },
            submitting{&work});
    }
    /// Submits a request, and has an operation of the caller's completed, which must live until then.
    result<ticket> try_submit(const request &work, operation &completes) {
        return start([&](detail::slot &into) { into.work = &completes; }, submitting{&work});
    }
    /// Submits a request, and returns a future of its response. `id`, if it is not NULL, receives the ticket.
    /// To wait on the thread that polls a polled dispatcher waits for ever.
    result<std::future<response>> try_submit(const request &work, ticket *id = nullptr) {
        std::promise<response> promise;
        std::future<response> future = promise.get_future();
        auto fulfil = [kept = std::move(promise)](response &&answer) mutable { kept.set_value(std::move(answer)); };
        result<ticket> begun = try_submit(work, std::move(fulfil));
        if (!begun) return std::move(begun).error();
        if (id) *id = *begun;
        return future;
    }

    /// Loads a model in the background, and has `callback` called with it: void(blaze::result<blaze::model>).
    /// See blaze_model_load_async.
    template <class Callback, class = std::enable_if_t<std::is_invocable_v<std::decay_t<Callback> &, result<model>>>>
    result<ticket> try_load(cstring json, Callback &&callback) {
        auto finish = [loaded = to_model{engine_}, call = std::decay_t<Callback>(std::forward<Callback>(callback))](
                          response &&answer) mutable { call(loaded(std::move(answer))); };
        return start([&](detail::slot &into) { detail::install(into, std::move(finish)); }, loading{json});
    }
    /// Loads a model in the background, and has an operation of the caller's completed and told of progress.
    result<ticket> try_load(cstring json, operation &completes) {
        return start([&](detail::slot &into) { into.work = &completes; }, loading{json});
    }

#if BLAZE_HAS_EXCEPTIONS
    /// As try_create; throws.
    static dispatcher create(const engine &from, std::size_t capacity = 1024) { return try_create(from, capacity).value(); }
    /// As try_polled; throws.
    static dispatcher polled(const engine &from, std::size_t capacity = 1024) { return try_polled(from, capacity).value(); }
    /// As try_submit; throws what kept it from being submitted.
    template <class Callback, class = std::enable_if_t<std::is_invocable_v<std::decay_t<Callback> &, response>>>
    ticket submit(const request &work, Callback &&callback) {
        return try_submit(work, std::forward<Callback>(callback)).value();
    }
    /// As try_submit; throws what kept it from being submitted.
    ticket submit(const request &work, operation &completes) { return try_submit(work, completes).value(); }
    /// As try_submit, with a future of the event, which throws what the request came to if that is no success.
    std::future<event> submit(const request &work, ticket *id = nullptr) {
        std::promise<event> promise;
        std::future<event> future = promise.get_future();
        auto fulfil = [kept = std::move(promise)](response &&answer) mutable {
            if (answer) kept.set_value(*std::move(answer));
            else kept.set_exception(std::make_exception_ptr(exception(std::move(answer).error())));
        };
        const ticket begun = try_submit(work, std::move(fulfil)).value();
        if (id) *id = begun;
        return future;
    }
    /// As try_load; throws what kept it from being begun.
    template <class Callback, class = std::enable_if_t<std::is_invocable_v<std::decay_t<Callback> &, result<model>>>>
    ticket load(cstring json, Callback &&callback) {
        return try_load(json, std::forward<Callback>(callback)).value();
    }
    /// As try_load; throws what kept it from being begun.
    ticket load(cstring json, operation &completes) { return try_load(json, completes).value(); }
#endif

#if BLAZE_HAS_COROUTINES
    /// co_await gives the blaze::response. `work` must live until then. (GCC 12 compiles no braced list within an expression
    /// that is awaited: put the request together before.)
    auto try_run(const request &work) {
        return awaitable(all_, submitting{&work}, [](response &&answer) { return response(std::move(answer)); });
    }
    /// co_await gives the blaze::result<blaze::model>. `json` must live until then.
    auto try_bring(cstring json) { return awaitable(all_, loading{json}, to_model{engine_}); }
#if BLAZE_HAS_EXCEPTIONS
    /// co_await gives the blaze::event; throws. `work` must live until then.
    auto run(const request &work) {
        return awaitable(all_, submitting{&work}, [](response &&answer) { return std::move(answer).value(); });
    }
    /// co_await gives the blaze::model; throws. `json` must live until then.
    auto bring(cstring json) {
        return awaitable(all_, loading{json},
                         [to = to_model{engine_}](response &&answer) { return to(std::move(answer)).value(); });
    }
#endif
#endif

    /// Asks for a request or a load to be given up; false: there was nothing left to cancel. It completes all the same.
    bool cancel(ticket work) const noexcept { return blaze_cancel(detail::handle_of(engine_), work) == BLAZE_STATUS_OK; }
    /// How many requests and loads are not complete yet.
    std::size_t in_flight() const noexcept { return all_ ? all_->in_flight() : 0; }

private:
    struct submitting {
        const request *work;

        blaze_status operator()(blaze_engine *engine, blaze_queue *events, std::uint64_t data, ticket *id,
                                blaze_error *why) const {
            return work->with_c(
                [&](blaze_request *c) {
                    c->user_data = data;
                    return blaze_submit(engine, c, events, id, why);
                },
                why);
        }
    };
    struct loading {
        cstring json;

        blaze_status operator()(blaze_engine *engine, blaze_queue *events, std::uint64_t data, ticket *id,
                                blaze_error *why) const {
            return blaze_model_load_async(engine, json.c_str(), events, data, id, why);
        }
    };
    struct to_model {
        detail::shared_engine engine;

        result<model> operator()(response &&answer) const {
            if (!answer) return std::move(answer).error();
            return model(engine, answer->model_id());
        }
    };

    template <class Fill, class Start> result<ticket> start(const Fill &fill, const Start &begin) {
        if (!all_) return detail::to_error(BLAZE_STATUS_NULL_POINTER, "there is no dispatcher");
        return all_->start(fill, begin);
    }

    void close() noexcept {
        if (all_) {
            const bool inside = all_->close();
            if (inside && thread_.joinable()) thread_.detach();
            else if (thread_.joinable()) thread_.join();
            else if (!inside) all_->drain();
        }
        all_.reset();
        engine_.reset();
    }

    detail::shared_engine engine_;
    std::shared_ptr<detail::operations> all_;
    std::thread thread_;
};

} // namespace blaze

#endif
