// Tensors: every type, strings, several inputs and outputs, the caller's memory.
#include "check.hpp"

namespace {

using blaze::dtype;
static_assert(blaze::dtype_of<float> == dtype::f32 && blaze::dtype_of<const double> == dtype::f64);
static_assert(blaze::dtype_of<char> != blaze::dtype_of<bool> && blaze::dtype_of<bool> == dtype::boolean);
static_assert(blaze::dtype_of<long long> == dtype::i64 && blaze::dtype_of<std::int64_t> == dtype::i64);
static_assert(blaze::dtype_of<unsigned long long> == dtype::u64 && blaze::dtype_of<std::uint32_t> == dtype::u32);
static_assert(blaze::dtype_of<std::complex<float>> == dtype::complex64);
static_assert(blaze::dtype_of<blaze::bfloat16> == dtype::bf16 && sizeof(blaze::bfloat16) == 2);

/// A type of the program's own.
struct half {
    std::uint16_t bits;
};

} // namespace

template <> struct blaze::element<half> {
    static constexpr auto type = blaze::dtype::f16;
};

namespace {

/// What goes in comes out: of two rows.
template <class T> void comes_back(const blaze::engine &engine, const char *model, const std::vector<T> &values,
                                   std::int64_t columns) {
    const unsigned before = check_failures;
    const blaze::response answer = load_file(engine, model).try_infer(blaze::tensor(values, {2, columns}, "x"));
    if (CHECK(answer.has_value())) {
        const auto output = answer->try_output(0);
        CHECK(output && output->type() == blaze::dtype_of<T> && output->name() == "y");
        CHECK(output && output->shape().size() == 2 && output->shape()[0] == 2 && output->shape()[1] == columns);
        CHECK(output && output->size_bytes() == values.size() * sizeof(T));
        const auto same = answer->try_values<T>(0);
        CHECK(same && same->size() == values.size() &&
              std::memcmp(same->data(), values.data(), values.size() * sizeof(T)) == 0);
    }
    if (check_failures != before) std::printf("  with %s\n", model);
}

template <class T> std::vector<T> numbers() { return {T(0), T(1), T(2), T(3), T(100), T(5), T(6), T(7)}; }
template <class T> std::vector<T> bits() { return {T{0}, T{1}, T{2}, T{3}, T{4}, T{5}, T{6}, T{7}}; }

void every_type_goes_in_and_comes_out() {
    const blaze::engine engine = new_engine();
    comes_back(engine, "identity_f32", numbers<float>(), 4);
    comes_back(engine, "identity_f64", numbers<double>(), 4);
    comes_back(engine, "identity_i8", numbers<std::int8_t>(), 4);
    comes_back(engine, "identity_i16", numbers<std::int16_t>(), 4);
    comes_back(engine, "identity_i32", numbers<std::int32_t>(), 4);
    comes_back(engine, "identity_i64", numbers<std::int64_t>(), 4);
    comes_back(engine, "identity_u8", numbers<std::uint8_t>(), 4);
    comes_back(engine, "identity_u16", numbers<std::uint16_t>(), 4);
    comes_back(engine, "identity_u32", numbers<std::uint32_t>(), 4);
    comes_back(engine, "identity_u64", numbers<std::uint64_t>(), 4);
    comes_back(engine, "identity_f16", bits<blaze::float16>(), 4);
    comes_back(engine, "identity_f16", bits<half>(), 4);
    comes_back(engine, "identity_bf16", bits<blaze::bfloat16>(), 4);
    comes_back(engine, "identity_f8e4m3fn", bits<blaze::f8e4m3fn>(), 4);
    comes_back(engine, "identity_f8e4m3fnuz", bits<blaze::f8e4m3fnuz>(), 4);
    comes_back(engine, "identity_f8e5m2", bits<blaze::f8e5m2>(), 4);
    comes_back(engine, "identity_f8e5m2fnuz", bits<blaze::f8e5m2fnuz>(), 4);
    comes_back(engine, "cast_f8e8m0", std::vector<blaze::f8e8m0>{{127}, {128}, {129}, {126}, {125}, {127}}, 3);
    /* Two rows of three make six elements: three bytes of two, two bytes of four. */
    comes_back(engine, "cast_u4", std::vector<blaze::u4_pair>{{0x21}, {0x43}, {0x65}}, 3);
    comes_back(engine, "cast_i4", std::vector<blaze::i4_pair>{{0x21}, {0x43}, {0x65}}, 3);
    comes_back(engine, "cast_u2", std::vector<blaze::u2_quad>{{0xE4}, {0x04}}, 3);
    comes_back(engine, "cast_i2", std::vector<blaze::i2_quad>{{0xE4}, {0x04}}, 3);
    const std::array<bool, 4> flags = {true, false, false, true};
    const blaze::response answer = load_file(engine, "identity_bool").try_infer(blaze::tensor(flags, {1, 4}));
    CHECK(answer && answer->try_values<bool>(0)->size() == 4 && (*answer->try_values<bool>(0))[3]);
}

void complex_numbers_are_taken_if_the_backend_takes_them() {
    const blaze::engine engine = new_engine();
    const std::vector<std::complex<double>> values(4);
    const blaze::tensor tensor(values, {1, 4});
    CHECK(tensor.type() == dtype::complex128 && tensor.c().size_bytes == 64);
    CHECK(!engine.try_load(R"({"name": "c", "path": "tests/models/identity_complex128.onnx"})"));
}

void strings_go_in_and_come_out() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_file(engine, "identity_string");
    const std::string long_one(300, 'x');
    const std::string_view texts[] = {"", "a", "zwölf", long_one};
    blaze::string_element elements[4];
    for (int i = 0; i < 4; i++) elements[i] = blaze::to_element(texts[i]);
    const blaze::response answer = model.try_infer(blaze::tensor(elements, {1, 4}));
    REQUIRE(answer.has_value());
    const auto values = answer->try_values<blaze::string_element>(0);
    REQUIRE(values && values->size() == 4);
    for (std::size_t i = 0; i < 4; i++) CHECK(blaze::to_view((*values)[i]) == texts[i]);
    CHECK_STATUS(answer->try_values<float>(0).code(), invalid_dtype);
    CHECK_STATUS(answer->try_values<float>(1).code(), not_found);
}

