"""The models that are measured, made where they are used, with Python's own library only: the same network as an ONNX file and
as a manifest of CUDA kernels, and what it must come to, computed in float64."""

import array
import json
import operator
import struct

PERIOD = 65521  # a prime: rows of weights do not repeat within a matrix


def numbers(count, seed, scale):
    """Floats of 32 bits from -scale to scale, always the same."""
    state, base = seed * 2654435761 % (1 << 32), array.array("f")
    for _ in range(min(count, PERIOD)):
        state = (state * 1664525 + 1013904223) % (1 << 32)
        base.append(((state >> 8) / 8388608.0 - 1.0) * scale)
    whole, rest = divmod(count, len(base))
    return base * whole + base[:rest]


class Network:
    """Dense layers of the sizes given, with max(0, .) between them."""

    def __init__(self, name, sizes):
        self.name, self.sizes = name, sizes
        self.layers = []
        for number, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
            weights = numbers(inputs * outputs, 2 * number + 1, (3.0 / inputs) ** 0.5)
            self.layers.append((inputs, outputs, weights, numbers(outputs, 2 * number + 2, 0.1)))

    def reference(self, rows):
        """The answers in float64; `rows` are lists."""
        for number, (_, outputs, weights, biases) in enumerate(self.layers):
            columns = [weights[column::outputs] for column in range(outputs)]
            rows = [[sum(map(operator.mul, row, column)) + bias for column, bias in zip(columns, biases)] for row in rows]
            if number + 1 < len(self.layers):
                rows = [[max(0.0, value) for value in row] for row in rows]
        return rows

    def write_check(self, folder, count):
        """Input rows, and their answers."""
        width = self.sizes[0]
        data = numbers(count * width, 77, 1.0)
        answers = self.reference([list(data[at * width : (at + 1) * width]) for at in range(count)])
        (folder / (self.name + ".in")).write_bytes(data.tobytes())
        (folder / (self.name + ".out")).write_bytes(b"".join(array.array("d", row).tobytes() for row in answers))

    def write_onnx(self, folder):
        nodes, initializers, before = [], [], "x"
        for number, (inputs, outputs, weights, biases) in enumerate(self.layers):
            last = number + 1 == len(self.layers)
            names = ["w%d" % number, "b%d" % number]
            after = "y" if last else "g%d" % number
            nodes.append(node("Gemm", [before] + names, after))
            if not last:
                nodes.append(node("Relu", [after], "r%d" % number))
                after = "r%d" % number
            initializers += [tensor(names[0], [inputs, outputs], weights), tensor(names[1], [outputs], biases)]
            before = after
        graph = b"".join(field(1, part) for part in nodes) + field(2, self.name.encode())
        graph += b"".join(field(5, part) for part in initializers)
        graph += field(11, value("x", self.sizes[0])) + field(12, value("y", self.sizes[-1]))
        model = varint(1, 8) + field(7, graph) + field(8, varint(2, 17))
        (folder / (self.name + ".onnx")).write_bytes(model)

    def write_cuda(self, folder):
        """A manifest for tests/cuda/kernels.ptx, whose weights begin at multiples of 256 bytes."""
        data, tensors, kernels, buffers, before = bytearray(), [], [], [], {"input": "x"}
        for number, (inputs, outputs, weights, biases) in enumerate(self.layers):
            last = number + 1 == len(self.layers)
            for name, shape, values in (("w%d" % number, [inputs, outputs], weights), ("b%d" % number, [outputs], biases)):
                tensors.append({"name": name, "dtype": "f32", "shape": shape, "offset": len(data)})
                data += values.tobytes()
                data += bytes(-len(data) % 256)
            after = {"output": "y"} if last else {"buffer": "h%d" % number}
            if not last:
                buffers.append({"name": "h%d" % number, "dtype": "f32", "shape": ["batch", outputs]})
            arguments = [before, {"weight": "w%d" % number}, {"weight": "b%d" % number}, after]
            arguments += [{"u32": "batch"}, {"u32": inputs}, {"u32": outputs}, {"u32": 0 if last else 1}]
            grid = [(outputs + 15) // 16, {"ceil_div": ["batch", 16]}]
            kernels.append({"name": "dense", "grid": grid, "block": [16, 16], "arguments": arguments})
            before = after
        manifest = cuda_manifest(self.sizes[0], self.sizes[-1], kernels)
        manifest.update(buffers=buffers, weights={"file": self.name + ".bin", "tensors": tensors})
        (folder / (self.name + ".bin")).write_bytes(data)
        (folder / (self.name + ".json")).write_text(json.dumps(manifest))


def cuda_manifest(inputs, outputs, kernels):
    return {
        "module": "kernels.ptx",
        "rows_are_independent": True,
        "inputs": [{"name": "x", "dtype": "f32", "shape": ["batch", inputs]}],
        "outputs": [{"name": "y", "dtype": "f32", "shape": ["batch", outputs]}],
        "kernels": kernels,
    }


def write_scale(folder, name, columns):
    """y = 3x, for rows of so many floats."""
    count = {"mul": ["batch", columns]}
    arguments = [{"input": "x"}, {"output": "y"}, {"u32": count}, {"f32": 3}]
    kernel = {"name": "scale", "grid": [{"ceil_div": [count, 256]}], "block": [256], "arguments": arguments}
    (folder / (name + ".json")).write_text(json.dumps(cuda_manifest(columns, columns, [kernel])))


def write_crash(folder, name, columns):
    """A kernel that writes where nothing is."""
    count = {"mul": ["batch", columns]}
    arguments = [{"input": "x"}, {"output": "y"}, {"u32": count}, {"u32": 1}]
    kernel = {"name": "crash", "grid": [{"ceil_div": [count, 256]}], "block": [256], "arguments": arguments}
    (folder / (name + ".json")).write_text(json.dumps(cuda_manifest(columns, columns, [kernel])))


def write_matmul(folder, name, size):
    """y = xw with a square matrix, for rows by the 64."""
    weights = numbers(size * size, 5, (3.0 / size) ** 0.5)
    arguments = [{"input": "x"}, {"weight": "w"}, {"output": "y"}, {"u32": "batch"}, {"u32": size}, {"u32": size}]
    grid = [size // 64, {"ceil_div": ["batch", 64]}]
    kernel = {"name": "matmul", "grid": grid, "block": [256], "arguments": arguments}
    manifest = cuda_manifest(size, size, [kernel])
    entry = {"name": "w", "dtype": "f32", "shape": [size, size], "offset": 0}
    manifest["weights"] = {"file": name + ".bin", "tensors": [entry]}
    (folder / (name + ".bin")).write_bytes(weights.tobytes())
    (folder / (name + ".json")).write_text(json.dumps(manifest))


# What of protocol buffers ONNX needs.


def varint_bytes(number):
    out = bytearray()
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    out.append(number)
    return bytes(out)


def varint(key, number):
    return varint_bytes(key * 8) + varint_bytes(number)


def field(key, content):
    return varint_bytes(key * 8 + 2) + varint_bytes(len(content)) + content


def node(kind, inputs, output):
    return b"".join(field(1, name.encode()) for name in inputs) + field(2, output.encode()) + field(4, kind.encode())


def tensor(name, shape, values):
    dims = b"".join(varint(1, size) for size in shape)
    return dims + varint(2, 1) + field(8, name.encode()) + field(9, values.tobytes())


def value(name, columns):
    dims = field(1, field(2, b"batch")) + field(1, varint(1, columns))
    return field(1, name.encode()) + field(2, field(1, varint(1, 1) + field(2, dims)))


if struct.pack("=f", 1.0) != struct.pack("<f", 1.0):
    raise SystemExit("models.py: only for little-endian machines")
