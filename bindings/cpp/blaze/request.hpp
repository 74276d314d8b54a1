// Requests: one piece of work each.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_REQUEST_HPP
#define BLAZE_REQUEST_HPP

#include "event.hpp"

#include <cstring>
#include <new>

namespace blaze {

class model;

/// How urgent a request is. What waits long enough overtakes any priority.
enum class priority : blaze_priority {
    low = BLAZE_PRIORITY_LOW,
    normal = BLAZE_PRIORITY_NORMAL,
    high = BLAZE_PRIORITY_HIGH,
    critical = BLAZE_PRIORITY_CRITICAL,
};

namespace detail {

/// At most `Most` plain things, of which only those that are there are ever written or copied.
template <class T, std::size_t Most> class few {
public:
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

    few() noexcept {}
    few(const few &other) noexcept { *this = other; }
    few &operator=(const few &other) noexcept {
        if (this == &other) return *this;
        count_ = other.count_;
        if (count_ > 0) std::memcpy(bytes_, other.bytes_, count_ * sizeof(T));
        return *this;
    }
    template <class... Parts> bool add(const Parts &...parts) noexcept {
        if (count_ == Most) return false;
        new (bytes_ + count_ * sizeof(T)) T(parts...);
        count_++;
        return true;
    }
    void clear() noexcept { count_ = 0; }
    std::size_t size() const noexcept { return count_; }
    const T &operator[](std::size_t at) const noexcept {
        return *std::launder(reinterpret_cast<const T *>(bytes_ + at * sizeof(T)));
    }

private:
    std::size_t count_ = 0;
    alignas(T) unsigned char bytes_[Most * sizeof(T)];
};

} // namespace detail

/// One piece of work, put together step by step. It holds the descriptions of up to max_inline inputs and outputs, makes
/// nothing on the heap, and may be copied, changed, and submitted as often as is liked. What tensors, buffers and names
/// view must live until it is submitted; with borrow(), and for output buffers, until its buffers are released.
class request {
public:
    /// Work for a model or a route.
    explicit request(const blaze::model &target) noexcept;
    /// Work for a model or a route, by its number.
    explicit request(blaze_model target) noexcept { c_.model = target; }

    /// Adds an input.
    request &input(const tensor &one) noexcept {
        if (!one.fits()) wrong_ = BLAZE_STATUS_INVALID_SHAPE;
        else if (!inputs_.add(one)) wrong_ = BLAZE_STATUS_UNSUPPORTED;
        return *this;
    }
    /// Adds an input: see tensor's constructor.
    template <class Range>
    request &input(const Range &elements, std::initializer_list<std::int64_t> shape, cstring name = nullptr) noexcept {
        if (shape.size() > max_inline) wrong_ = BLAZE_STATUS_INVALID_SHAPE;
        else if (!inputs_.add(elements, shape, name)) wrong_ = BLAZE_STATUS_UNSUPPORTED;
        return *this;
    }

    /// Has an output written into memory of the caller's, which must have room for it: anything with std::data and
    /// std::size. `name` is the output's name in the model; NULL: by position.
    template <class Range> request &output(Range &&buffer, cstring name = nullptr) noexcept {
        static_assert(!std::is_const_v<detail::element_of<Range>>, "an output is written");
        return output(dtype_of<detail::element_of<Range>>, std::data(buffer),
                      std::size(buffer) * sizeof(*std::data(buffer)), name);
    }
    /// The same for `size_bytes` bytes of any type, which is only known at run time.
    request &output(dtype type, void *data, std::size_t size_bytes, cstring name = nullptr) noexcept {
        blaze_tensor one = BLAZE_TENSOR_INIT;
        one.dtype = static_cast<blaze_dtype>(type);
        one.name = name.c_str();
        one.data = data;
        one.size_bytes = size_bytes;
        if (!outputs_.add(one)) wrong_ = BLAZE_STATUS_UNSUPPORTED;
        return *this;
    }

    /// Takes all inputs and outputs out, to put others in.
    request &clear() noexcept {
        inputs_.clear();
        outputs_.clear();
        wrong_ = BLAZE_STATUS_OK;
        return *this;
    }

    /// How urgent it is.
    request &priority(blaze::priority level) noexcept {
        c_.priority = static_cast<blaze_priority>(level);
        return *this;
    }
    /// When it is to be given up: it ends as EXPIRED then.
    request &deadline(clock::time_point when) noexcept {
        c_.deadline_ns = std::max<std::uint64_t>(detail::to_ns(when.time_since_epoch()), 1);
        return *this;
    }
    /// How long from now on until it is to be given up; forever: never.
    request &within(std::chrono::nanoseconds time) noexcept {
        const std::uint64_t now = blaze_now_ns(), left = detail::to_ns(time);
        c_.deadline_ns = left > UINT64_MAX - now ? 0 : now + left;
        return *this;
    }
    /// For routes: requests of the same session may go to the same target; 0: none.
    request &session(std::uint64_t id) noexcept {
        c_.session_id = id;
        return *this;
    }
    /// Whose limits it is under, and whose turn it takes; 0: nobody's.
    request &tenant(std::uint64_t id) noexcept {
        c_.tenant_id = id;
        return *this;
    }
    /// For routes with "hash_on": "key": requests with the same key go to the same target; 0: none.
    request &key(std::uint64_t key) noexcept {
        c_.route_key = key;
        return *this;
    }
    /// Comes back in every event. A dispatcher uses it for itself.
    request &user_data(std::uint64_t data) noexcept {
        c_.user_data = data;
        return *this;
    }
    /// Whether inputs stay the caller's and are not copied, until an event says buffers_released(); see
    /// BLAZE_REQUEST_BORROW. infer(), and a dispatcher, complete a request only when that is so.
    request &borrow(bool yes = true) noexcept {
        c_.flags = yes ? BLAZE_REQUEST_BORROW : 0;
        return *this;
    }

    /// Calls `use` with the C struct, which is valid during the call, or returns why there is none.
    template <class Use> blaze_status with_c(const Use &use, blaze_error *why) const {
        if (wrong_ != BLAZE_STATUS_OK) return refuse(why);
        blaze_request made = c_;
        plain inputs[max_inline], outputs[max_inline];
        for (std::size_t i = 0; i < inputs_.size(); i++) inputs[i].c = inputs_[i].c();
        for (std::size_t i = 0; i < outputs_.size(); i++) outputs[i].c = outputs_[i];
        made.inputs = inputs_.size() > 0 ? &inputs[0].c : nullptr;
        made.inputs_count = detail::to_u32(inputs_.size());
        made.outputs = outputs_.size() > 0 ? &outputs[0].c : nullptr;
        made.outputs_count = detail::to_u32(outputs_.size());
        return use(&made);
    }

private:
    /// A blaze_tensor that is not written to before it is needed.
    union plain {
        plain() noexcept {}
        blaze_tensor c;
    };

    blaze_status refuse(blaze_error *why) const noexcept {
        const char *text = wrong_ == BLAZE_STATUS_INVALID_SHAPE
                               ? "an input has more axes than a blaze::tensor has room for (blaze::max_inline)"
                               : "there are more inputs or outputs than a blaze::request has room for (blaze::max_inline)";
        why->status = wrong_;
        why->retry_after_ns = 0;
        std::memcpy(why->message, text, std::strlen(text) + 1);
        return wrong_;
    }

    blaze_request c_ = BLAZE_REQUEST_INIT;
    blaze_status wrong_ = BLAZE_STATUS_OK;
    detail::few<tensor, max_inline> inputs_;
    detail::few<blaze_tensor, max_inline> outputs_;
};

} // namespace blaze

#endif
