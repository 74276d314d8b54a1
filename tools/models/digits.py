"""A small convolutional network that reads handwritten digits, trained in plain numpy.

    image -> conv 3x3 (16) -> relu -> conv 3x3 (32) -> relu -> maxpool 2x2 -> dense -> softmax

Arrays are laid out batch, row, column, channel here, so that a convolution is
one matrix product over patches; the exported model uses ONNX's channel-first layout.
"""

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits

from .common import constant, model, onnxruntime, save, session, value

SEED = 1
EPOCHS = 60
BATCH = 32
RATE = 2e-3


def split():
    """(pixels 0..16 as uint8, labels) to train on, and the same held out: every fourth image of each digit."""
    data = load_digits()
    pixels, labels = data.images.astype(np.uint8), data.target.astype(np.uint8)
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_digit = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held_out = np.zeros(len(labels), bool)
    held_out[by_digit[::4]] = True
    return (pixels[~held_out], labels[~held_out]), (pixels[held_out], labels[held_out])


def scaled(pixels):
    return pixels[..., None].astype(np.float32) / 16


def patches(x):
    """Each pixel's 3x3 surroundings, zeros past the edge: (n, h, w, 9 * channels)."""
    _, rows, columns, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return np.concatenate(shifts, axis=3)


def forward(weights, x):
    """The logits, and what backward needs."""
    w1, b1, w2, b2, w3, b3 = weights
    p1 = patches(x)
    h1 = np.maximum(p1 @ w1 + b1, 0)
    p2 = patches(h1)
    h2 = np.maximum(p2 @ w2 + b2, 0)
    n, rows, columns, channels = h2.shape
    blocks = h2.reshape(n, rows // 2, 2, columns // 2, 2, channels)
    pooled = blocks.max(axis=(2, 4), keepdims=True)
    flat = pooled.reshape(n, -1)
    return flat @ w3 + b3, (p1, h1, p2, h2, blocks == pooled, flat)


def backward(weights, kept, d_logits):
    """The gradient of each weight."""
    _, _, w2, _, w3, _ = weights
    p1, h1, p2, h2, is_max, flat = kept
    n = len(flat)
    d_flat = d_logits @ w3.T
    d_pooled = d_flat.reshape(n, is_max.shape[1], 1, is_max.shape[3], 1, -1)
    d_h2 = (d_pooled * is_max).reshape(h2.shape) * (h2 > 0)
    # Back through a convolution is a convolution with the kernel turned around.
    turned = w2.reshape(9, h1.shape[3], -1)[::-1].transpose(0, 2, 1).reshape(-1, h1.shape[3])
    d_h1 = (patches(d_h2) @ turned) * (h1 > 0)

    def dense(inputs, d_outputs):
        d_outputs = d_outputs.reshape(-1, d_outputs.shape[-1])
        return [inputs.reshape(-1, inputs.shape[-1]).T @ d_outputs, d_outputs.sum(axis=0)]

    return dense(p1, d_h1) + dense(p2, d_h2) + dense(flat, d_logits)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def shifted(x, random):
    """Each image moved by up to one pixel each way: the data is small, and digits are rarely centred alike."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moves = random.randint(0, 3, (len(x), 2))
    return np.stack([image[i : i + 8, j : j + 8] for image, (i, j) in zip(padded, moves)])


def train(pixels, labels):
    random = np.random.RandomState(SEED)
    weights = []
    for fan_in, fan_out in [(9, 16), (9 * 16, 32), (4 * 4 * 32, 10)]:
        limit = np.sqrt(6 / fan_in)
        weights.append(random.uniform(-limit, limit, (fan_in, fan_out)).astype(np.float32))
        weights.append(np.zeros(fan_out, np.float32))
    means = [np.zeros_like(w) for w in weights]
    squares = [np.zeros_like(w) for w in weights]

    x, wanted = scaled(pixels), np.eye(10, dtype=np.float32)[labels]
    per_epoch = len(x) // BATCH
    for step in range(EPOCHS * per_epoch):
        if step % per_epoch == 0:
            order = random.permutation(len(x))
        picked = order[step % per_epoch * BATCH :][:BATCH]
        logits, kept = forward(weights, shifted(x[picked], random))
        gradients = backward(weights, kept, (softmax(logits) - wanted[picked]) / BATCH)
        # Adam, its rate falling to nothing along half a cosine.
        rate = RATE * (1 + np.cos(np.pi * step / (EPOCHS * per_epoch))) / 2
        for w, g, mean, square in zip(weights, gradients, means, squares):
            mean += 0.1 * (g - mean)
            square += 0.001 * (g * g - square)
            steady = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            w -= np.float32(rate / (1 - 0.9 ** (step + 1))) * mean / steady
    return weights


def exported(weights):
    w1, b1, w2, b2, w3, b3 = weights
    constants = [
        constant("conv1.weight", w1.reshape(3, 3, 1, 16).transpose(3, 2, 0, 1).copy()),
        constant("conv1.bias", b1),
        constant("conv2.weight", w2.reshape(3, 3, 16, 32).transpose(3, 2, 0, 1).copy()),
        constant("conv2.bias", b2),
        constant("dense.weight", w3.reshape(4, 4, 32, 10).transpose(2, 0, 1, 3).reshape(512, 10)),
        constant("dense.bias", b3),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["conv1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "conv2.weight", "conv2.bias"], ["conv2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv2"], ["relu2"]),
        helper.make_node("MaxPool", ["relu2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense.weight", "dense.bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    inputs, outputs = [value("image", ["batch", 1, 8, 8])], [value("probabilities", ["batch", 10])]
    return model(nodes, inputs, outputs, constants)


def run_file(path, pixels):
    feeds = {"image": scaled(pixels).reshape(-1, 1, 8, 8)}
    runner = session(path) if onnxruntime else ReferenceEvaluator(str(path))
    return runner.run(None, feeds)[0]


def make(folder):
    (pixels, labels), (held_out, answers) = split()
    weights = train(pixels, labels)
    path = folder / "digits.onnx"
    save(exported(weights), path)
    records = np.concatenate([held_out.reshape(-1, 64), answers[:, None]], axis=1)
    (folder / "digits-test.bin").write_bytes(records.tobytes())

    # Only now, once, is the held-out part looked at; and by the files, not by what is in memory.
    expected = softmax(forward(weights, scaled(held_out))[0])
    right = int((expected.argmax(axis=1) == answers).sum())
    records = np.frombuffer((folder / "digits-test.bin").read_bytes(), np.uint8).reshape(-1, 65)
    found = run_file(path, records[:, :64].reshape(-1, 8, 8))
    assert np.allclose(found, expected, atol=1e-5)
    assert (found.argmax(axis=1) == records[:, 64]).sum() == right
    print("%s: %d bytes; %d of %d held-out images right" % (path, path.stat().st_size, right, len(answers)))
