// Engines: what models, queues and dispatchers come from.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_ENGINE_HPP
#define BLAZE_ENGINE_HPP

#include "model.hpp"

#if __has_include(<memory_resource>)
#include <memory_resource>
#endif

namespace blaze {

/// An engine: models, threads and memory. Several may live in one process. Its threads end, and its memory is freed, with
/// the last of the engine and its queues, models and dispatchers; shutdown() ends its work before that.
class engine {
public:
    /// No engine.
    engine() noexcept = default;
    engine(engine &&) noexcept = default;
    engine &operator=(engine &&) noexcept = default;
    engine(const engine &) = delete;
    engine &operator=(const engine &) = delete;
    ~engine() = default;

    // ---- making and ending

    /// Makes an engine, and loads the models that its configuration names; NULL: all defaults. Blocks while models load.
    /// See blaze_engine_create.
    static result<engine> try_create(cstring config = nullptr) {
        return make([&](blaze_engine **out, blaze_error *why) { return blaze_engine_create(config.c_str(), out, why); });
    }
    /// The same, with memory of the host's for tensors. See blaze_engine_create_with_allocator.
    static result<engine> try_create(cstring config, const blaze_allocator &memory) {
        return make([&](blaze_engine **out, blaze_error *why) {
            return blaze_engine_create_with_allocator(config.c_str(), &memory, out, why);
        });
    }
#ifdef __cpp_lib_memory_resource
    /// The same, with a memory resource that may be used from several threads at once, such as a
    /// std::pmr::synchronized_pool_resource. It must outlive the engine and the last of its events.
    static result<engine> try_create(cstring config, std::pmr::memory_resource &memory) {
        blaze_allocator functions = BLAZE_ALLOCATOR_INIT;
        functions.user = &memory;
        functions.allocate = &allocate;
        functions.free = &deallocate;
        return try_create(config, functions);
    }
#endif

    /// Stops taking work in, and resolves every request: those that end within `drain` as usual, the others as SHUT_DOWN.
    /// Blocks for at most about `drain`. See blaze_engine_shutdown.
    void shutdown(std::chrono::nanoseconds drain = {}) noexcept {
        if (state_) blaze_engine_shutdown(state_->handle, detail::to_ns(drain));
    }

    // ---- work

    /// Runs a request and waits for its end, for at most `timeout`. Blocks. See blaze_infer.
    response try_infer(const request &work, std::chrono::nanoseconds timeout = forever) const {
        return detail::infer(state_, work, timeout);
    }
    /// Asks for a request or a load to be given up; false: there was nothing left to cancel. See blaze_cancel.
    bool cancel(ticket work) const noexcept { return blaze_cancel(c(), work) == BLAZE_STATUS_OK; }
    /// Makes a completion queue for `capacity` events. See blaze_queue_create.
    result<blaze::queue> try_queue(std::size_t capacity) const {
        if (!state_) return none();
        result<blaze_queue *> made = state_->new_queue(capacity);
        if (!made) return std::move(made).error();
        return blaze::queue(state_, *made);
    }
    /// Works on the calling thread for about `budget`, for an engine made with "threads": 0. Returns how many pieces of work
    /// it did. See blaze_pump.
    result<std::uint32_t> try_pump(std::chrono::nanoseconds budget = {}) const {
        std::uint32_t did = 0;
        const blaze_status code = blaze_pump(c(), detail::to_ns(budget), &did);
        if (code != BLAZE_STATUS_OK) return detail::to_error(code, "the engine cannot be pumped");
        return did;
    }

    // ---- models, routes, tenants

