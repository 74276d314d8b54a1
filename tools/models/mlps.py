"""Multi-layer perceptrons of three sizes, with random weights, to measure with."""

import numpy as np
from onnx import helper

from .common import constant, model, onnxruntime, save, session, value

LAYERS = {
    "tiny": (4, 8, 2),
    "small": (64, 256, 256, 8),
    "large": (784, 2048, 2048, 10),
}


def mlp(sizes, seed):
    # RandomState's stream is frozen by numpy; uniform draws need no maths
    # library, so the weights are the same bytes everywhere.
    random = np.random.RandomState(seed)
    nodes, weights, last = [], [], "x"
    for layer, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:]), start=1):
        names = ["w%d" % layer, "b%d" % layer]
        for name, shape in zip(names, [(fan_in, fan_out), (fan_out,)]):
            weight = random.uniform(-1, 1, shape) / np.sqrt(fan_in)
            weights.append(constant(name, weight.astype(np.float32)))
        nodes.append(helper.make_node("Gemm", [last] + names, ["gemm%d" % layer]))
        last = "gemm%d" % layer
        if layer < len(sizes) - 1:
            nodes.append(helper.make_node("Relu", [last], ["relu%d" % layer]))
            last = "relu%d" % layer
    nodes.append(helper.make_node("Softmax", [last], ["y"], axis=1))
    return model(nodes, [value("x", ["batch", sizes[0]])], [value("y", ["batch", sizes[-1]])], weights)


def make(folder, names):
    for name in names:
        path = folder / (name + ".onnx")
        save(mlp(LAYERS[name], seed=len(name)), path)
        if onnxruntime:
            x = np.linspace(-1, 1, 3 * LAYERS[name][0], dtype=np.float32).reshape(3, -1)
            y = session(path).run(None, {"x": x})[0]
            assert y.shape == (3, LAYERS[name][-1]) and np.allclose(y.sum(axis=1), 1), name
        print("%s: %d bytes" % (path, path.stat().st_size))
