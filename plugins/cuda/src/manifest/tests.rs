//! Manifests that are right and wrong.

use super::*;
use serde_json::json;

fn good() -> Value {
    json!({
        "module": "mlp.ptx",
        "inputs": [{"name": "x", "dtype": "f32", "shape": ["batch", 64]}],
        "outputs": [{"name": "y", "dtype": "f32", "shape": ["batch", 8]}],
        "buffers": [{"name": "hidden", "dtype": "f32", "shape": [{"mul": ["batch", 2]}, 128]}],
        "weights": {"file": "mlp.bin", "tensors": [{"name": "w", "dtype": "f16", "shape": [64, 8], "offset": 16}]},
        "kernels": [
            {"name": "first", "grid": [{"ceil_div": ["batch", 16]}, 2], "block": [128], "shared_bytes": 1024,
             "arguments": [{"input": "x"}, {"weight": "w"}, {"buffer": "hidden"}, {"u32": "batch"}, {"f32": 0.5}]},
            {"name": "second", "grid": ["batch"], "block": [32, 4], "arguments": [{"buffer": "hidden"}, {"output": "y"}]}],
        "rows_are_independent": true
    })
}

#[test]
fn a_manifest_is_read_and_its_geometry_worked_out() {
    let manifest = Manifest::parse(&good().to_string()).unwrap();
    let sizes = manifest.sizes(&[&[33, 64]]).unwrap();
    let geometry = manifest.kernels[0].geometry(&sizes).unwrap();
    assert_eq!(geometry, Geometry { grid: [3, 2, 1], block: [128, 1, 1], shared_bytes: 1024 });
    assert_eq!(manifest.buffers[0].bytes(&sizes), Ok(66 * 128 * 4));
    assert_eq!((manifest.weights[0].bytes, manifest.weights_bytes()), (1024, 1040));
    assert_eq!(
        manifest.kernels[0].arguments.iter().map(Argument::bytes).collect::<Vec<_>>(),
        [8, 8, 8, 4, 4]
    );
    assert!(manifest.sizes(&[&[33, 63]]).unwrap_err().contains("63 instead of 64"));
    assert!(manifest.sizes(&[&[33]]).unwrap_err().contains("rank 1"));
    let error = manifest.kernels[1].geometry(&manifest.sizes(&[&[0, 64]]).unwrap()).unwrap_err();
    assert!(error.starts_with("kernels[1].grid[0]: 0 is not from 1"), "{error}");
}

/// Puts `value` at a path of keys and places.
fn with(path: &str, value: Value) -> String {
    let mut manifest = good();
    *manifest.pointer_mut(path).unwrap() = value;
    manifest.to_string()
}

