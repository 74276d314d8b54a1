// What everything else is made of: statuses, errors, results, spans, time.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_BASE_HPP
#define BLAZE_BASE_HPP

#include <blaze.h>

#include <cassert>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#if __cplusplus > 201703L || (defined(_MSVC_LANG) && _MSVC_LANG > 201703L)
#include <version>
#endif

/// 1 where the throwing functions exist. May be defined to 0 to do without them although exceptions are on.
#ifndef BLAZE_HAS_EXCEPTIONS
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define BLAZE_HAS_EXCEPTIONS 1
#else
#define BLAZE_HAS_EXCEPTIONS 0
#endif
#endif

#if BLAZE_HAS_EXCEPTIONS
#include <stdexcept>
#endif
#ifdef __cpp_lib_span
#include <span>
#else
#include <iterator>
#endif

namespace blaze {

// ---- statuses and errors --------------------------------------------------------------------------------------------

/// What a call or a request came to. The numbers are those of blaze.h; later versions of the library may have more.
enum class status : blaze_status {
    ok = BLAZE_STATUS_OK,
    invalid_argument = BLAZE_STATUS_INVALID_ARGUMENT,
    null_pointer = BLAZE_STATUS_NULL_POINTER,
    invalid_struct = BLAZE_STATUS_INVALID_STRUCT,
    invalid_config = BLAZE_STATUS_INVALID_CONFIG,
    invalid_name = BLAZE_STATUS_INVALID_NAME,
    invalid_dtype = BLAZE_STATUS_INVALID_DTYPE,
    invalid_shape = BLAZE_STATUS_INVALID_SHAPE,
    invalid_size = BLAZE_STATUS_INVALID_SIZE,
    unsupported = BLAZE_STATUS_UNSUPPORTED,
    not_found = BLAZE_STATUS_NOT_FOUND,
    shut_down = BLAZE_STATUS_SHUT_DOWN,
    busy = BLAZE_STATUS_BUSY,
    cancelled = BLAZE_STATUS_CANCELLED,
    expired = BLAZE_STATUS_EXPIRED,
    timeout = BLAZE_STATUS_TIMEOUT,
    invalid_state = BLAZE_STATUS_INVALID_STATE,
    already_exists = BLAZE_STATUS_ALREADY_EXISTS,
    queue_full = BLAZE_STATUS_QUEUE_FULL,
    rate_limited = BLAZE_STATUS_RATE_LIMITED,
    over_quota = BLAZE_STATUS_OVER_QUOTA,
    out_of_memory = BLAZE_STATUS_OUT_OF_MEMORY,
    over_budget = BLAZE_STATUS_OVER_BUDGET,
    buffer_too_small = BLAZE_STATUS_BUFFER_TOO_SMALL,
    model_not_found = BLAZE_STATUS_MODEL_NOT_FOUND,
    model_invalid = BLAZE_STATUS_MODEL_INVALID,
    model_unsupported = BLAZE_STATUS_MODEL_UNSUPPORTED,
    backend_failed = BLAZE_STATUS_BACKEND_FAILED,
    backend_unavailable = BLAZE_STATUS_BACKEND_UNAVAILABLE,
    provider_unavailable = BLAZE_STATUS_PROVIDER_UNAVAILABLE,
    device_lost = BLAZE_STATUS_DEVICE_LOST,
    internal = BLAZE_STATUS_INTERNAL,
};

/// What kind of thing a status is about: the hundreds of its number.
enum class family { success = 0, argument = 1, state = 2, capacity = 3, model = 4, backend = 5, internal = 9 };

/// The name of a status, such as "QUEUE_FULL"; "UNKNOWN" for a number that is none. The string is static.
inline const char *to_string(status code) noexcept { return blaze_status_name(static_cast<blaze_status>(code)); }

/// The family of a status.
inline family family_of(status code) noexcept { return static_cast<family>(static_cast<blaze_status>(code) / 100); }

/// Why something failed.
struct error {
    /// What the call or the request came to; never ok.
    status code = status::internal;
    /// A sentence for people, UTF-8.
    std::string message;
    /// After so long the same call may succeed: for rate_limited. 0: not known.
    std::chrono::nanoseconds retry_after{0};

