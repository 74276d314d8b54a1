// Operations: what a dispatcher completes, and the machinery under it, which is no part of the interface.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_OPERATIONS_HPP
#define BLAZE_OPERATIONS_HPP

#include "engine.hpp"

#include <atomic>
#include <condition_variable>
#include <thread>

namespace blaze {

/// Something that a dispatcher completes: exactly once for every submit or load that was accepted. For those who want to
/// keep it in a place of their own; see dispatcher::try_submit.
class operation {
public:
    /// The response is there, and all buffers that were lent are the caller's again. The operation may be destroyed, or
    /// submitted again, in here.
    virtual void complete(response &&answer) noexcept = 0;
    /// A load with "progress": true has come further.
    virtual void progress(const event &) noexcept {}

protected:
    operation() = default;
    operation(const operation &) = default;
    operation &operator=(const operation &) = default;
    ~operation() = default;
};

namespace detail {

/// An operation that a slot has in it.
class slot_operation : public operation {
public:
    virtual void destroy() noexcept = 0;

protected:
    ~slot_operation() = default;
};

/// Room for an operation with a callable of about this size; larger ones are on the heap.
inline constexpr std::size_t slot_bytes = 96;

/// What the user_data of a dispatcher's requests points to.
struct slot {
    /// `ticket` says so when the operation is complete before its submit has returned.
    static constexpr ticket completed = UINT64_MAX;

    operation *work = nullptr;
    slot_operation *own = nullptr;
    /// 0 until submit has returned. The later of submit's return and the completion frees the slot.
    std::atomic<ticket> id{0};
    slot *next_free = nullptr;
    /// The terminal event, while buffers are still lent.
    event ended;
    alignas(std::max_align_t) unsigned char room[slot_bytes];
};

template <class Call> class call_operation final : public slot_operation {
public:
    explicit call_operation(Call call) : call_(std::move(call)) {}
    void complete(response &&answer) noexcept override { call_(std::move(answer)); }
    void destroy() noexcept override { this->~call_operation(); }

private:
    Call call_;
};

/// A callable that has no room in a slot.
template <class Call> class boxed {
public:
    explicit boxed(Call call) : call_(std::make_unique<Call>(std::move(call))) {}
    void operator()(response &&answer) { (*call_)(std::move(answer)); }

private:
    std::unique_ptr<Call> call_;
};

/// Puts an operation that calls `call` into a slot.
template <class Call> void install(slot &into, Call call) {
    using small = call_operation<Call>;
    if constexpr (sizeof(small) <= slot_bytes && alignof(small) <= alignof(std::max_align_t)) {
        into.own = new (into.room) small(std::move(call));
        into.work = into.own;
    } else {
        install(into, boxed<Call>(std::move(call)));
    }
}

/// A queue, and the operations that wait for its events. Shared by the dispatcher and its thread, so that it outlives a
/// dispatcher that is destroyed by one of its own callbacks.
class operations {
public:
    operations(shared_engine engine, queue events) : engine_(std::move(engine)), events_(std::move(events)) {}

    /// Fills a slot, starts the work with its address, and says what the ticket is.
    template <class Fill, class Start> result<ticket> start(const Fill &fill, const Start &begin) {
        if (closing_.load()) return to_error(BLAZE_STATUS_SHUT_DOWN, "the dispatcher is being destroyed");
        slot *mine = acquire();
        fill(*mine);
        ticket id = 0;
        reason why;
        const blaze_status code = begin(handle_of(engine_), events_.c(), reinterpret_cast<std::uintptr_t>(mine), &id,
                                        why.out());
        if (code != BLAZE_STATUS_OK) {
            if (mine->own) mine->own->destroy();
            release(mine);
            return why.of(code);
        }
        if (mine->id.exchange(id) == slot::completed) {
            release(mine);
            if (closing_.load()) events_.wake();
        }
        return id;
    }

    std::size_t in_flight() const noexcept { return live_.load(); }
    bool closing() const noexcept { return closing_.load(); }

