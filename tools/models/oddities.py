"""Tiny models for the tests: every shape of model worth getting wrong.

Each function returns a model with an example of its inputs and outputs; its
docstring is its line in tests/models/README.md.
"""

import numpy as np
from onnx import TensorProto, helper

from . import elements, hostile, mlps
from .common import FLOAT, INT64, STRING, constant, model, onnxruntime, save, session, value

node = helper.make_node


def f32(values):
    return np.array(values, np.float32)


def i64(values):
    return np.array(values, np.int64)


def doubling(shape):
    return model([node("Add", ["x", "x"], ["y"])], [value("x", shape)], [value("y", shape)])


def rank0():
    """A scalar in and a scalar out: y = 2x + 1."""
    nodes = [node("Mul", ["x", "two"], ["twice"]), node("Add", ["twice", "one"], ["y"])]
    constants = [constant("two", f32(2)), constant("one", f32(1))]
    return model(nodes, [value("x", [])], [value("y", [])], constants), {"x": f32(3)}, {"y": f32(7)}


def rank1():
    """One symbolic axis, `n`: y = 2x."""
    return doubling(["n"]), {"x": f32([1, 2, 3])}, {"y": f32([2, 4, 6])}


def rank6():
    """Six axes, the first symbolic: y = 2x."""
    x = np.arange(24, dtype=np.float32).reshape(2, 2, 1, 3, 1, 2)
    return doubling(["batch", 2, 1, 3, 1, 2]), {"x": x}, {"y": 2 * x}


def axis_named_batch():
    """Both axes symbolic, and the first is not called `batch`: y = 2x."""
    return doubling(["N", "features"]), {"x": f32([[1, 2, 3]])}, {"y": f32([[2, 4, 6]])}


def two_in_two_out():
    """Two inputs, two outputs: sum = a + b, product = ab."""
    nodes = [node("Add", ["a", "b"], ["sum"]), node("Mul", ["a", "b"], ["product"])]
    shape = ["batch", 3]
    made = model(nodes, [value("a", shape), value("b", shape)], [value("sum", shape), value("product", shape)])
    a, b = f32([[1, 2, 3]]), f32([[4, 5, 6]])
    return made, {"a": a, "b": b}, {"sum": a + b, "product": a * b}


def passed_on():
    """One of the outputs is the input itself: x, and y = 2x."""
    made = model([node("Add", ["x", "x"], ["y"])], [value("x", ["batch", 3])], [value("x", ["batch", 3]), value("y", ["batch", 3])])
    x = f32([[1, 2, 3]])
    return made, {"x": x}, {"x": x, "y": 2 * x}


def passed_on_any():
    """The same beside an output whose size nobody knows before: x, and where it is not 0."""
    made = model([node("NonZero", ["x"], ["indices"])], [value("x", ["n"])], [value("x", ["n"]), value("indices", [1, "found"], INT64)])
    x = f32([5, 0, 7])
    return made, {"x": x}, {"x": x, "indices": i64([[0, 2]])}


def constant_output():
    """One of the outputs is a constant: w, and y = 2x."""
    made = model([node("Add", ["x", "x"], ["y"])], [value("x", [3])], [value("w", [3]), value("y", [3])], [constant("w", f32([4, 5, 6]))])
    x = f32([1, 2, 3])
    return made, {"x": x}, {"w": f32([4, 5, 6]), "y": 2 * x}


def mixed_types():
    """Inputs of two types, and a length to group requests by: embedded = table[ids] * scale, the table 0, 1, 2, …"""
    table = np.arange(16, dtype=np.float32).reshape(8, 2)
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("Unsqueeze", ["scale", "last"], ["scale3"]),
        node("Mul", ["rows", "scale3"], ["embedded"]),
    ]
    inputs = [value("ids", ["batch", "sequence"], INT64), value("scale", ["batch", 1])]
    outputs = [value("embedded", ["batch", "sequence", 2])]
    ids, scale = i64([[0, 7, 3], [1, 1, 2]]), f32([[1], [10]])
    made = model(nodes, inputs, outputs, [constant("table", table), constant("last", i64([2]))])
    return made, {"ids": ids, "scale": scale}, {"embedded": table[ids] * scale[:, :, None]}


