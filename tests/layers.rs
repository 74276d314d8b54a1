//! The architecture, checked: who may import whom, who may name `ort`, where `unsafe` may be, and that every
//! module says what it is for.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules in layers, lowest first. A module may import only from layers below its own.
const LAYERS: [&[&str]; 13] = [
    &["error", "abi"],
    &["platform"],
    &["clock", "features", "panics"],
    &["sync"],
    &["stack", "log"],
    &["memory"],
    &["tensor", "metrics"],
    &["config"],
    &["repository"],
    &["backend"],
    &["scheduler", "router", "cache", "profile", "tuning"],
    &["engine"],
    &["ffi"],
];

/// Where `unsafe` is allowed: the boundary, ONNX Runtime, the operating system, and memory of others.
const UNSAFE: [&str; 41] = [
    "ffi/mod.rs",
    "backend/batch.rs",
    "backend/foreign/mod.rs",
    "engine/backends.rs",
    "ffi/backend.rs",
    "backend/onnx/batch.rs",
    "backend/onnx/binding.rs",
    "backend/onnx/library.rs",
    "backend/onnx/memory.rs",
    "backend/onnx/pinned.rs",
    "backend/onnx/register.rs",
    "backend/onnx/session.rs",
    "backend/onnx/value.rs",
    "engine/bare.rs",
    "engine/batch.rs",
    "engine/completion.rs",
    "engine/event.rs",
    "engine/execute.rs",
    "engine/job.rs",
    "engine/measure.rs",
    "engine/slots.rs",
    "engine/relay.rs",
    "engine/residence.rs",
    "engine/settle.rs",
    "engine/spans.rs",
    "engine/stepping.rs",
    "engine/stream.rs",
    "engine/trimming.rs",
    "engine/waiting.rs",
    "engine/warm_up.rs",
    "engine/outcome.rs",
    "engine/submit.rs",
    "engine/table.rs",
    "engine/table/holding.rs",
    "memory/pool.rs",
    "memory/space.rs",
    "platform/mod.rs",
    "tensor/buffer.rs",
    "tensor/foreign.rs",
    "tensor/region.rs",
    "tensor/strings.rs",
];

struct Source {
    /// Relative to `src`, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    /// The top-level module that the file belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap()
    }
}

fn sources() -> Vec<Source> {
    fn visit(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            match path.is_dir() {
                true => visit(&path, files),
                false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
                false => {}
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    visit(&root, &mut files);
    files.sort();
    files
        .into_iter()
        .map(|file| Source {
            path: file.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/"),
            text: fs::read_to_string(&file).expect("a source is UTF-8"),
        })
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Every `crate::name` in a file, with imports of several names at once taken apart.
fn imported(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let group = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        for path in group.unwrap_or(rest).split(if group.is_some() { ',' } else { '\0' }) {
            names.push(path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn imports_point_downward_only() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let own = layer(source.module()).unwrap_or_else(|| panic!("{} is in no layer", source.path));
        for name in imported(&source.text) {
            let below = layer(&name).is_some_and(|other| other < own);
            if !below && name != source.module() && name != "VERSION" {
                wrong.push(format!("{} imports {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_check_sees_imports() {
    assert_eq!(
        imported("use crate::engine::X; use crate::{ffi::Y, log}; crate::tensor::f()"),
        ["engine", "ffi", "log", "tensor"]
    );
    assert!(layer("engine") > layer("scheduler") && layer("tensor") == layer("metrics"));
}

#[test]
fn only_the_onnx_backend_names_ort() {
    for source in sources().iter().filter(|source| !source.path.starts_with("backend/onnx/")) {
        let words = source.text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        let names_ort = words.into_iter().any(|word| word == "ort" || word.starts_with("ort::"));
        assert!(!names_ort, "{} names ort", source.path);
    }
}

#[test]
fn log_lines_are_of_modules_that_can_be_configured() {
    let mut seen = 0;
    for source in sources().iter().filter(|source| source.path != "log/tests.rs") {
        for method in [".error(", ".warn(", ".info(", ".debug(", ".log("] {
            for call in source.text.split(method).skip(1).filter(|call| call.contains("format_args!(")) {
                let Some((before, call)) = call.split_once('"') else { continue };
                let Some((module, after)) = call.split_once('"') else { continue };
                let arguments = before.trim();
                let is_line = (arguments.is_empty() || arguments.ends_with(','))
                    && !arguments.contains(['(', ';'])
                    && after.trim_start_matches(',').trim_start().starts_with("format_args!(");
                if is_line {
                    seen += 1;
                    assert!(blaze::log::MODULES.contains(&module), "{}: {module}", source.path);
                }
            }
        }
    }
    assert!(seen > 20, "{seen} lines were found: has the way they are written changed?");
}

#[test]
fn unsafe_code_is_only_where_it_is_allowed() {
    for source in sources() {
        let allows = source.text.contains("allow(unsafe_code");
        assert!(!allows || UNSAFE.contains(&source.path.as_str()), "{} allows unsafe code", source.path);
    }
}

#[test]
fn only_the_platform_module_knows_the_operating_system() {
    for source in sources().iter().filter(|source| !source.path.starts_with("platform/")) {
        if source.path.ends_with("tests.rs") {
            continue;
        }
        let code = source.text.split("#[cfg(test)]").next().unwrap();
        for word in ["libc::", "std::os::", "cfg(unix", "cfg(windows", "cfg(target_os", "cfg!(unix", "/proc/"]
        {
            assert!(
                !code.contains(word),
                "{} has {word}: what differs belongs into src/platform",
                source.path
            );
        }
    }
}

#[test]
fn every_module_says_what_it_is_for_and_is_one_thing() {
    for source in sources() {
        assert!(
            source.text.starts_with("//! "),
            "{} has no first line that says what it is for",
            source.path
        );
        let lines = source.text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines: is it one thing?", source.path);
    }
}