void tensors_are_over_anything_that_has_elements_in_a_row() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    const float array[4] = {1, 2, 3, 4};
    std::vector<float> vector(array, array + 4);
    const blaze::span<const float> view(vector);
    const std::int64_t shape[] = {1, 4};
    CHECK(is_answer(*model.try_infer(blaze::tensor(array, {1, 4}))));
    CHECK(is_answer(*model.try_infer(blaze::tensor(vector, {1, 4}))));
    CHECK(is_answer(*model.try_infer(blaze::tensor(view, {1, 4}))));
    CHECK(is_answer(*model.try_infer(blaze::tensor(std::array<float, 4>{1, 2, 3, 4}, {1, 4}))));
    CHECK(is_answer(*model.try_infer(blaze::tensor(vector, blaze::span<const std::int64_t>(shape)))));
    CHECK(is_answer(*model.try_infer(blaze::tensor(dtype::f32, array, sizeof array, shape, std::string("x")))));
    blaze::tensor copy(array, {1, 4});
    blaze::tensor other(array, {9});
    other = copy; /* the shape is its own */
    copy = blaze::tensor(array, {7});
    CHECK(is_answer(*model.try_infer(other)));
    CHECK(other.shape().size() == 2 && other.shape()[1] == 4 && copy.shape()[0] == 7);
}

