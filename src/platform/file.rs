//! What tells one file from another at the same path.

use std::fs::Metadata;
use std::time::SystemTime;

/// Changes when a file is replaced or written to, as far as its metadata tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device and number of the file; `None` where the system does not say.
    pub place: Option<(u64, u64)>,
    /// Permissions; 0 where there are none of Unix's kind.
    pub mode: u32,
    pub bytes: u64,
    /// When it was written to, in nanoseconds since 1970.
    pub written_ns: u128,
}

pub fn file_identity(metadata: &Metadata) -> FileIdentity {
    #[cfg(unix)]
    let (place, mode) = {
        use std::os::unix::fs::MetadataExt;
        (Some((metadata.dev(), metadata.ino())), metadata.mode())
    };
    #[cfg(not(unix))]
    let (place, mode) = (None, 0);
    let written = metadata.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    FileIdentity { place, mode, bytes: metadata.len(), written_ns: written.map_or(0, |at| at.as_nanos()) }
}
