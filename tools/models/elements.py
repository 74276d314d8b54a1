"""One tiny model for each ONNX element type."""

import ctypes

from onnx import TensorProto, helper

from .common import model, onnxruntime, save, session, value

# Name, ONNX's name, and the first operator set that has the type with its
# file format version (7 is the oldest that ONNX Runtime promises to run).
TYPES = [
    ("f32", "FLOAT", 7, 3),
    ("f64", "DOUBLE", 7, 3),
    ("f16", "FLOAT16", 7, 3),
    ("bf16", "BFLOAT16", 13, 7),
    ("i8", "INT8", 7, 3),
    ("i16", "INT16", 7, 3),
    ("i32", "INT32", 7, 3),
    ("i64", "INT64", 7, 3),
    ("u8", "UINT8", 7, 3),
    ("u16", "UINT16", 7, 3),
    ("u32", "UINT32", 7, 3),
    ("u64", "UINT64", 7, 3),
    ("bool", "BOOL", 7, 3),
    ("string", "STRING", 7, 3),
    ("complex64", "COMPLEX64", 7, 3),
    ("complex128", "COMPLEX128", 7, 3),
    ("f8e4m3fn", "FLOAT8E4M3FN", 19, 9),
    ("f8e4m3fnuz", "FLOAT8E4M3FNUZ", 19, 9),
    ("f8e5m2", "FLOAT8E5M2", 19, 9),
    ("f8e5m2fnuz", "FLOAT8E5M2FNUZ", 19, 9),
    ("u4", "UINT4", 21, 10),
    ("i4", "INT4", 21, 10),
    ("f4e2m1", "FLOAT4E2M1", 23, 11),
    ("f8e8m0", "FLOAT8E8M0", 24, 12),
    ("u2", "UINT2", 25, 13),
    ("i2", "INT2", 25, 13),
]

# What ONNX Runtime 1.31's CPU provider won't take through Identity, and what
# of that it does take through Cast.
REFUSED = {"complex64", "complex128", "u4", "i4", "f4e2m1", "f8e8m0", "u2", "i2"}
CASTABLE = {"u4", "i4", "f8e8m0", "u2", "i2"}


def same(nodes, kind, columns, opset, ir):
    inputs, outputs = [value("x", ["batch", columns], kind)], [value("y", ["batch", columns], kind)]
    return model(nodes, inputs, outputs, opset=opset, ir=ir)


def check(path, kind, columns):
    """Send two rows of bits through, and see them come back."""
    runner = session(path)
    if kind == TensorProto.STRING:
        sent = [["a", "", "é", "→"]] * 2
        assert runner.run(None, {"x": sent})[0].tolist() == sent
        return
    x = onnxruntime.OrtValue.ortvalue_from_shape_and_type([2, columns], kind)
    size = x.tensor_size_in_bytes()
    # Types of less than a byte need not fill the last one: there only its lowest bit is set.
    bits = b"\x01\x00" * (size // 2) if kind == TensorProto.BOOL else bytes(range(0x21, 0x20 + size)) + b"\x01"
    ctypes.memmove(x.data_ptr(), bits, size)
    y = runner.run_with_ort_values(None, {"x": x})[0]
    assert y.shape() == [2, columns] and ctypes.string_at(y.data_ptr(), size) == bits, path.name


def check_refused(path):
    try:
        session(path)
    except Exception:  # its exceptions have no common class of their own
        return
    raise AssertionError("ONNX Runtime now loads %s" % path.name)


def make(folder):
    """Write them, and return a line on each."""
    lines = []
    for short, name, opset, ir in TYPES:
        kind = TensorProto.DataType.Value(name)
        path = folder / ("identity_%s.onnx" % short)
        save(same([helper.make_node("Identity", ["x"], ["y"])], kind, 4, opset, ir), path)
        if onnxruntime and short in REFUSED:
            check_refused(path)
        elif onnxruntime:
            check(path, kind, 4)
        refused = "; refused by ONNX Runtime 1.31 on the CPU" if short in REFUSED else ""
        lines.append((path.name, "`x` [batch,4] of %s, y = x%s." % (name.lower(), refused)))

        if short in CASTABLE:
            path = folder / ("cast_%s.onnx" % short)
            nodes = [
                helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
                helper.make_node("Cast", ["wide"], ["y"], to=kind),
            ]
            save(same(nodes, kind, 3, opset, ir), path)
            if onnxruntime:
                check(path, kind, 3)
            lines.append((path.name, "`x` [batch,3] of %s, y = x by way of float." % name.lower()))
    return lines