void several_inputs_and_outputs_go_by_name_or_position() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_file(engine, "two_in_two_out");
    const std::array<float, 3> a = {1, 2, 3}, b = {4, 5, 6};
    for (int way = 0; way < 2; way++) {
        const blaze::response answer =
            way == 0 ? model.try_infer({blaze::tensor(a, {1, 3}), blaze::tensor(b, {1, 3})})
                     : model.try_infer({blaze::tensor(b, {1, 3}, "b"), blaze::tensor(a, {1, 3}, "a")});
        REQUIRE(answer && answer->outputs_count() == 2);
        CHECK((*answer->try_values<float>(0))[2] == 9 && (*answer->try_values<float>(1))[2] == 18);
        CHECK(answer->try_output(1)->name() == "product");
    }
}

void outputs_are_written_into_the_callers_memory() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_file(engine, "two_in_two_out");
    const std::array<float, 3> a = {1, 2, 3}, b = {4, 5, 6};
    std::vector<float> product(4, -1);
    float sum[3] = {-1, -1, -1};
    blaze::request work = blaze::request(model).input(a, {1, 3}).input(b, {1, 3}).output(product, "product");
    const blaze::response one = engine.try_infer(work);
    REQUIRE(one.has_value());
    CHECK(one->try_values<float>(1)->data() == product.data());
    CHECK(one->try_values<float>(1)->size() == 3);
    CHECK(product[2] == 18 && product[3] == -1);
    const blaze::request copy = work.output(dtype::f32, sum, sizeof sum, "sum");
    const blaze::response both = engine.try_infer(copy);
    REQUIRE(both.has_value());
    CHECK(both->try_values<float>(0)->data() == sum && sum[2] == 9);
}

void borrowed_inputs_are_read_where_they_are() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock", HANGS_ONCE ALONE);
    blaze::queue queue = *engine.try_queue(8);
    const auto blocker = queue.try_submit(simple(model));
    until_running(engine);
    std::array<float, 4> data = {};
    CHECK_STATUS(queue.try_submit(blaze::request(model).input(data, {1, 4}).borrow().user_data(5)).code(), ok);
    data = one_to_four; /* against the rules, but it shows that nothing was copied */
    CHECK(engine.cancel(*blocker));
    blaze::event event;
    REQUIRE(queue.wait(event, patience));
    CHECK_STATUS(event.code(), cancelled);
    CHECK(event.failure().message.size() > 0);
    REQUIRE(queue.wait(event, patience));
    CHECK(event.user_data() == 5 && event.buffers_released() && !event.more() && is_answer(event));
    CHECK(event.kind() == blaze::event_kind::done && event.timing().batch_rows == 1 && event.timing().queued > 0ns);
    CHECK(event.model_id() == model.id() && event.id() != 0 && event.text().empty());
    CHECK_STATUS(engine.try_infer(simple(model).borrow()).code(), ok);
}

void requests_may_be_kept_and_changed() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    std::array<float, 4> data = {};
    blaze::request work(model);
    work.input(data, {1, 4}).priority(blaze::priority::high).session(1).tenant(2).key(3);
    for (int i = 0; i < 10; i++) {
        data[0] = static_cast<float>(i);
        CHECK((*engine.try_infer(work)->try_values<float>(0))[0] == static_cast<float>(2 * i + 1));
    }
    CHECK_STATUS(engine.try_infer(work.within(patience)).code(), ok);
    CHECK_STATUS(engine.try_infer(work.within(blaze::forever)).code(), ok);
    CHECK_STATUS(engine.try_infer(work.within(-1s)).code(), expired);
}

} // namespace

unsigned test_tensors(int argc, char **argv) {
    const test tests[] = {
        TEST(every_type_goes_in_and_comes_out),
        TEST(complex_numbers_are_taken_if_the_backend_takes_them),
        TEST(strings_go_in_and_come_out),
        TEST(tensors_are_over_anything_that_has_elements_in_a_row),
        TEST(several_inputs_and_outputs_go_by_name_or_position),
        TEST(outputs_are_written_into_the_callers_memory),
        TEST(borrowed_inputs_are_read_where_they_are),
        TEST(requests_may_be_kept_and_changed),
    };
    return run_tests("tensors", tests, argc, argv);
}
