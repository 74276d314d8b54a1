// Tensors: what goes in, and views of what comes out.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef BLAZE_TENSOR_HPP
#define BLAZE_TENSOR_HPP

#include "base.hpp"

#include <algorithm>
#include <complex>
#include <initializer_list>
#include <iterator>

namespace blaze {

/// The most axes of an input, and the most inputs and the most outputs of a request, that these headers have room for.
/// The library itself takes more; see blaze.h.
inline constexpr std::size_t max_inline = 8;

/// An element type, numbered as in ONNX.
enum class dtype : blaze_dtype {
    none = 0,
    f32 = BLAZE_DTYPE_F32,
    u8 = BLAZE_DTYPE_U8,
    i8 = BLAZE_DTYPE_I8,
    u16 = BLAZE_DTYPE_U16,
    i16 = BLAZE_DTYPE_I16,
    i32 = BLAZE_DTYPE_I32,
    i64 = BLAZE_DTYPE_I64,
    string = BLAZE_DTYPE_STRING,
    boolean = BLAZE_DTYPE_BOOL,
    f16 = BLAZE_DTYPE_F16,
    f64 = BLAZE_DTYPE_F64,
    u32 = BLAZE_DTYPE_U32,
    u64 = BLAZE_DTYPE_U64,
    complex64 = BLAZE_DTYPE_COMPLEX64,
    complex128 = BLAZE_DTYPE_COMPLEX128,
    bf16 = BLAZE_DTYPE_BF16,
    f8e4m3fn = BLAZE_DTYPE_F8E4M3FN,
    f8e4m3fnuz = BLAZE_DTYPE_F8E4M3FNUZ,
    f8e5m2 = BLAZE_DTYPE_F8E5M2,
    f8e5m2fnuz = BLAZE_DTYPE_F8E5M2FNUZ,
    u4 = BLAZE_DTYPE_U4,
    i4 = BLAZE_DTYPE_I4,
    f4e2m1 = BLAZE_DTYPE_F4E2M1,
    f8e8m0 = BLAZE_DTYPE_F8E8M0,
    u2 = BLAZE_DTYPE_U2,
    i2 = BLAZE_DTYPE_I2,
};

/// The bits of elements that C++ has no type for. Of types of less than a byte one `bits` has several elements, the first
/// in the low bits.
template <dtype Type, class Bits> struct raw {
    Bits bits;

    friend bool operator==(raw left, raw right) noexcept { return left.bits == right.bits; }
    friend bool operator!=(raw left, raw right) noexcept { return left.bits != right.bits; }
};

using float16 = raw<dtype::f16, std::uint16_t>;
using bfloat16 = raw<dtype::bf16, std::uint16_t>;
using f8e4m3fn = raw<dtype::f8e4m3fn, std::uint8_t>;
using f8e4m3fnuz = raw<dtype::f8e4m3fnuz, std::uint8_t>;
using f8e5m2 = raw<dtype::f8e5m2, std::uint8_t>;
using f8e5m2fnuz = raw<dtype::f8e5m2fnuz, std::uint8_t>;
using f8e8m0 = raw<dtype::f8e8m0, std::uint8_t>;
using f4e2m1_pair = raw<dtype::f4e2m1, std::uint8_t>;
using u4_pair = raw<dtype::u4, std::uint8_t>;
using i4_pair = raw<dtype::i4, std::uint8_t>;
using u2_quad = raw<dtype::u2, std::uint8_t>;
using i2_quad = raw<dtype::i2, std::uint8_t>;

/// An element of a string tensor: UTF-8 by convention, not NUL-terminated, of somebody else's.
using string_element = blaze_string;

/// An element of a string tensor. `text` must live as long as the tensor is read.
inline string_element to_element(std::string_view text) noexcept { return {text.data(), text.size()}; }
/// What an element of a string tensor says, for as long as its tensor lives.
inline std::string_view to_view(string_element element) noexcept {
    return element.size_bytes == 0 ? std::string_view() : std::string_view(element.data, element.size_bytes);
}

/// The dtype of a C++ type; a program may specialise it for types of its own, such as a half of another library's:
/// template <> struct blaze::element<their::half> { static constexpr auto type = blaze::dtype::f16; };
template <class T> struct element {};
template <dtype Type, class Bits> struct element<raw<Type, Bits>> {
    static constexpr dtype type = Type;
};
template <> struct element<float> {
    static constexpr dtype type = dtype::f32;
};
template <> struct element<double> {
    static constexpr dtype type = dtype::f64;
};
template <> struct element<bool> {
    static constexpr dtype type = dtype::boolean;
};
template <> struct element<std::complex<float>> {
    static constexpr dtype type = dtype::complex64;
};
template <> struct element<std::complex<double>> {
    static constexpr dtype type = dtype::complex128;
};
template <> struct element<string_element> {
    static constexpr dtype type = dtype::string;
};

namespace detail {

/// All integers, whatever the platform calls them: long and long long are two types of the same size.
template <class T> constexpr dtype dtype_of() noexcept {
    using plain = std::remove_cv_t<T>;
    if constexpr (std::is_integral_v<plain> && !std::is_same_v<plain, bool>) {
        constexpr bool sign = std::is_signed_v<plain>;
        if constexpr (sizeof(plain) == 1) return sign ? dtype::i8 : dtype::u8;
        else if constexpr (sizeof(plain) == 2) return sign ? dtype::i16 : dtype::u16;
        else if constexpr (sizeof(plain) == 4) return sign ? dtype::i32 : dtype::u32;
        else return sign ? dtype::i64 : dtype::u64;
    } else {
        return element<plain>::type;
    }
}

template <class Range>
using element_of = std::remove_pointer_t<decltype(std::data(std::declval<std::remove_reference_t<Range> &>()))>;

/// For inputs, which the library only reads.
inline void *lent(const void *data) noexcept { return const_cast<void *>(data); }

} // namespace detail

/// The dtype that elements of this C++ type have.
template <class T> inline constexpr dtype dtype_of = detail::dtype_of<T>();

/// An input: its shape, and a view of its elements, row-major. What it views must live until the request is submitted; of
/// a borrowing request until its buffers are released. Makes nothing on the heap; may be copied, and used many times.
class tensor {
public:
    /// A tensor over an array, a std::array, a std::vector, a span: anything with std::data and std::size.
    ///
    /// `shape` has the sizes of at most max_inline axes, outermost first; `name` is the input's name in the model, NULL: by
    /// position, and must live as long as the tensor. Whether they fit the model is found when the request is submitted.
    template <class Range, dtype = dtype_of<detail::element_of<const Range>>>
    tensor(const Range &elements, std::initializer_list<std::int64_t> shape, cstring name = nullptr) noexcept
        : tensor(dtype_of<detail::element_of<const Range>>, std::data(elements),
                 std::size(elements) * sizeof(*std::data(elements)), {shape.begin(), shape.size()}, name) {}

