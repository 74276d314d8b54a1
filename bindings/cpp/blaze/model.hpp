// Models and routes.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_MODEL_HPP
#define BLAZE_MODEL_HPP

#include "queue.hpp"

namespace blaze {

/// A loaded model, or a route: a number, and the engine that it belongs to. Copies mean the same model, and keep the engine
/// alive, not the model: that is in the engine until it is unloaded. A stale one is NOT_FOUND.
class model {
public:
    /// No model.
    model() noexcept = default;

    /// Its number in C; 0: no model.
    blaze_model id() const noexcept { return id_; }
    /// Whether it was ever a model.
    explicit operator bool() const noexcept { return id_ != 0; }

    /// Runs one request and waits for its end, for at most `timeout`. Blocks. See blaze_infer.
    response try_infer(const tensor &input, std::chrono::nanoseconds timeout = forever) const {
        return detail::infer(engine_, request(id_).input(input), timeout);
    }
    /// The same, with several inputs: at most max_inline.
    response try_infer(std::initializer_list<tensor> inputs, std::chrono::nanoseconds timeout = forever) const {
        request work(id_);
        for (const tensor &input : inputs) work.input(input);
        return detail::infer(engine_, work, timeout);
    }

    /// What it is, as JSON: see blaze_model_info.
    result<std::string> try_info() const {
        return detail::read_text([this](char *buffer, std::size_t capacity, std::size_t *needed, blaze_error *) {
            return blaze_model_info(detail::handle_of(engine_), id_, buffer, capacity, needed);
        });
    }

    /// Changes its settings while it works. See blaze_model_configure.
    result<void> try_configure(cstring json) const {
        detail::reason why;
        return why.check(blaze_model_configure(detail::handle_of(engine_), id_, json.c_str(), why.out()));
    }

    /// Unloads it, and waits until its requests have ended. See blaze_model_unload.
    result<void> try_unload() const {
        return detail::check(blaze_model_unload(detail::handle_of(engine_), id_, nullptr, nullptr),
                             "the model cannot be unloaded");
    }
    /// Unloads it in the background: the terminal event comes to `events` with user_data 0, and its text is the receipt.
    result<ticket> try_unload(queue &events) const {
        ticket unload = 0;
        const blaze_status code = blaze_model_unload(detail::handle_of(engine_), id_, events.c(), &unload);
        if (code != BLAZE_STATUS_OK) return detail::to_error(code, "the model cannot be unloaded");
        return unload;
    }

#if BLAZE_HAS_EXCEPTIONS
    /// As try_infer; throws.
    event infer(const tensor &input, std::chrono::nanoseconds timeout = forever) const {
        return try_infer(input, timeout).value();
    }
    /// As try_infer; throws.
    event infer(std::initializer_list<tensor> inputs, std::chrono::nanoseconds timeout = forever) const {
        return try_infer(inputs, timeout).value();
    }
    /// As try_info; throws.
    std::string info() const { return try_info().value(); }
    /// As try_configure; throws.
    void configure(cstring json) const { try_configure(json).value(); }
    /// As try_unload; throws.
    void unload() const { try_unload().value(); }
    /// As try_unload; throws.
    ticket unload(queue &events) const { return try_unload(events).value(); }
#endif

protected:
    friend class engine;
    friend class dispatcher;
    model(detail::shared_engine engine, blaze_model id) noexcept : engine_(std::move(engine)), id_(id) {}

    detail::shared_engine engine_;
    blaze_model id_ = 0;
};

inline request::request(const blaze::model &target) noexcept : request(target.id()) {}

/// A name that stands for several models, and takes requests as a model does. Copies mean the same route.
class route : public model {
public:
    /// No route.
    route() noexcept = default;

    /// Gives it another configuration. See blaze_route_update.
    result<void> try_update(cstring json) const {
        detail::reason why;
        return why.check(blaze_route_update(detail::handle_of(engine_), id_, json.c_str(), why.out()));
    }
    /// Takes it out; models stay. See blaze_route_destroy.
    result<void> try_remove() const {
        return detail::check(blaze_route_destroy(detail::handle_of(engine_), id_), "there is no such route");
    }
    /// Adds a target. See blaze_route_target_add.
    result<void> try_add_target(cstring json) const {
        detail::reason why;
        return why.check(blaze_route_target_add(detail::handle_of(engine_), id_, json.c_str(), why.out()));
    }
    /// Takes a target out. See blaze_route_target_remove.
    result<void> try_remove_target(cstring target) const {
        return detail::check(blaze_route_target_remove(detail::handle_of(engine_), id_, target.c_str()),
                             "there is no such route or target");
    }
    /// Has a target get no more requests, or requests again. See blaze_route_target_drain.
    result<void> try_drain_target(cstring target, bool drain = true) const {
        return detail::check(blaze_route_target_drain(detail::handle_of(engine_), id_, target.c_str(), drain ? 1 : 0),
                             "there is no such route or target");
    }

#if BLAZE_HAS_EXCEPTIONS
    /// As try_update; throws.
    void update(cstring json) const { try_update(json).value(); }
    /// As try_remove; throws.
    void remove() const { try_remove().value(); }
    /// As try_add_target; throws.
    void add_target(cstring json) const { try_add_target(json).value(); }
    /// As try_remove_target; throws.
    void remove_target(cstring target) const { try_remove_target(target).value(); }
    /// As try_drain_target; throws.
    void drain_target(cstring target, bool drain = true) const { try_drain_target(target, drain).value(); }
#endif

private:
    friend class engine;
    using model::model;
};

} // namespace blaze

#endif