    /// Completes what is there, until `budget` has passed, but at least one. Returns how many events it has taken.
    std::size_t poll(std::chrono::nanoseconds budget) {
        if (closing()) return 0;
        const bool endless = budget == forever;
        const std::uint64_t now = endless ? 0 : blaze_now_ns(), left = to_ns(budget);
        const std::uint64_t until = left > UINT64_MAX - now ? UINT64_MAX : now + left;
        std::size_t taken = 0;
        const std::thread::id outer = polling_.exchange(std::this_thread::get_id()); /* a callback may poll, too */
        while (!closing()) {
            if (next_ == count_) {
                next_ = 0;
                count_ = events_.poll(batch_);
                if (count_ == 0) break;
            }
            take(batch_[next_++]);
            taken++;
            if (!endless && blaze_now_ns() >= until) break;
        }
        polling_.store(outer);
        if (closing() && outer == std::thread::id()) drain();
        return taken;
    }

    /// The dispatcher's own thread.
    void run() {
        polling_.store(std::this_thread::get_id());
        while (!closing()) {
            count_ = events_.wait(batch_);
            for (next_ = 0; next_ < count_;) take(batch_[next_++]);
            if (count_ == 0 && !closing()) rest();
        }
        drain();
    }

    /// Says that no more work comes. True if somebody is in poll() or run() on this very thread, further up the stack:
    /// they drain then.
    bool close() noexcept {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            closing_.store(true);
        }
        closed_.notify_all();
        events_.wake();
        return polling_.load() == std::this_thread::get_id();
    }

    /// Gives up what is under way, and completes all of it.
    void drain() {
        while (next_ < count_) take(batch_[next_++]);
        cancel_all();
        while (live_.load() > 0) {
            count_ = events_.wait(batch_);
            for (next_ = 0; next_ < count_;) take(batch_[next_++]);
        }
    }

private:
    static constexpr std::size_t chunk = 64;

    /// An engine that is shut down and has nothing outstanding never makes a queue wait. Nothing can come any more then.
    void rest() {
        std::unique_lock<std::mutex> lock(mutex_);
        blaze_health_info health = BLAZE_HEALTH_INFO_INIT;
        blaze_health(handle_of(engine_), &health);
        if (health.accepting == 0) closed_.wait(lock, [this] { return closing_.load(); });
    }

    void take(event &said) {
        slot *whose = reinterpret_cast<slot *>(static_cast<std::uintptr_t>(said.user_data()));
        event held = std::move(said);
        if (!whose) return; /* of an unload, say, that was not started here */
        switch (held.kind()) {
        case event_kind::done:
            if (held.more()) whose->ended = std::move(held);
            else complete(*whose, std::move(held));
            break;
        case event_kind::buffers_released: complete(*whose, std::move(whose->ended)); break;
        case event_kind::progress: whose->work->progress(held); break;
        default: break;
        }
    }

    void complete(slot &whose, event ended) {
        slot_operation *own = std::exchange(whose.own, nullptr);
        whose.work->complete(to_response(std::move(ended)));
        if (own) own->destroy();
        if (whose.id.exchange(slot::completed) != 0) release(&whose);
    }

    slot *acquire() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!free_) {
            slots_.push_back(std::make_unique<slot[]>(chunk));
            for (std::size_t i = 0; i < chunk; i++) {
                slots_.back()[i].next_free = free_;
                free_ = &slots_.back()[i];
            }
        }
        slot *mine = free_;
        free_ = mine->next_free;
        mine->id.store(0);
        live_.fetch_add(1);
        return mine;
    }

    void release(slot *unused) noexcept {
        unused->own = nullptr;
        const std::lock_guard<std::mutex> lock(mutex_);
        unused->next_free = free_;
        free_ = unused;
        live_.fetch_sub(1);
    }

    /// Tickets that have ended already are no longer there to be cancelled, whatever has become of their slots.
    void cancel_all() noexcept {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const std::unique_ptr<slot[]> &some : slots_) {
            for (std::size_t i = 0; i < chunk; i++) {
                const ticket id = some[i].id.load();
                if (id != 0 && id != slot::completed) blaze_cancel(handle_of(engine_), id);
            }
        }
    }

    shared_engine engine_;
    queue events_;
    std::atomic<bool> closing_{false};
    std::atomic<std::size_t> live_{0};
    std::atomic<std::thread::id> polling_{std::thread::id()};
    std::mutex mutex_;
    std::condition_variable closed_;
    std::vector<std::unique_ptr<slot[]>> slots_;
    slot *free_ = nullptr;
    event batch_[chunk];
    std::size_t next_ = 0, count_ = 0;
};

} // namespace detail
} // namespace blaze

#endif