def sequence_sum():
    """A sequence whose length leaves no trace in the output: y = x summed over `sequence`."""
    nodes = [node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    inputs, outputs = [value("x", ["batch", "sequence", 2])], [value("y", ["batch", 2])]
    made = model(nodes, inputs, outputs, [constant("axes", i64([1]))])
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    return made, {"x": x}, {"y": x.sum(axis=1)}


def fixed_batch():
    """No symbolic axis at all, x and y are [2,3]: y = x + 1."""
    nodes, x = [node("Add", ["x", "one"], ["y"])], f32([[1, 2, 3], [4, 5, 6]])
    return model(nodes, [value("x", [2, 3])], [value("y", [2, 3])], [constant("one", f32(1))]), {"x": x}, {"y": x + 1}


def fixed_output():
    """Symbolic rows in, one fixed row out, so requests must not be batched: y = x summed over rows."""
    nodes = [node("ReduceSum", ["x", "axes"], ["y"])]
    made = model(nodes, [value("x", ["batch", 3])], [value("y", [1, 3])], [constant("axes", i64([0]))])
    return made, {"x": f32([[1, 2, 3], [4, 5, 6]])}, {"y": f32([[5, 7, 9]])}


def rows_interact():
    """Looks as if requests could be batched, but every row changes the others: y = x - the mean row."""
    nodes = [node("ReduceMean", ["x"], ["mean"], axes=[0]), node("Sub", ["x", "mean"], ["y"])]
    shape = ["batch", 3]
    made = model(nodes, [value("x", shape)], [value("y", shape)])
    return made, {"x": f32([[1, 2, 3], [3, 6, 9]])}, {"y": f32([[-1, -2, -3], [1, 2, 3]])}


def double_first():
    """Symbolic rows in and out, but twice as many out: y = x followed by x."""
    nodes = [node("Concat", ["x", "x"], ["y"], axis=0)]
    made = model(nodes, [value("x", ["batch", 3])], [value("y", ["batch2", 3])])
    return made, {"x": f32([[1, 2, 3]])}, {"y": f32([[1, 2, 3], [1, 2, 3]])}


def nonzero():
    """An output whose shape depends on the data: the indices of x's elements that are not 0."""
    made = model([node("NonZero", ["x"], ["indices"])], [value("x", ["batch", 4])], [value("indices", [2, "n"], INT64)])
    return made, {"x": f32([[0, 1, 0, 2], [3, 0, 0, 0]])}, {"indices": i64([[0, 0, 1], [1, 3, 0]])}


def strings_concat():
    """Strings in and out: y = a followed by b."""
    inputs = [value("a", ["batch"], STRING), value("b", ["batch"], STRING)]
    nodes, outputs = [node("StringConcat", ["a", "b"], ["y"])], [value("y", ["batch"], STRING)]
    a, b, y = (np.array(texts, object) for texts in [["bla", "", "é"], ["ze", "b", "→"], ["blaze", "b", "é→"]])
    return model(nodes, inputs, outputs, opset=20, ir=9), {"a": a, "b": b}, {"y": y}


def default_input():
    """An input that may be left out, `bias`, [1,2,3] by default: y = x + bias."""
    inputs = [value("x", ["batch", 3]), value("bias", [3])]
    nodes, default = [node("Add", ["x", "bias"], ["y"])], constant("bias", f32([1, 2, 3]))
    made = model(nodes, inputs, [value("y", ["batch", 3])], [default])
    return made, {"x": f32([[1, 1, 1]])}, {"y": f32([[2, 3, 4]])}


def no_input():
    """No input at all: y = [1,2]."""
    nodes = [node("Constant", [], ["y"], value=constant("", f32([1, 2])))]
    return model(nodes, [], [value("y", [2])]), {}, {"y": f32([1, 2])}


def slow_loop():
    """Takes as long as asked, over an hour for n = 10^9, and can be ended between nodes: y = n, up to 2^24."""
    # Each turn multiplies a matrix that only moves rows about, so that its
    # numbers stay 0 and 1; it is carried round, so that it can't be folded away.
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["go_on"]),
            node("Add", ["count", "one"], ["count_on"]),
            node("MatMul", ["work", "turn"], ["work_on"]),
        ],
        "body",
        [value("i", [], INT64), value("go", [], TensorProto.BOOL), value("count", []), value("work", [64, 64])],
        [value("go_on", [], TensorProto.BOOL), value("count_on", []), value("work_on", [64, 64])],
    )
    nodes = [node("Loop", ["n", "", "zero", "start"], ["y", "end"], body=body)]
    start = np.eye(64, dtype=np.float32)
    constants = [
        constant("zero", f32(0)),
        constant("one", f32(1)),
        constant("start", start),
        constant("turn", np.roll(start, 1, axis=0)),
    ]
    return model(nodes, [value("n", [], INT64)], [value("y", [])], constants), {"n": i64(5)}, {"y": f32(5)}


