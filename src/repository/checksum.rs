//! SHA-256 sums of files: reading them from JSON, and comparing.

use super::unreadable;
use crate::error::{Error, Result, Status};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

/// How much is read between two looks at whether to go on.
const PIECE_BYTES: usize = 1 << 20;

/// Reads the value of `sha256`: one sum, which is `model_file`'s, or an object of file names and sums. The paths
/// returned begin with `directory`. Errors begin with the key's path.
pub fn parse(value: &Value, directory: &Path, model_file: &str) -> Result<Vec<(PathBuf, [u8; 32])>> {
    let invalid = |key: &str, message: &str| {
        Error::new(Status::InvalidConfig, message).within(match key {
            "" => "sha256".to_owned(),
            _ => format!("sha256.{key}"),
        })
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => {
            let sum = parse_sum(text).ok_or_else(|| invalid("", "must be 64 hexadecimal digits"))?;
            Ok(vec![(directory.join(model_file), sum)])
        }
        Value::Object(files) if !files.is_empty() => files
            .iter()
            .map(|(file, sum)| {
                if !is_inside(file) {
                    return Err(invalid(file, "must be a file's name, relative to the version's directory"));
                }
                let sum = sum.as_str().and_then(parse_sum);
                let sum = sum.ok_or_else(|| invalid(file, "must be 64 hexadecimal digits"))?;
                Ok((directory.join(file), sum))
            })
            .collect(),
        _ => Err(invalid("", "must be 64 hexadecimal digits, or an object of file names and such digits")),
    }
}

/// Whether a name, joined to a directory, stays in it. (Links in it may still lead elsewhere, and may.)
fn is_inside(file: &str) -> bool {
    let mut components = Path::new(file).components().peekable();
    components.peek().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
        && !file.ends_with('/')
        && !file.contains('\0')
}

fn parse_sum(text: &str) -> Option<[u8; 32]> {
    let mut sum = [0; 32];
    if text.len() != 2 * sum.len() {
        return None;
    }
    for (byte, digits) in sum.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |index: usize| char::from(digits[index]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(sum)
}

/// A sum in lower-case hexadecimal digits.
pub fn hex(sum: &[u8; 32]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares a file with its sum. The errors do not name the file.
pub fn verify(path: &Path, wanted: &[u8; 32], keep_on: &dyn Fn() -> bool) -> Result<()> {
    // Opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(Error::new(Status::ModelNotFound, "is not a file"));
    }
    let mut file = File::open(path).map_err(|error| unreadable(&error))?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut hash = Sha256::new();
    loop {
        if !keep_on() {
            return Err(Error::new(Status::Cancelled, "checking its SHA-256 was cancelled"));
        }
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(bytes) => hash.update(&piece[..bytes]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&error)),
        }
    }
    let found: [u8; 32] = hash.finalize().into();
    if found == *wanted {
        return Ok(());
    }
    Err(Error::new(
        Status::ModelInvalid,
        format!("its SHA-256 is {}, but model.json says {}", hex(&found), hex(wanted)),
    ))
}