    /// "QUEUE_FULL: the queue holds 64 events".
    std::string to_string() const { return std::string(blaze::to_string(code)) + ": " + message; }
};

#if BLAZE_HAS_EXCEPTIONS
/// What the throwing functions throw.
class exception : public std::runtime_error {
public:
    /// Takes the error over.
    explicit exception(blaze::error why) : std::runtime_error(why.to_string()), why_(std::move(why)) {}

    /// Status, message and retry_after.
    const blaze::error &error() const noexcept { return why_; }
    /// The error's status.
    status code() const noexcept { return why_.code; }

private:
    blaze::error why_;
};
#endif

// ---- results --------------------------------------------------------------------------------------------------------

/// A value, or why there is none. Asking for the one that is not there is a programming error, which an assert finds.
template <class T> class [[nodiscard]] result {
public:
    /// A success.
    result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
    /// A failure.
    result(blaze::error why) : held_(std::in_place_index<1>, std::move(why)) {}

    /// Whether there is a value.
    bool has_value() const noexcept { return held_.index() == 0; }
    /// Whether there is a value.
    explicit operator bool() const noexcept { return has_value(); }

    /// The value, which must be there.
    T &operator*() & noexcept { return *known(std::get_if<0>(&held_)); }
    /// The value, which must be there.
    const T &operator*() const & noexcept { return *known(std::get_if<0>(&held_)); }
    /// The value, which must be there, to be moved out.
    T &&operator*() && noexcept { return std::move(*known(std::get_if<0>(&held_))); }
    /// The value, which must be there.
    T *operator->() noexcept { return known(std::get_if<0>(&held_)); }
    /// The value, which must be there.
    const T *operator->() const noexcept { return known(std::get_if<0>(&held_)); }

    /// The value, or another one.
    template <class U> T value_or(U &&other) && {
        return has_value() ? std::move(**this) : static_cast<T>(std::forward<U>(other));
    }

    /// Why there is no value. There must be none.
    const blaze::error &error() const & noexcept { return *known(std::get_if<1>(&held_)); }
    /// Why there is no value, to be moved out. There must be none.
    blaze::error &&error() && noexcept { return std::move(*known(std::get_if<1>(&held_))); }
    /// status::ok, or the error's.
    status code() const noexcept { return has_value() ? status::ok : error().code; }

#if BLAZE_HAS_EXCEPTIONS
    /// The value; throws exception if there is none.
    T value() && {
        if (!has_value()) throw exception(std::move(*this).error());
        return std::move(**this);
    }
#endif

private:
    template <class U> static U *known(U *held) noexcept {
        assert(held);
        return held;
    }

    std::variant<T, blaze::error> held_;
};

/// Success, or why not.
template <> class [[nodiscard]] result<void> {
public:
    /// A success.
    result() = default;
    /// A failure.
    result(blaze::error why) : why_(std::move(why)) {}

    /// Whether it is a success.
    bool has_value() const noexcept { return !why_; }
    /// Whether it is a success.
    explicit operator bool() const noexcept { return !why_; }

    /// Why it is none. It must be none.
    const blaze::error &error() const & noexcept {
        assert(why_);
        return *why_;
    }
    /// Why it is none, to be moved out. It must be none.
    blaze::error &&error() && noexcept {
        assert(why_);
        return std::move(*why_);
    }
    /// status::ok, or the error's.
    status code() const noexcept { return why_ ? why_->code : status::ok; }

#if BLAZE_HAS_EXCEPTIONS
    /// Throws exception if it is none.
    void value() && {
        if (why_) throw exception(std::move(*why_));
    }
#endif

private:
    std::optional<blaze::error> why_;
};

// ---- spans and strings ----------------------------------------------------------------------------------------------

#ifdef __cpp_lib_span
/// Elements of somebody else's, next to each other: std::span, or a small one of its own before C++20.
template <class T> using span = std::span<T>;
#else
/// Elements of somebody else's, next to each other: std::span, or a small one of its own before C++20.
template <class T> class span {
public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;

    /// None.
    constexpr span() noexcept = default;
    /// `count` elements from `data` on.
    constexpr span(T *data, std::size_t count) noexcept : data_(data), size_(count) {}
    /// All elements of an array, or of a container that has them next to each other.
    template <class Range, class = std::enable_if_t<
                               !std::is_same_v<std::remove_cv_t<std::remove_reference_t<Range>>, span> &&
                               std::is_convertible_v<
                                   std::remove_pointer_t<decltype(std::data(std::declval<Range &>()))> (*)[], T (*)[]>>>
    constexpr span(Range &&range) noexcept : data_(std::data(range)), size_(std::size(range)) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t at) const noexcept { return data_[at]; }
    constexpr T &front() const noexcept { return data_[0]; }
    constexpr T &back() const noexcept { return data_[size_ - 1]; }
    constexpr span first(std::size_t count) const noexcept { return {data_, count}; }
    constexpr span subspan(std::size_t from) const noexcept { return {data_ + from, size_ - from}; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/// A string that ends in a NUL, of somebody else's.
class cstring {
public:
    /// Ends in a NUL; NULL where a function says that it may be.
    constexpr cstring(const char *text) noexcept : text_(text) {}
    /// Must outlive this.
    cstring(const std::string &text) noexcept : text_(text.c_str()) {}

    /// The string.
    constexpr const char *c_str() const noexcept { return text_; }

private:
    const char *text_;
};

// ---- time -----------------------------------------------------------------------------------------------------------

/// The clock that deadlines are on: monotonic, in nanoseconds, from an arbitrary start.
struct clock {
    using rep = std::int64_t;
    using period = std::nano;
    using duration = std::chrono::nanoseconds;
    using time_point = std::chrono::time_point<clock>;
    static constexpr bool is_steady = true;

    /// blaze_now_ns.
    static time_point now() noexcept { return time_point(duration(static_cast<rep>(blaze_now_ns()))); }
};

/// For waits: without an end.
inline constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

/// The version of the loaded library, such as "0.1.0". The string is static.
inline const char *version() noexcept { return blaze_version(); }

/// Whether the library that is loaded can be used with the header that this was compiled with.
inline bool abi_matches() noexcept {
    const std::uint32_t loaded = blaze_abi_version();
    return loaded >> 16 == BLAZE_ABI_VERSION >> 16 && loaded >= BLAZE_ABI_VERSION;
}

/// What is not part of the interface.
namespace detail {

inline std::uint64_t to_ns(std::chrono::nanoseconds time) noexcept {
    if (time == forever) return UINT64_MAX;
    return time.count() < 0 ? 0 : static_cast<std::uint64_t>(time.count());
}

inline std::uint32_t to_u32(std::size_t count) noexcept {
    return count > UINT32_MAX ? UINT32_MAX : static_cast<std::uint32_t>(count);
}

/// Of a call that says why it failed.
inline error to_error(blaze_status code, const blaze_error &why) {
    return {static_cast<status>(code), why.message,
            std::chrono::nanoseconds(static_cast<std::int64_t>(why.retry_after_ns))};
}

/// Of a call that does not.
inline error to_error(blaze_status code, const char *what) { return {static_cast<status>(code), what, {}}; }

/// A blaze_error on the stack, of which no more is written than has to be: it has a kilobyte.
class reason {
public:
    reason() noexcept {
        held_.message[0] = 0;
        held_.retry_after_ns = 0;
    }
    blaze_error *out() noexcept { return &held_; }
    error of(blaze_status code) const { return to_error(code, held_); }
    result<void> check(blaze_status code) const {
        if (code == BLAZE_STATUS_OK) return {};
        return of(code);
    }

private:
    blaze_error held_;
};

/// Of a call that does not say why it failed.
inline result<void> check(blaze_status code, const char *what) {
    if (code == BLAZE_STATUS_OK) return {};
    return to_error(code, what);
}

/// The text of a function that writes into a buffer, which may grow between two calls.
template <class Write> result<std::string> read_text(const Write &write) {
    std::string text;
    std::size_t needed = 0;
    reason why;
    blaze_status code = write(nullptr, 0, &needed, why.out());
    while (code == BLAZE_STATUS_BUFFER_TOO_SMALL || (code == BLAZE_STATUS_OK && text.empty() && needed > 1)) {
        text.resize(needed);
        code = write(text.data(), text.size(), &needed, why.out());
    }
    if (code != BLAZE_STATUS_OK) return why.of(code);
    text.resize(needed > 0 ? needed - 1 : 0);
    return text;
}

} // namespace detail
} // namespace blaze

#endif
