"""What comes out is what numpy computes, in every type and form of giving it."""

from __future__ import annotations

import pathlib

import blaze
import numpy as np
import pytest
from conftest import DIGITS, IMAGES, LABELS, MODELS


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_digits_are_read_right(digits: blaze.Model) -> None:
    probabilities = digits(IMAGES)
    assert probabilities.shape == (450, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (probabilities.argmax(1) == LABELS).mean() > 0.99


def test_rows_alone_are_as_in_company(digits: blaze.Model) -> None:
    together = digits(IMAGES[:32])
    alone = np.concatenate([digits(image[None]) for image in IMAGES[:32]])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_an_affine_model_is_what_numpy_computes(engine: blaze.Engine) -> None:
    rank6 = engine.load(MODELS / "rank6.onnx")
    shape = [axis if isinstance(axis, int) else 3 for axis in rank6.info()["inputs"][0]["shape"]]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(rank6(x), 2 * x)
    rank0 = engine.load(MODELS / "rank0.onnx")
    assert rank0(np.float32(3)).shape == () and rank0(np.array(3, np.float32)) == 7


def test_inputs_by_position_by_name_and_as_a_mapping(engine: blaze.Engine) -> None:
    model = engine.load(MODELS / "two_in_two_out.onnx")
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 2, np.float32)
    for outputs in (model.infer(a, b), model.infer(a=a, b=b), model.infer(b=b, a=a), model.infer({"b": b, "a": a}), model.infer(a, b=b)):
        np.testing.assert_array_equal(outputs["sum"], a + b)
        np.testing.assert_array_equal(outputs[1], a * b)
        assert list(outputs) == ["sum", "product"] and len(outputs) == 2 and outputs.timing.batch_rows >= 2
    total, product = model(a, b)
    np.testing.assert_array_equal(total + product, a + b + a * b)


