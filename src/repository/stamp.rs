//! Whether the files of a version are still the same, without reading them.

use crate::platform::file_identity;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

/// Changes when any file of a version does: the names, sizes, modification times, inodes and permissions of what
/// is in its directory, at any depth and behind links, and of the model's `model.json`.
///
/// A file that is written in place, within the resolution of the file system's clock (some milliseconds) and to the
/// same size, is not noticed; one that is renamed into its place is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp([u8; 32]);

/// How deep directories are entered; what is deeper does not count.
const MAX_DEPTH: u32 = 64;

impl Stamp {
    /// No version's.
    pub fn none() -> Self {
        Stamp([0; 32])
    }

    /// The stamp of a version's directory and of the file that its model's versions share.
    pub(super) fn of(directory: &Path, shared: &Path) -> Self {
        let mut seen = Seen { hash: Sha256::new(), inside: BTreeSet::new(), depth: 0 };
        seen.add(OsStr::new("model.json"), shared);
        seen.add(OsStr::new("version"), directory);
        Stamp(seen.hash.finalize().into())
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({})", super::checksum::hex(&self.0))
    }
}

struct Seen {
    hash: Sha256,
    /// Directories, by device and inode, that were entered: links may lead back into them. Where the system tells
    /// neither, `MAX_DEPTH` ends that.
    inside: BTreeSet<(u64, u64)>,
    /// How many directories are entered and not left yet.
    depth: u32,
}

impl Seen {
    /// Adds a file, or a directory and what is in it. What cannot be read counts as the error that it gives.
    fn add(&mut self, name: &OsStr, path: &Path) {
        self.number(name.len() as u64);
        self.hash.update(name.as_encoded_bytes());
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.directory(path, &metadata),
            Ok(metadata) => {
                self.identity(b'f', &metadata);
                let identity = file_identity(&metadata);
                self.number(identity.bytes);
                self.hash.update(identity.written_ns.to_le_bytes());
            }
            Err(error) => self.error(&error),
        }
    }

    fn directory(&mut self, path: &Path, metadata: &Metadata) {
        self.identity(b'd', metadata);
        let place = file_identity(metadata).place;
        if self.depth == MAX_DEPTH || place.is_some_and(|place| !self.inside.insert(place)) {
            return;
        }
        let names: io::Result<Vec<_>> =
            fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        self.depth += 1;
        match names {
            Ok(mut names) => {
                names.sort();
                self.number(names.len() as u64);
                for name in names {
                    self.add(&name, &path.join(&name));
                }
            }
            Err(error) => self.error(&error),
        }
        self.depth -= 1;
    }

    fn identity(&mut self, kind: u8, metadata: &Metadata) {
        self.hash.update([kind]);
        let identity = file_identity(metadata);
        let (device, inode) = identity.place.unwrap_or_default();
        self.number(device);
        self.number(inode);
        self.number(u64::from(identity.mode));
    }

    fn error(&mut self, error: &io::Error) {
        self.hash.update(b"e");
        self.number(u64::from(error.raw_os_error().unwrap_or(0).cast_unsigned()));
    }

    fn number(&mut self, number: u64) {
        self.hash.update(number.to_le_bytes());
    }
}
