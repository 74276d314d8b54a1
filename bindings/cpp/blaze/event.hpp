// Events: what comes back.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_EVENT_HPP
#define BLAZE_EVENT_HPP

#include "tensor.hpp"

namespace blaze {

/// A submitted piece of work. Never 0, and never used again for another one.
using ticket = blaze_ticket;

/// What an event says.
enum class event_kind : blaze_event_kind {
    none = 0,
    done = BLAZE_EVENT_DONE,
    progress = BLAZE_EVENT_PROGRESS,
    token = BLAZE_EVENT_TOKEN,
    buffers_released = BLAZE_EVENT_BUFFERS_RELEASED,
};

/// Where a request's time went.
struct timing {
    /// From submit until a lane took the request.
    std::chrono::nanoseconds queued;
    /// From there until the run started.
    std::chrono::nanoseconds batched;
    /// Inside the backend.
    std::chrono::nanoseconds computed;
    /// Rows in the batch, the request's own among them.
    std::uint32_t batch_rows;
};

/// Something that happened to a ticket, with the outputs of a request that ended well. It gives them back when it is
/// destroyed, assigned to, or handed to a queue again; also after its engine is gone. Exactly one blaze_event, so that the
/// library writes into arrays of it. Move-only. Threads: as an int.
class event {
public:
    /// Nothing has happened yet.
    event() noexcept = default;
    /// Takes over what the other one holds.
    event(event &&other) noexcept : c_(other.c_) { other.forget(); }
    /// Releases what this one holds, and takes over what the other one holds.
    event &operator=(event &&other) noexcept {
        if (this != &other) {
            release();
            c_ = other.c_;
            other.forget();
        }
        return *this;
    }
    event(const event &) = delete;
    event &operator=(const event &) = delete;
    ~event() { release(); }

    /// Gives back what it holds, outputs and text, before its end. Doing so twice does nothing more.
    void release() noexcept {
        if (c_.internal) blaze_event_release(&c_);
    }

    /// What it says.
    event_kind kind() const noexcept { return static_cast<event_kind>(c_.kind); }
    /// What the ticket came to.
    status code() const noexcept { return static_cast<status>(c_.status); }
    /// Whether the ticket ended well.
    bool ok() const noexcept { return c_.status == BLAZE_STATUS_OK; }
    /// Whether another event for this ticket will follow.
    bool more() const noexcept { return (c_.flags & BLAZE_EVENT_FLAG_MORE) != 0; }
    /// Whether borrowed inputs and output buffers are the host's again.
    bool buffers_released() const noexcept { return (c_.flags & BLAZE_EVENT_FLAG_BUFFERS_RELEASED) != 0; }
    /// Whose it is.
    ticket id() const noexcept { return c_.ticket; }
    /// The request's.
    std::uint64_t user_data() const noexcept { return c_.user_data; }
    /// The model that ran, or that was loaded: for engine::handle.
    blaze_model model_id() const noexcept { return c_.model; }
    /// What went wrong; a receipt or report; the stage of a load. Valid until the event is released.
    std::string_view text() const noexcept {
        return c_.text ? std::string_view(c_.text, c_.text_bytes) : std::string_view();
    }
    /// From 0 to 1, in events of progress.
    float progress() const noexcept { return c_.progress; }
    /// Where the time went.
    blaze::timing timing() const noexcept {
        const auto ns = [](std::uint64_t count) { return std::chrono::nanoseconds(static_cast<std::int64_t>(count)); };
        return {ns(c_.timing.queued_ns), ns(c_.timing.batched_ns), ns(c_.timing.computed_ns), c_.timing.batch_rows};
    }

    /// How many outputs there are: 0 unless it ended well.
    std::uint32_t outputs_count() const noexcept { return c_.outputs_count; }

    /// A view of an output, in the order of the model; see blaze_event_output.
    result<tensor_view> try_output(std::uint32_t index) const {
        blaze_tensor view = BLAZE_TENSOR_INIT;
        const blaze_status code = blaze_event_output(&c_, index, &view);
        if (code != BLAZE_STATUS_OK) return detail::to_error(code, "the event has no such output");
        return tensor_view(view);
    }
    /// The elements of an output; INVALID_DTYPE if it has another type.
    template <class T> result<span<const T>> try_values(std::uint32_t index) const {
        blaze_tensor view = BLAZE_TENSOR_INIT;
        const blaze_status code = blaze_event_output(&c_, index, &view);
        if (code != BLAZE_STATUS_OK) return detail::to_error(code, "the event has no such output");
        return detail::values_of<T>(view);
    }
#if BLAZE_HAS_EXCEPTIONS
    /// As try_output; throws.
    tensor_view output(std::uint32_t index) const { return try_output(index).value(); }
    /// As try_values; throws.
    template <class T> span<const T> values(std::uint32_t index) const { return try_values<T>(index).value(); }
#endif

    /// Why the ticket did not end well, for an event that says so.
    error failure() const {
        return {code(), text().empty() ? std::string(to_string(code())) : std::string(text()), {}};
    }

    /// The C struct. What it holds stays this event's.
    const blaze_event &c() const noexcept { return c_; }
    /// The C struct, for C functions that write to it. It must hold nothing, or have been released.
    blaze_event *out() noexcept { return &c_; }

private:
    void forget() noexcept {
        c_.internal = nullptr;
        c_.text = nullptr;
        c_.text_bytes = 0;
        c_.outputs_count = 0;
    }

    blaze_event c_ = BLAZE_EVENT_INIT;
};

static_assert(sizeof(event) == sizeof(blaze_event) && alignof(event) == alignof(blaze_event),
              "the library writes events next to each other");

/// What a request came to in the end: its event, or why it has none.
using response = result<event>;

/// The response that a terminal event is.
inline response to_response(event ended) {
    if (ended.ok()) return response(std::move(ended));
    return ended.failure();
}

} // namespace blaze

#endif