    /// Loads a model. Blocks. See blaze_model_load.
    result<model> try_load(cstring json) const {
        detail::reason why;
        blaze_model id = 0;
        const blaze_status code = blaze_model_load(c(), json.c_str(), &id, why.out());
        if (code != BLAZE_STATUS_OK) return why.of(code);
        return handle(id);
    }
    /// Loads a model from memory, which is read during the call only. Blocks. See blaze_model_load_memory.
    result<model> try_load(cstring json, const void *data, std::size_t size_bytes) const {
        detail::reason why;
        blaze_model id = 0;
        const blaze_status code = blaze_model_load_memory(c(), json.c_str(), data, size_bytes, &id, why.out());
        if (code != BLAZE_STATUS_OK) return why.of(code);
        return handle(id);
    }
    /// Loads a model in the background. The terminal event comes to `events`; handle(event.model_id()) is the model then.
    /// See blaze_model_load_async.
    result<ticket> try_load(cstring json, blaze::queue &events, std::uint64_t user_data = 0) const {
        detail::reason why;
        ticket id = 0;
        const blaze_status code = blaze_model_load_async(c(), json.c_str(), events.c(), user_data, &id, why.out());
        if (code != BLAZE_STATUS_OK) return why.of(code);
        return id;
    }
    /// Finds a loaded model, or a route, by name. See blaze_model_find.
    result<model> try_find(cstring name) const {
        blaze_model id = 0;
        const blaze_status code = blaze_model_find(c(), name.c_str(), &id);
        if (code != BLAZE_STATUS_OK) return detail::to_error(code, "there is no such model");
        return handle(id);
    }
    /// The model with a number, such as event::model_id(). Whether there is one is found when it is used.
    model handle(blaze_model id) const noexcept { return {state_, id}; }

    /// Reads the repository again, and waits until that is done. See blaze_repository_rescan.
    result<void> try_rescan() const {
        detail::reason why;
        return why.check(blaze_repository_rescan(c(), nullptr, 0, nullptr, why.out()));
    }
    /// The same in the background: the terminal event comes to `events`, and its text is the report.
    result<ticket> try_rescan(blaze::queue &events, std::uint64_t user_data = 0) const {
        detail::reason why;
        ticket id = 0;
        const blaze_status code = blaze_repository_rescan(c(), events.c(), user_data, &id, why.out());
        if (code != BLAZE_STATUS_OK) return why.of(code);
        return id;
    }

    /// Makes a route. See blaze_route_create.
    result<blaze::route> try_route(cstring json) const {
        detail::reason why;
        blaze_model id = 0;
        const blaze_status code = blaze_route_create(c(), json.c_str(), &id, why.out());
        if (code != BLAZE_STATUS_OK) return why.of(code);
        return blaze::route(state_, id);
    }
    /// Makes a strategy known for routes; kept until the engine ends. It is called from any thread, several at once, and
    /// must not call into Blaze, nor keep the engine alive. See blaze_strategy_register.
    result<void> try_strategy(cstring name, blaze::strategy pick) const {
        if (!state_) return none();
        return state_->add_strategy(name, std::move(pick));
    }
    /// Makes or changes a tenant. See blaze_tenant_set.
    result<void> try_tenant(cstring json) const {
        detail::reason why;
        return why.check(blaze_tenant_set(c(), json.c_str(), why.out()));
    }

    // ---- memory

    /// Changes the most bytes that models and buffers may take; BLAZE_BUDGET_UNLIMITED: none. See blaze_engine_set_budget.
    void set_budget(std::uint64_t budget_bytes) const noexcept {
        if (state_) blaze_engine_set_budget(state_->handle, budget_bytes);
    }
    /// Gives memory back that is kept for later. Blocks for milliseconds. See blaze_engine_trim.
    void trim() const noexcept {
        if (state_) blaze_engine_trim(state_->handle);
    }

    // ---- how it is doing

