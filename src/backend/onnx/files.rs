//! The files of a model: their sizes, and what tells whether they are still the same.

use crate::backend::Source;
use crate::error::{Error, Result, Status};
use crate::platform::file_identity;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// A model whose weights are in other files is small itself; larger ones are not read twice.
const MOST_TO_SEARCH: u64 = 16 << 20;

/// What is known about a model's files without loading it.
pub struct Files {
    /// All bytes, external weights among them.
    pub bytes: u64,
    /// Changes when any of them does; `None`: of bytes in memory, of which nobody can tell.
    pub stamp: Option<String>,
}

/// Looks at a model's files.
pub fn look(source: &Source<'_>) -> Result<Files> {
    let path = match source {
        Source::File(path) => path,
        Source::Memory(bytes) => return Ok(Files { bytes: bytes.len() as u64, stamp: None }),
        Source::None => return Err(Error::new(Status::InvalidConfig, "path: the onnx backend needs one")),
    };
    let not_found = |path: &Path, text: &dyn std::fmt::Display| {
        Error::new(Status::ModelNotFound, format!("{}: {text}", path.display()))
    };
    let metadata = fs::metadata(path).map_err(|error| not_found(path, &error))?;
    if !metadata.is_file() {
        return Err(Error::new(Status::ModelNotFound, format!("{} is not a file", path.display())));
    }
    let (mut bytes, mut stamp) = (metadata.len(), String::new());
    let canonical = fs::canonicalize(path).map_err(|error| not_found(path, &error))?;
    add_stamp(&mut stamp, &canonical, &metadata);
    let names = match metadata.len() {
        0..=MOST_TO_SEARCH => external_names(&fs::read(path).map_err(|error| not_found(path, &error))?),
        _ => BTreeSet::new(),
    };
    for name in names {
        let file = inside(path, &canonical, &name)?;
        // One that is missing is ONNX Runtime's to complain about, who knows whether it is a file's name at all.
        if let Ok(metadata) = fs::metadata(&file) {
            bytes += metadata.len();
            add_stamp(&mut stamp, &file, &metadata);
        }
    }
    Ok(Files { bytes, stamp: Some(stamp) })
}

/// The file that a model names, which must be in the model's own directory: a model is data, perhaps a stranger's, and does not
/// get to choose what this process reads. The directory is where the model's path says, or where links lead from there.
fn inside(path: &Path, canonical: &Path, name: &Path) -> Result<PathBuf> {
    let directory = path.parent().unwrap_or(Path::new(""));
    let refused = |why: &str| {
        let text = format!("{}: external data in {:?}: {why}", path.display(), name.display().to_string());
        Error::new(Status::ModelInvalid, text)
    };
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !name.components().all(plain) {
        return Err(refused("must be a relative path without \"..\""));
    }
    let file = directory.join(name);
    // One that is missing is ONNX Runtime's to complain about.
    if let Ok(real) = fs::canonicalize(&file) {
        let own = fs::canonicalize(if directory.as_os_str().is_empty() { Path::new(".") } else { directory });
        let near = |directory: &Path| real.starts_with(directory);
        if !own.is_ok_and(|own| near(&own)) && !canonical.parent().is_some_and(near) {
            return Err(refused("a link leads out of the model's directory"));
        }
    }
    Ok(file)
}

fn add_stamp(stamp: &mut String, path: &Path, metadata: &fs::Metadata) {
    let identity = file_identity(metadata);
    let (_, inode) = identity.place.unwrap_or_default();
    stamp.push_str(&format!("{}|{}|{}|{inode};", path.display(), identity.bytes, identity.written_ns));
}

/// The names of files with external weights: in ONNX's encoding the value of a key "location" in a list of strings.
fn external_names(model: &[u8]) -> BTreeSet<PathBuf> {
    // A field 1 of 8 bytes, and then a field 2.
    const KEY: &[u8] = b"\x0a\x08location\x12";
    let mut names = BTreeSet::new();
    let mut rest = model;
    while let Some(at) = find(rest, KEY) {
        rest = &rest[at + KEY.len()..];
        let (mut length, mut shift) = (0usize, 0);
        let mut used = 0;
        for &byte in rest.iter().take(3) {
            length |= usize::from(byte & 0x7F) << shift;
            (shift, used) = (shift + 7, used + 1);
            if byte & 0x80 == 0 {
                break;
            }
        }
        if length > 0
            && let Some(Ok(name)) = rest.get(used..used + length).map(std::str::from_utf8)
        {
            names.insert(PathBuf::from(name));
        }
    }
    names
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let first = part[0];
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|&byte| byte == first) {
        if text[from + at..].starts_with(part) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_weights_are_found() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/external_data.onnx");
        let (own, weights) =
            (fs::metadata(&path).unwrap().len(), fs::metadata(path.with_extension("bin")).unwrap());
        let files = look(&Source::File(path)).unwrap();
        assert_eq!(files.bytes, own + weights.len());
        assert!(files.stamp.unwrap().contains("external_data.bin"));
        assert!(external_names(b"\x0a\x08location\x12").is_empty());
        assert!(external_names(b"\x0a\x08location\x12\xff\xff\xff\xff").is_empty());
    }

    #[test]
    fn what_is_no_file_is_named() {
        let error = |source: Source<'_>| look(&source).err().unwrap();
        let missing = error(Source::File("no/such/model.onnx".into()));
        assert!(missing.status == Status::ModelNotFound && missing.message.contains("no/such/model.onnx"));
        assert_eq!(error(Source::File("/".into())).status, Status::ModelNotFound);
        assert_eq!(error(Source::None).status, Status::InvalidConfig);
    }
}