def test_an_input_may_be_left_out(engine: blaze.Engine) -> None:
    model = engine.load(MODELS / "default_input.onnx")
    x = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(model(x), [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(model(x, bias=np.full(3, 5, np.float32)), np.full((2, 3), 5))
    np.testing.assert_array_equal(model(bias=np.full(3, 5, np.float32), x=x), np.full((2, 3), 5))
    nothing = engine.load(MODELS / "no_input.onnx")
    np.testing.assert_array_equal(nothing(), [1, 2])


def test_the_shape_of_an_output_may_depend_on_the_data(engine: blaze.Engine) -> None:
    model = engine.load(MODELS / "nonzero.onnx")
    for filled in (0, 1, 3):
        x = np.zeros((2, 4), np.float32)
        x.reshape(-1)[:filled] = 1
        np.testing.assert_array_equal(model(x), np.nonzero(x))


def test_what_is_not_contiguous_or_native_is_made_so(engine: blaze.Engine) -> None:
    model = engine.load(MODELS / "identity_f32.onnx")
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    for given in (x[:, ::2], x[:, :4], np.asfortranarray(x[:, :4]), x[::-1, :4], x[:, :4].astype(">f4")):
        np.testing.assert_array_equal(model(given), given)
    np.testing.assert_array_equal(model([[1, 2, 3, 4]]), [[1, 2, 3, 4]])
    readonly = x[:, :4].copy()
    readonly.flags.writeable = False
    np.testing.assert_array_equal(model(readonly), readonly)
    shifted = np.frombuffer(b"\0" + x[:, :4].tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 4)
    np.testing.assert_array_equal(model(shifted), x[:, :4])


@pytest.mark.parametrize(
    "name, dtype",
    [("f32", "f4"), ("f64", "f8"), ("f16", "f2"), ("i8", "i1"), ("i16", "i2"), ("i32", "i4"), ("i64", "i8"), ("u8", "u1"),
     ("u16", "u2"), ("u32", "u4"), ("u64", "u8"), ("bool", "?")],
)
def test_types_that_numpy_has(engine: blaze.Engine, name: str, dtype: str) -> None:
    model = engine.load(MODELS / f"identity_{name}.onnx")
    x = np.random.default_rng(2).integers(0, 2 if dtype == "?" else 100, (3, 4)).astype(dtype)
    y = model(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)
    out = np.empty_like(x)
    assert model.infer(x, out=out)[0] is out
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize(
    "name, bits", [("bf16", np.uint16), ("f8e4m3fn", np.uint8), ("f8e4m3fnuz", np.uint8), ("f8e5m2", np.uint8), ("f8e5m2fnuz", np.uint8)]
)
def test_types_that_numpy_lacks_are_their_bits(engine: blaze.Engine, name: str, bits: type) -> None:
    model = engine.load(MODELS / f"identity_{name}.onnx")
    x = np.array([[0x3C, 0x40, 0x01, 0x00]], bits)
    np.testing.assert_array_equal(model(x).view(bits), x)


@pytest.mark.parametrize("name, values", [("u4", [0, 7, 15]), ("i4", [-8, -1, 7]), ("u2", [0, 1, 3]), ("i2", [-2, -1, 1])])
def test_types_of_less_than_a_byte_are_one_element_a_byte(engine: blaze.Engine, name: str, values: list[int]) -> None:
    model = engine.load(MODELS / f"cast_{name}.onnx")
    x = np.array([values, values[::-1], values], np.int8 if name.startswith("i") else np.uint8)
    np.testing.assert_array_equal(model(x).astype(np.int8), x)


def test_strings(engine: blaze.Engine) -> None:
    model = engine.load(MODELS / "identity_string.onnx")
    texts = [["", "a", "grüße", "日本"], ["x" * 1000, "\0", "z", "end"]]
    for given in (np.array(texts, object), texts, np.array(texts, object).T.copy().T):
        y = model(given)
        assert y.dtype == object and y.tolist() == texts
    assert model(np.array([["ab", "c", "d", "e"]])).tolist() == [["ab", "c", "d", "e"]]
    raw = model(np.array([[b"\xff\xfe", "a", "b", "c"]], object))
    assert raw[0, 0].encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_outputs_go_to_memory_of_the_callers(engine: blaze.Engine, digits: blaze.Model) -> None:
    out = np.zeros((4, 10), np.float32)
    assert digits.infer(IMAGES[:4], out=out)[0] is out
    np.testing.assert_allclose(out.sum(1), 1, rtol=1e-5)
    larger = np.full((8, 10), -1, np.float32)
    y = digits.infer(IMAGES[:4], out={"probabilities": larger})[0]
    assert y.shape == (4, 10) and np.shares_memory(y, larger) and (larger[4:] == -1).all()
    np.testing.assert_allclose(y, out, rtol=1e-4, atol=1e-6)
    two = engine.load(MODELS / "two_in_two_out.onnx")
    one = np.ones((1, 3), np.float32)
    product = np.zeros((1, 3), np.float32)
    outputs = two.infer(one, one, out=[None, product])
    assert outputs[1] is product and outputs["sum"].tolist() == [[2, 2, 2]]


def test_a_prepared_request_follows_its_arrays(digits: blaze.Model) -> None:
    image, scores = IMAGES[:1].copy(), np.zeros((1, 10), np.float32)
    fixed, fresh = digits.prepare(image, out=scores), digits.prepare(image=image)
    for digit in range(20):
        image[0] = IMAGES[digit]
        assert fixed()[0] is scores
        assert scores.argmax() == LABELS[digit]
        np.testing.assert_allclose(fresh()[0], scores, rtol=1e-4, atol=1e-6)
        assert fresh.submit().result()[0].argmax() == LABELS[digit]


def test_models_come_from_bytes_and_from_configuration(engine: blaze.Engine) -> None:
    x = IMAGES[:1]
    a = engine.load(DIGITS.read_bytes(), name="from-memory")
    b = engine.load({"name": "configured", "path": str(DIGITS)}, lanes=2)
    c = engine.load(pathlib.Path(DIGITS))
    assert (a.name, b.name, c.name) == ("from-memory", "configured", "digits") and b.info()["lanes"] == 2
    assert a(x).argmax() == b(x).argmax() == c(x).argmax() == engine.find("digits:1")(x).argmax()
    assert a.input_names == ("image",) and a.output_names == ("probabilities",)