def external_data():
    """Weights in a file of their own, external_data.bin, found from the model's own folder: y = xW."""
    w = np.arange(16, dtype=np.float32).reshape(4, 4)
    made = model(
        [node("MatMul", ["x", "w"], ["y"])], [value("x", ["batch", 4])], [value("y", ["batch", 4])], [constant("w", w)]
    )
    return made, {"x": f32([[1, 2, 3, 4]])}, {"y": f32([[1, 2, 3, 4]]) @ w}


ODDITIES = [
    rank0, rank1, rank6, axis_named_batch, two_in_two_out, passed_on, passed_on_any, constant_output, mixed_types, sequence_sum, fixed_batch, fixed_output,
    rows_interact, double_first, nonzero, strings_concat, default_input, no_input, slow_loop, external_data,
]  # fmt: skip


def move_weights(made, path):
    """Put the only weight of a model in a file, and name that file in the model instead."""
    weight = made.graph.initializer[0]
    path.write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, entry in [("location", path.name), ("offset", "0"), ("length", str(path.stat().st_size))]:
        weight.external_data.add(key=key, value=entry)


def check(path, feeds, expected):
    runner = session(path)
    for name, found in zip(expected, runner.run(list(expected), feeds)):
        wanted = expected[name]
        assert found.shape == wanted.shape and (found == wanted).all(), "%s: %s is %s" % (path.name, name, found)


README = """# Models for the tests

Made by `python3 tools/make_models.py tests`, which also describes them here: don't edit by hand.
Axes with a name are symbolic.

"""


def make(folder):
    lines = []
    for oddity in ODDITIES:
        made, feeds, expected = oddity()
        path = folder / (oddity.__name__ + ".onnx")
        if oddity is external_data:
            move_weights(made, path.with_suffix(".bin"))
        save(made, path)
        if onnxruntime:
            check(path, feeds, expected)
        lines.append((path.name, oddity.__doc__))

    mlps.make(folder, ["tiny", "small"])
    for name in ["tiny", "small"]:
        sizes = " → ".join(str(size) for size in mlps.LAYERS[name])
        lines.append((name + ".onnx", "The benchmark's %s perceptron, %s, with random weights." % (name, sizes)))

    lines += elements.make(folder)
    lines += hostile.make(folder)
    text = "".join("- `%s`: %s\n" % line for line in lines)
    (folder / "README.md").write_text(README + text, encoding="utf-8")
    done = "and run" if onnxruntime else "but not run: onnxruntime is not installed"
    print("%s: %d models made %s" % (folder, len(lines), done))
