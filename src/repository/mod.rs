//! A model repository: a directory of models and versions, read into what could be served.
//!
//! ```text
//! digits/model.json       for all versions; optional
//! digits/1/model.onnx
//! digits/2/model.onnx
//! digits/2/model.json     for this version: its top-level keys win; optional
//! ```
//!
//! A version is a whole number from 1 to 4294967295 without leading zeros. Other entries are ignored: plain files,
//! hidden ones, and names that are not UTF-8. Links are followed. Nothing here runs, waits or remembers: [`scan`]
//! reads the directory once, and whoever calls it again compares [`Stamp`]s.

mod checksum;
mod settings;
mod stamp;
#[cfg(test)]
mod tests;

pub use settings::Policy;
pub use stamp::Stamp;

use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use settings::Settings;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file that a version's directory holds.
const MODEL_FILE: &str = "model.onnx";
/// The file of a model's, or a version's, configuration.
const SETTINGS_FILE: &str = "model.json";

/// A model's directory.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    /// Which versions are to be served; `Newest` where `problem` keeps it from being known.
    pub versions: Policy,
    /// Ascending. Where there is a `problem` that they share, it is their configuration's error too.
    pub found: Vec<Version>,
    /// What is wrong with the model as a whole: its name, its `model.json`, or a directory that cannot be read
    /// (then `found` is empty, which does not say that there are no versions).
    pub problem: Option<Error>,
}

/// A version's directory.
#[derive(Clone, Debug)]
pub struct Version {
    pub version: u32,
    /// Taken before the files were read: if they change meanwhile, the next scan's stamp differs.
    pub stamp: Stamp,
    /// Complete, with the name, the version, and the absolute path of the model's file. Or what is wrong:
    /// `InvalidConfig`, or `ModelNotFound` for a file or directory that is not there or cannot be read.
    pub config: Result<ModelConfig>,
    /// Files, with absolute paths, and the SHA-256 that each must have; empty if `config` is an error.
    pub checksums: Vec<(PathBuf, [u8; 32])>,
    /// The repository's absolute path, which messages leave out.
    root: PathBuf,
}

/// Reads a repository; the entries are sorted by name.
///
/// What is wrong with a model or a version is in its entry. An error, `InvalidConfig`, means that the directory
/// itself cannot be read.
pub fn scan(directory: &Path) -> Result<Vec<Entry>> {
    let unreadable = |error: io::Error| {
        Error::new(Status::InvalidConfig, format!("{} cannot be read: {error}", directory.display()))
    };
    let root = std::path::absolute(directory).map_err(unreadable)?;
    let mut entries = Vec::new();
    for (name, kind) in directories(&root).map_err(unreadable)? {
        entries.push(read_entry(&root, name, kind));
    }
    Ok(entries)
}

impl Version {
    /// Compares the files with their sums, reading 1 MiB at a time and asking before each piece whether to go on.
    ///
    /// Errors: `ModelInvalid` for a wrong sum, `ModelNotFound` for a file that is not there or cannot be read,
    /// `Cancelled` once `keep_on` says no. A version without sums is fine.
    pub fn verify(&self, keep_on: &dyn Fn() -> bool) -> Result<()> {
        for (path, wanted) in &self.checksums {
            checksum::verify(path, wanted, keep_on).map_err(|error| error.within(shown(&self.root, path)))?;
        }
        Ok(())
    }
}

/// What a directory's entry is after links were followed: a directory, or something that cannot be looked at.
type Kind = io::Result<()>;

/// The directories in `directory`, sorted by name; also links that lead nowhere, which may be directories one day.
fn directories(directory: &Path) -> io::Result<Vec<(String, Kind)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => found.push((name, Ok(()))),
            Ok(_) => {}
            // Removed since it was listed: as if it had never been seen.
            Err(_) if fs::symlink_metadata(entry.path()).is_err() => {}
            Err(error) => found.push((name, Err(error))),
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// The number that a directory's name says, if it is a version's.
fn version_number(name: &str) -> Option<u32> {
    let digits = name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0');
    digits.then(|| name.parse().ok()).flatten()
}

fn read_entry(root: &Path, name: String, kind: Kind) -> Entry {
    let directory = root.join(&name);
    let listed = kind.and_then(|()| directories(&directory));
    let (listed, unlisted) = match listed {
        Ok(listed) => (listed, None),
        Err(error) => (Vec::new(), Some(unreadable(&error).within(&name))),
    };
    let settings = match unlisted {
        Some(error) => Err(error),
        None => ModelConfig::check_name(&name)
            .map_err(|error| error.within(&name))
            .and_then(|()| Settings::of_model(root, &directory.join(SETTINGS_FILE))),
    };
    let mut versions: Vec<(u32, Kind)> =
        listed.into_iter().filter_map(|(name, kind)| Some((version_number(&name)?, kind))).collect();
    versions.sort_by_key(|(version, _)| *version);
    let found = versions
        .into_iter()
        .map(|(version, kind)| read_version(root, &name, version, kind, settings.as_ref()))
        .collect();
    let (versions, problem) = match settings {
        Ok(settings) => (settings.versions, None),
        Err(error) => (Policy::Newest, Some(error)),
    };
    Entry { name, versions, found, problem }
}

fn read_version(
    root: &Path,
    name: &str,
    version: u32,
    kind: Kind,
    model: Result<&Settings, &Error>,
) -> Version {
    let directory = root.join(name).join(version.to_string());
    // First, so that a file that changes while it is read has another stamp in the next scan.
    let stamp = Stamp::of(&directory, &root.join(name).join(SETTINGS_FILE));
    let read = || {
        let model = model.map_err(Clone::clone)?;
        kind.map_err(|error| unreadable(&error).within(shown(root, &directory)))?;
        let own = Settings::of_version(root, &directory.join(SETTINGS_FILE))?;
        let mut config = settings::merge(model, &own, name, version)
            .map_err(|(file, error)| error.within(shown(root, file.unwrap_or(&directory))))?;
        config.path = model_file(root, &directory.join(MODEL_FILE), &config.backend)?;
        Ok((config, own.checksums))
    };
    let (config, checksums) = match read() {
        Ok((config, checksums)) => (Ok(config), checksums),
        Err(error) => (Err(error), Vec::new()),
    };
    Version { version, stamp, config, checksums, root: root.to_path_buf() }
}

/// The path of the model's file. Only `onnx` must have one.
fn model_file(root: &Path, path: &Path, backend: &str) -> Result<Option<String>> {
    let text = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => path.to_str(),
        Ok(_) => return Err(Error::new(Status::ModelNotFound, "is not a file").within(shown(root, path))),
        Err(_) if backend != "onnx" && fs::symlink_metadata(path).is_err() => return Ok(None),
        Err(error) => return Err(unreadable(&error).within(shown(root, path))),
    };
    let text = text.ok_or_else(|| {
        Error::new(Status::InvalidConfig, "the repository's path is not UTF-8").within(shown(root, path))
    })?;
    Ok(Some(text.to_owned()))
}

fn unreadable(error: &io::Error) -> Error {
    Error::new(Status::ModelNotFound, format!("cannot be read: {error}"))
}

/// A path as messages show it: relative to the repository.
fn shown<'a>(root: &Path, path: &'a Path) -> std::path::Display<'a> {
    path.strip_prefix(root).unwrap_or(path).display()
}