#[test]
fn what_is_wrong_is_named() {
    for (path, value, said) in [
        ("/module", json!(""), "module"),
        ("/module", json!(3), "module"),
        ("/inputs/0/dtype", json!("f31"), "inputs[0].dtype"),
        ("/inputs/0/dtype", json!("string"), "inputs[0].dtype"),
        ("/inputs/0/shape/0", json!({"mul": ["batch", 2]}), "inputs[0].shape[0]"),
        ("/inputs/0/shape/0", json!(-1), "inputs[0].shape[0]"),
        ("/inputs/0/name", json!(""), "inputs[0].name"),
        ("/outputs", json!([]), "outputs"),
        ("/outputs/0/shape/0", json!("rows"), "outputs[0].shape[0]: no input has an axis \"rows\""),
        (
            "/outputs/0/name",
            json!("z"),
            "kernels[1].arguments[1].output: there is no output \"y\"; there are z",
        ),
        ("/buffers/0/shape/1", json!("depth"), "buffers[0].shape[1]"),
        ("/weights/file", json!(""), "weights.file"),
        ("/weights/tensors/0/offset", json!(3), "weights.tensors[0].offset"),
        ("/weights/tensors/0/shape", json!([u64::MAX, 3]), "weights.tensors[0].shape"),
        ("/kernels", json!([]), "kernels"),
        ("/kernels/0/name", json!(""), "kernels[0].name"),
        ("/kernels/0/grid", json!([]), "kernels[0].grid"),
        ("/kernels/0/grid", json!([1, 1, 1, 1]), "kernels[0].grid"),
        ("/kernels/0/grid/0", json!({"ceil_div": ["batch"]}), "kernels[0].grid[0]"),
        ("/kernels/0/block/0", json!("width"), "kernels[0].block[0]: no input has an axis \"width\""),
        ("/kernels/0/shared_bytes", json!("x"), "kernels[0].shared_bytes: no input"),
        ("/kernels/1/grid/0", json!("rows"), "kernels[1].grid[0]: no input"),
        ("/kernels/0/arguments/3", json!({"u32": "rows"}), "kernels[0].arguments[3].u32: no input"),
        (
            "/kernels/0/arguments",
            json!(vec![json!({"u32": 1}); 4097]),
            "kernels[0].arguments: more than 4096",
        ),
        (
            "/weights/tensors",
            json!(vec![json!({"name": "w", "dtype": "u8", "shape": [], "offset": 0}); 4097]),
            "weights.tensors: more than 4096",
        ),
        ("/kernels/0/arguments/0", json!({}), "kernels[0].arguments[0]"),
        ("/kernels/0/arguments/0", json!({"input": 3}), "kernels[0].arguments[0].input"),
        ("/kernels/0/arguments/0", json!({"texture": "x"}), "kernels[0].arguments[0].texture"),
        ("/kernels/0/arguments/4", json!({"f32": "x"}), "kernels[0].arguments[4].f32"),
        ("/kernels/1/arguments/1", json!({"u32": 1}), "outputs[0]: no kernel is passed \"y\""),
        ("/rows_are_independent", json!(1), "rows_are_independent"),
    ] {
        let error = Manifest::parse(&with(path, value.clone())).unwrap_err();
        assert!(error.contains(said), "{path} {value}: {error}");
    }
    assert!(Manifest::parse("{").is_err());
    let unknown = good().to_string().replacen('{', "{\"taste\": 1, ", 1);
    assert!(Manifest::parse(&unknown).unwrap_err().contains("taste"));
}

#[test]
fn geometry_beyond_any_device_is_refused() {
    for (path, value, said) in [
        ("/kernels/0/block", json!([1025]), "kernels[0].block[0]: 1025"),
        ("/kernels/0/block", json!([1, 1, 65]), "kernels[0].block[2]: 65"),
        ("/kernels/0/block", json!([32, 33]), "kernels[0].block: 1056 threads"),
        ("/kernels/0/grid", json!([1, 65_536]), "kernels[0].grid[1]: 65536"),
        ("/kernels/0/shared_bytes", json!(1 << 20), "kernels[0].shared_bytes: 1048576"),
    ] {
        let manifest = Manifest::parse(&with(path, value)).unwrap();
        let sizes = manifest.sizes(&[&[4, 64]]).unwrap();
        let error = manifest.kernels[0].geometry(&sizes).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

/// What is shown to others can be used.
#[test]
fn the_guides_manifest_and_those_of_the_tests_are_right() {
    let guide = include_str!("../../../../docs/cuda.md");
    let block = guide.split("```json\n").find(|block| block.contains("\"module\"")).unwrap();
    let manifest = Manifest::parse(block.split("```").next().unwrap()).unwrap();
    assert_eq!((manifest.kernels.len(), manifest.weights_bytes()), (2, 32768 + 4096));
    for text in [
        include_str!("../../../../tests/cuda/scale.json"),
        include_str!("../../../../tests/cuda/add.json"),
        include_str!("../../../../tests/cuda/crash.json"),
        include_str!("../../../../tests/cuda/mlp.json"),
    ] {
        Manifest::parse(text).unwrap();
    }
}
