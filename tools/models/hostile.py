"""Models that mean harm: what a stranger may hand in.

As in oddities.py the docstring is a model's line in tests/models/README.md; none of them is run here.
"""

import numpy as np
from onnx import TensorProto, helper

from .common import FLOAT, INT64, constant, model, value

node = helper.make_node


def hostile_shape():
    """Declares an input of 2^62 × 4 elements, more bytes than there are numbers for."""
    shape = [2**62, 4]
    return model([node("Identity", ["x"], ["y"])], [value("x", shape)], [value("y", shape)])


def hostile_large_shape():
    """Declares an input of 2^46 bytes, which no machine has."""
    shape = [2**22, 2**22]
    return model([node("Identity", ["x"], ["y"])], [value("x", shape)], [value("y", shape)])


def hostile_output():
    """Makes an output as large as its input says, of any size there is a number for."""
    nodes = [node("ConstantOfShape", ["n"], ["y"])]
    return model(nodes, [value("n", [1], INT64)], [value("y", ["size"])])


def hostile_constant():
    """Has a tensor of 2^45 bytes made from constants alone, which a reader may try to do in advance."""
    nodes = [node("ConstantOfShape", ["n"], ["big"]), node("ReduceSum", ["big"], ["sum"]), node("Add", ["x", "sum"], ["y"])]
    constants = [constant("n", np.array([2**43], np.int64))]
    return model(nodes, [value("x", ["batch", 1])], [value("y", None)], constants)


def hostile_loop():
    """A loop without an end: its condition is always true, and it has no number of turns."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("MatMul", ["work", "turn"], ["work_on"])],
        "body",
        [value("i", [], INT64), value("go", [], TensorProto.BOOL), value("work", [64, 64])],
        [value("go_on", [], TensorProto.BOOL), value("work_on", [64, 64])],
    )
    nodes = [node("Loop", ["", "true", "start"], ["end"], body=body), node("ReduceSum", ["end"], ["sum"], keepdims=0)]
    nodes.append(node("Add", ["x", "sum"], ["y"]))
    start = np.eye(64, dtype=np.float32)
    constants = [constant("true", np.array(True)), constant("start", start), constant("turn", np.roll(start, 1, axis=0))]
    return model(nodes, [value("x", [1])], [value("y", [1])], constants)


def external(location):
    """A model whose weights are in a file of the given name."""
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    made = model([node("MatMul", ["x", "w"], ["y"])], [value("x", ["batch", 4])], [value("y", ["batch", 4])])
    made.graph.initializer.append(weight)
    return made


def hostile_parent():
    """Has its weights in `../external_data.bin`, outside its own folder."""
    return external("../external_data.bin")


def hostile_absolute():
    """Has its weights in `/etc/passwd`."""
    return external("/etc/passwd")


def hostile_hidden_parent():
    """Has its weights in `inside/../../external_data.bin`."""
    return external("inside/../../external_data.bin")


def hostile_link():
    """Has its weights in `link.bin`, which a test makes a link that leads out of the model's folder."""
    return external("link.bin")


HOSTILE = [
    hostile_shape, hostile_large_shape, hostile_output, hostile_constant, hostile_loop, hostile_parent, hostile_absolute,
    hostile_hidden_parent, hostile_link,
]  # fmt: skip


def make(folder):
    lines = []
    for hostile in HOSTILE:
        # Not by `save`, which has the model checked, and refuses some of these.
        made = hostile()
        (folder / (hostile.__name__ + ".onnx")).write_bytes(made.SerializeToString(deterministic=True))
        lines.append((hostile.__name__ + ".onnx", hostile.__doc__))
    return lines
