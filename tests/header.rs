//! The committed header is what cbindgen makes of the sources. `BLAZE_UPDATE=1` (`make header`) writes it anew.

#![allow(clippy::expect_used, clippy::panic)]

use blaze::ffi::HEADER_PARTS;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One part after the other, so that every object's types, constants and functions stand together.
fn generate() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml is valid");
    let mut header = read("src/ffi/header_top.h");
    for (heading, files) in HEADER_PARTS {
        let line = format!("/* {heading} ");
        write!(header, "\n{line:-<113} */\n\n").expect("a string can be written to");
        let mut builder = cbindgen::Builder::new().with_config(config.clone());
        for file in files {
            builder = builder.with_src(root().join(file));
        }
        let mut text = Vec::new();
        builder.generate().unwrap_or_else(|error| panic!("{heading}: {error}")).write(&mut text);
        header += &String::from_utf8(text).expect("the header is UTF-8");
    }
    header += &read("src/ffi/header_bottom.h");
    header
}

#[test]
fn the_committed_header_is_up_to_date() {
    let path: PathBuf = root().join("include/blaze.h");
    let generated = generate();
    if std::env::var_os("BLAZE_UPDATE").is_some() && std::env::var_os("CI").is_none() {
        std::fs::write(&path, &generated).expect("the header can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "include/blaze.h is stale: run `make header` and commit it");
    assert!(generated.is_ascii(), "the header must be plain ASCII");
}

#[test]
fn every_export_is_in_the_header() {
    let header = generate();
    for file in HEADER_PARTS.iter().flat_map(|(_, files)| *files) {
        let source = read(file);
        let names = source.split("extern \"C\" fn ").skip(1).filter_map(|rest| rest.split('(').next());
        for name in names {
            assert!(header.contains(&format!("{name}(")), "{name} of {file} is not in the header");
        }
    }
}
