//! Files: what tells one from another at the same path, private directories, and paths as the system takes them.

use std::fs::{DirBuilder, Metadata};
use std::path::Path;
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

/// Makes a directory that is the user's alone, where the system has Unix's permissions; elsewhere it has its parent's.
pub fn make_private_directory(path: &Path) -> std::io::Result<()> {
    #[cfg_attr(not(unix), expect(unused_mut))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// What C strings of paths are made of.
#[cfg(windows)]
pub type PathUnit = u16;
/// What C strings of paths are made of.
#[cfg(not(windows))]
pub type PathUnit = std::ffi::c_char;

/// A path as a C string; `None` if it has a NUL inside.
pub fn system_path(path: &Path) -> Option<Vec<PathUnit>> {
    #[cfg(windows)]
    let units = std::os::windows::ffi::OsStrExt::encode_wide(path.as_os_str());
    #[cfg(not(windows))]
    let units = path.to_str()?.bytes().map(|byte| byte as PathUnit);
    let mut units: Vec<PathUnit> = units.collect();
    let ends_early = units.contains(&0);
    units.push(0);
    (!ends_early).then_some(units)
}