    /// How it is. See blaze_health_info.
    blaze_health_info health() const noexcept {
        blaze_health_info info = BLAZE_HEALTH_INFO_INIT;
        if (state_) blaze_health(state_->handle, &info);
        return info;
    }
    /// Counters and latency quantiles. See blaze_metrics_info.
    blaze_metrics_info metrics() const noexcept {
        blaze_metrics_info info = BLAZE_METRICS_INFO_INIT;
        if (state_) blaze_metrics(state_->handle, &info);
        return info;
    }
    /// How it is and why, as JSON. See blaze_health_json.
    result<std::string> try_health_json() const {
        return detail::read_text([this](char *buffer, std::size_t capacity, std::size_t *needed, blaze_error *) {
            return blaze_health_json(c(), buffer, capacity, needed);
        });
    }
    /// Metrics as text: BLAZE_METRICS_PROMETHEUS, BLAZE_METRICS_JSON or BLAZE_METRICS_TRENDS. See blaze_metrics_text.
    result<std::string> try_metrics_text(blaze_metrics_format format = BLAZE_METRICS_PROMETHEUS) const {
        return detail::read_text([&](char *buffer, std::size_t capacity, std::size_t *needed, blaze_error *) {
            return blaze_metrics_text(c(), format, buffer, capacity, needed);
        });
    }
    /// What holds it back, as JSON. See blaze_advice_json.
    result<std::string> try_advice_json() const {
        return detail::read_text([this](char *buffer, std::size_t capacity, std::size_t *needed, blaze_error *) {
            return blaze_advice_json(c(), buffer, capacity, needed);
        });
    }

    /// Changes what is logged, and where. See blaze_log_configure.
    result<void> try_log(cstring json) const {
        detail::reason why;
        return why.check(blaze_log_configure(c(), json.c_str(), why.out()));
    }
    /// Sets the function that receives lines while "target" is "callback"; an empty one: none. The one before is not called
    /// any more when this returns. It must not call into Blaze, nor keep the engine alive. See blaze_log_set_callback.
    result<void> try_log_to(log_function function) const {
        if (!state_) return none();
        return state_->set_log(std::move(function));
    }

    /// Begins to profile; NULL: all defaults. See blaze_profile_start.
    result<void> try_profile(cstring json = nullptr) const {
        detail::reason why;
        return why.check(blaze_profile_start(c(), json.c_str(), why.out()));
    }
    /// Stops profiling. See blaze_profile_stop.
    result<void> try_stop_profile() const {
        detail::reason why;
        return why.check(blaze_profile_stop(c(), why.out()));
    }
    /// What was recorded: BLAZE_REPORT_JSON, BLAZE_REPORT_TRACE or BLAZE_REPORT_HTML. See blaze_profile_report.
    result<std::string> try_profile_report(blaze_report_format format = BLAZE_REPORT_JSON) const {
        return detail::read_text([&](char *buffer, std::size_t capacity, std::size_t *needed, blaze_error *why) {
            return blaze_profile_report(c(), format, buffer, capacity, needed, why);
        });
    }

    /// Searches the settings that a model runs best with, and waits for that; try_tune_report has the report then.
    /// See blaze_tune.
    result<void> try_tune(cstring json) const {
        detail::reason why;
        return why.check(blaze_tune(c(), json.c_str(), nullptr, 0, nullptr, why.out()));
    }
    /// The same in the background: the terminal event comes to `events`, and its text is the report.
    result<ticket> try_tune(cstring json, blaze::queue &events, std::uint64_t user_data = 0) const {
        detail::reason why;
        ticket id = 0;
        const blaze_status code = blaze_tune(c(), json.c_str(), events.c(), user_data, &id, why.out());
        if (code != BLAZE_STATUS_OK) return why.of(code);
        return id;
    }
    /// What tuning has found, as JSON. See blaze_tune_report.
    result<std::string> try_tune_report() const {
        return detail::read_text([this](char *buffer, std::size_t capacity, std::size_t *needed, blaze_error *) {
            return blaze_tune_report(c(), buffer, capacity, needed);
        });
    }

#if BLAZE_HAS_EXCEPTIONS
    // ---- the same, throwing: each as its try_ form, which says what it does