    /// The same, with a shape that is only known at run time.
    template <class Range, dtype = dtype_of<detail::element_of<const Range>>>
    tensor(const Range &elements, span<const std::int64_t> shape, cstring name = nullptr) noexcept
        : tensor(dtype_of<detail::element_of<const Range>>, std::data(elements),
                 std::size(elements) * sizeof(*std::data(elements)), shape, name) {}

    /// `size_bytes` bytes of any type, which is only known at run time.
    tensor(dtype type, const void *data, std::size_t size_bytes, span<const std::int64_t> shape,
           cstring name = nullptr) noexcept {
        c_.dtype = static_cast<blaze_dtype>(type);
        c_.name = name.c_str();
        c_.rank = detail::to_u32(shape.size());
        c_.data = detail::lent(data);
        c_.size_bytes = size_bytes;
        std::copy_n(shape.data(), std::min(shape.size(), max_inline), shape_);
    }

    /// Whether it has no more than max_inline axes. If not, submitting it is INVALID_SHAPE.
    bool fits() const noexcept { return c_.rank <= max_inline; }

    /// The element type.
    dtype type() const noexcept { return static_cast<dtype>(c_.dtype); }
    /// The sizes of the axes.
    span<const std::int64_t> shape() const noexcept { return {shape_, std::min<std::size_t>(c_.rank, max_inline)}; }

    /// The C struct, which points into this.
    blaze_tensor c() const noexcept {
        blaze_tensor copy = c_;
        copy.shape = shape_;
        return copy;
    }

private:
    blaze_tensor c_ = BLAZE_TENSOR_INIT;
    std::int64_t shape_[max_inline] = {};
};

namespace detail {

/// The elements of a tensor, if it has those.
template <class T> result<span<const T>> values_of(const blaze_tensor &view) {
    if (dtype_of<T>() != static_cast<dtype>(view.dtype))
        return to_error(BLAZE_STATUS_INVALID_DTYPE, "the output has another dtype");
    return span<const T>(static_cast<const T *>(view.data), view.size_bytes / sizeof(T));
}

} // namespace detail

/// A view of an output, valid until its event is released.
class tensor_view {
public:
    /// Of the C struct; of nothing without one.
    explicit tensor_view(const blaze_tensor &view = BLAZE_TENSOR_INIT) noexcept : c_(view) {}

    /// The element type.
    dtype type() const noexcept { return static_cast<dtype>(c_.dtype); }
    /// The output's name in the model.
    std::string_view name() const noexcept { return c_.name ? std::string_view(c_.name) : std::string_view(); }
    /// The sizes of the axes, outermost first.
    span<const std::int64_t> shape() const noexcept { return {c_.shape, c_.rank}; }
    /// The elements, whatever they are.
    const void *data() const noexcept { return c_.data; }
    /// Bytes at `data`.
    std::size_t size_bytes() const noexcept { return c_.size_bytes; }
    /// The C struct.
    const blaze_tensor &c() const noexcept { return c_; }

    /// The elements, row-major; INVALID_DTYPE if the output has another type.
    template <class T> result<span<const T>> try_values() const {
        return detail::values_of<T>(c_);
    }
#if BLAZE_HAS_EXCEPTIONS
    /// As try_values; throws.
    template <class T> span<const T> values() const { return try_values<T>().value(); }
#endif

private:
    blaze_tensor c_;
};

} // namespace blaze

#endif
