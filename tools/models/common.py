"""What every model here is built with: fixed versions, no dates, no machine's name."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
STRING = TensorProto.STRING


def value(name, shape, kind=FLOAT):
    """A graph input or output; a string in the shape is a symbolic axis."""
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, constants=(), opset=17, ir=8):
    graph = helper.make_graph(nodes, "blaze", inputs, outputs, list(constants))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    made.producer_name = "blaze"
    made.producer_version = ""
    return made


def save(made, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.SerializeToString(deterministic=True))
    # From the path, not from memory, so that external data is looked at too.
    onnx.checker.check_model(str(path), full_check=True)


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
