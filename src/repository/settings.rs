//! `model.json`: what a model's versions share, what one version has of its own, and both together.

use super::{MODEL_FILE, checksum, shown, unreadable};
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The longest `model.json` that is read.
const MAX_BYTES: usize = 1 << 20;

/// Which versions of a model are to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The newest that works.
    #[default]
    Newest,
    /// Every one.
    All,
    /// These: rising, without repetition, at least one.
    These(Vec<u32>),
}

/// One `model.json`; a file that is not there is as good as `{}`.
#[derive(Debug, Default)]
pub struct Settings {
    file: PathBuf,
    /// The keys of [`ModelConfig`].
    keys: Map<String, Value>,
    pub versions: Policy,
    pub checksums: Vec<(PathBuf, [u8; 32])>,
}

impl Settings {
    /// Reads what all versions of a model share.
    pub fn of_model(root: &Path, file: &Path) -> Result<Self> {
        let read = || {
            let mut settings = Self::read(file)?;
            settings.refuse("sha256", "belongs into a version's model.json")?;
            if let Some(value) = settings.keys.remove("versions") {
                settings.versions = parse_policy(&value)?;
            }
            Ok(settings)
        };
        read().map_err(|error: Error| error.within(shown(root, file)))
    }

    /// Reads what one version has of its own.
    pub fn of_version(root: &Path, file: &Path) -> Result<Self> {
        let read = || {
            let mut settings = Self::read(file)?;
            settings.refuse("versions", "belongs into the model.json of the model, a directory up")?;
            if let Some(value) = settings.keys.remove("sha256") {
                let directory = file.parent().unwrap_or(root);
                settings.checksums = checksum::parse(&value, directory, MODEL_FILE)?;
            }
            Ok(settings)
        };
        read().map_err(|error: Error| error.within(shown(root, file)))
    }

    fn read(file: &Path) -> Result<Self> {
        let text = match read_text(file)? {
            Some(text) => text,
            None => "{}".to_owned(),
        };
        let keys = match serde_json::from_str(&text) {
            Ok(Value::Object(keys)) => keys,
            Ok(_) => return Err(invalid("must be an object")),
            Err(error) => return Err(invalid(error.to_string())),
        };
        let settings = Settings { file: file.to_path_buf(), keys, ..Default::default() };
        for key in ["name", "version"] {
            settings.refuse(key, "must be left out: it comes from the directory's name")?;
        }
        settings.refuse("path", "must be left out: it comes from the directory")?;
        Ok(settings)
    }

    fn refuse(&self, key: &str, message: &str) -> Result<()> {
        match self.keys.contains_key(key) {
            true => Err(invalid(message).within(key)),
            false => Ok(()),
        }
    }

    /// Whether an error's message is about a key that is in this file.
    fn is_about(&self, message: &str) -> bool {
        self.keys.keys().any(|key| {
            message.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with(['.', '[', ':']))
        })
    }
}

/// A version's configuration, without its `path`. With the error comes the file that holds the wrong key.
pub fn merge<'a>(
    model: &'a Settings,
    own: &'a Settings,
    name: &str,
    version: u32,
) -> Result<ModelConfig, (Option<&'a Path>, Error)> {
    let mut keys = model.keys.clone();
    keys.extend(own.keys.clone());
    keys.insert("name".into(), name.into());
    keys.insert("version".into(), version.into());
    ModelConfig::from_value(Value::Object(keys)).map_err(|error| {
        let file = [own, model].into_iter().find(|settings| settings.is_about(&error.message));
        (file.map(|settings| settings.file.as_path()), error)
    })
}

/// A file's text; none if there is no file.
fn read_text(file: &Path) -> Result<Option<String>> {
    let cannot = |error: &std::io::Error| invalid(unreadable(error).message);
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => {}
        // A pipe would wait for a writer.
        Ok(_) => return Err(invalid("is not a file")),
        // A link that leads nowhere is a mistake, or a deployment half done; it does not mean the defaults.
        Err(error) => {
            let absent = error.kind() == ErrorKind::NotFound && fs::symlink_metadata(file).is_err();
            return if absent { Ok(None) } else { Err(cannot(&error)) };
        }
    }
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(|e| cannot(&e))?;
    if bytes.len() > MAX_BYTES {
        return Err(invalid(format!("has more than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| invalid("is not UTF-8"))
}

fn parse_policy(value: &Value) -> Result<Policy> {
    let these = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter().map(|v| v.as_u64().and_then(|v| u32::try_from(v).ok()).filter(|&v| v >= 1)).collect()
    };
    let policy = match value {
        Value::Null => Some(Policy::Newest),
        Value::String(text) if text == "newest" => Some(Policy::Newest),
        Value::String(text) if text == "all" => Some(Policy::All),
        Value::Array(list) if !list.is_empty() => these(list).map(|mut versions| {
            versions.sort_unstable();
            versions.dedup();
            Policy::These(versions)
        }),
        _ => None,
    };
    policy.ok_or_else(|| {
        invalid("must be \"newest\", \"all\" or a list of versions, as in [1, 3]").within("versions")
    })
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Status::InvalidConfig, message)
}