    static engine create(cstring config = nullptr) { return try_create(config).value(); }
    static engine create(cstring config, const blaze_allocator &memory) { return try_create(config, memory).value(); }
#ifdef __cpp_lib_memory_resource
    static engine create(cstring config, std::pmr::memory_resource &memory) { return try_create(config, memory).value(); }
#endif
    event infer(const request &work, std::chrono::nanoseconds timeout = forever) const {
        return try_infer(work, timeout).value();
    }
    blaze::queue queue(std::size_t capacity) const { return try_queue(capacity).value(); }
    std::uint32_t pump(std::chrono::nanoseconds budget = {}) const { return try_pump(budget).value(); }
    model load(cstring json) const { return try_load(json).value(); }
    model load(cstring json, const void *data, std::size_t size_bytes) const {
        return try_load(json, data, size_bytes).value();
    }
    ticket load(cstring json, blaze::queue &events, std::uint64_t user_data = 0) const {
        return try_load(json, events, user_data).value();
    }
    model find(cstring name) const { return try_find(name).value(); }
    void rescan() const { try_rescan().value(); }
    ticket rescan(blaze::queue &events, std::uint64_t user_data = 0) const { return try_rescan(events, user_data).value(); }
    blaze::route route(cstring json) const { return try_route(json).value(); }
    void strategy(cstring name, blaze::strategy pick) const { try_strategy(name, std::move(pick)).value(); }
    void tenant(cstring json) const { try_tenant(json).value(); }
    std::string health_json() const { return try_health_json().value(); }
    std::string metrics_text(blaze_metrics_format format = BLAZE_METRICS_PROMETHEUS) const {
        return try_metrics_text(format).value();
    }
    std::string advice_json() const { return try_advice_json().value(); }
    void log(cstring json) const { try_log(json).value(); }
    void log_to(log_function function) const { try_log_to(std::move(function)).value(); }
    void profile(cstring json = nullptr) const { try_profile(json).value(); }
    void stop_profile() const { try_stop_profile().value(); }
    std::string profile_report(blaze_report_format format = BLAZE_REPORT_JSON) const {
        return try_profile_report(format).value();
    }
    void tune(cstring json) const { try_tune(json).value(); }
    ticket tune(cstring json, blaze::queue &events, std::uint64_t user_data = 0) const {
        return try_tune(json, events, user_data).value();
    }
    std::string tune_report() const { return try_tune_report().value(); }
#endif

    /// The C handle, which stays this engine's; NULL if there is no engine.
    blaze_engine *c() const noexcept { return detail::handle_of(state_); }
    /// Whether there is one.
    explicit operator bool() const noexcept { return state_ != nullptr; }

private:
    friend class dispatcher;
    explicit engine(detail::shared_engine state) noexcept : state_(std::move(state)) {}

    template <class Make> static result<engine> make(const Make &call) {
        auto state = std::make_shared<detail::engine_state>();
        detail::reason why;
        const blaze_status code = call(&state->handle, why.out());
        if (code != BLAZE_STATUS_OK) return why.of(code);
        return engine(std::move(state));
    }

    static error none() { return detail::to_error(BLAZE_STATUS_NULL_POINTER, "there is no engine"); }

#ifdef __cpp_lib_memory_resource
    /// A memory resource wants the alignment back, of which a blaze_allocator's `free` is not told: it is kept in front.
    static void *allocate(void *user, std::size_t size, std::size_t alignment) noexcept {
        auto *memory = static_cast<std::pmr::memory_resource *>(user);
        const std::size_t front = std::max(alignment, alignof(std::max_align_t));
        if (size > SIZE_MAX - front) return nullptr;
        void *block = detail::guarded([&] { return memory->allocate(size + front, front); }, nullptr);
        if (!block) return nullptr;
        unsigned char *address = static_cast<unsigned char *>(block) + front;
        std::memcpy(address - sizeof front, &front, sizeof front);
        return address;
    }
    static void deallocate(void *user, void *address, std::size_t size) noexcept {
        std::size_t front;
        std::memcpy(&front, static_cast<unsigned char *>(address) - sizeof front, sizeof front);
        static_cast<std::pmr::memory_resource *>(user)->deallocate(static_cast<unsigned char *>(address) - front,
                                                                   size + front, front);
    }
#endif

    detail::shared_engine state_;
};

} // namespace blaze

#endif
