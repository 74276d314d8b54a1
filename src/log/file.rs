//! A file that lines are added to, and that is renamed when it is full: `path` to `path.1`, that to `path.2`, and so on.

use super::FileSettings;
use crate::clock::now_ns;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How long to wait before a file that could not be opened is tried again.
const RETRY_NS: u64 = 1_000_000_000;

pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    /// `None`: it could not be opened after it was renamed.
    file: Option<File>,
    bytes: u64,
    retry_ns: u64,
    /// A line was written in part.
    torn: bool,
}

impl RotatingFile {
    pub fn open(path: &str, settings: &FileSettings) -> io::Result<Self> {
        let path = std::path::absolute(path)?; // the host may change its working directory
        let (file, bytes) = open(&path)?;
        let (max_bytes, keep) = (settings.max_bytes, settings.keep);
        Ok(RotatingFile { path, max_bytes, keep, file: Some(file), bytes, retry_ns: 0, torn: false })
    }

    /// Adds a line. False: it is lost.
    pub fn write(&mut self, line: &[u8]) -> bool {
        if self.bytes > 0 && self.bytes.saturating_add(line.len() as u64) > self.max_bytes {
            self.file = None; // some systems rename only what is closed
            self.rename();
            self.retry_ns = 0;
        }
        if self.file.is_none() && now_ns() >= self.retry_ns {
            match open(&self.path) {
                // If it could not be renamed, that is tried again when as much has been added.
                Ok((file, _)) => (self.file, self.bytes) = (Some(file), 0),
                Err(_) => self.retry_ns = now_ns() + RETRY_NS,
            }
        }
        let Some(file) = &mut self.file else { return false };
        if self.torn && file.write_all(b"\n").is_err() {
            return false;
        }
        self.torn = file.write_all(line).is_err();
        self.bytes += line.len() as u64;
        !self.torn
    }

    fn rename(&self) {
        // What is missing, or cannot be renamed, stays so: there is nobody to tell.
        if self.keep == 0 {
            let _ = fs::remove_file(&self.path);
            return;
        }
        for number in (1..self.keep).rev() {
            let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
        }
        let _ = fs::rename(&self.path, self.numbered(1));
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

/// The file, to add to, and its size.
fn open(path: &Path) -> io::Result<(File, u64)> {
    // Opening a pipe would wait for a reader, and renaming a device would be worse.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_in(directory: &Path, max_bytes: u64, keep: u32) -> RotatingFile {
        let path = directory.join("log").to_string_lossy().into_owned();
        let settings = FileSettings { path: None, max_bytes, keep };
        RotatingFile::open(&path, &settings).unwrap()
    }

    fn read(directory: &Path, name: &str) -> Option<String> {
        fs::read_to_string(directory.join(name)).ok()
    }

    #[test]
    fn a_full_file_is_renamed_and_so_many_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut file = open_in(directory, 10, 2);
        for line in ["1111\n", "2222\n", "3333\n", "4444\n", "5555\n", "6666\n", "7777\n"] {
            assert!(file.write(line.as_bytes()));
        }
        assert_eq!(read(directory, "log").unwrap(), "7777\n");
        assert_eq!(read(directory, "log.1").unwrap(), "5555\n6666\n");
        assert_eq!(read(directory, "log.2").unwrap(), "3333\n4444\n");
        assert_eq!(read(directory, "log.3"), None);
        drop(file);
        let mut file = open_in(directory, 10, 2); // goes on where it was
        assert!(file.write(b"8888\n") && file.write(b"longer than a file may be\n") && file.write(b"9\n"));
        assert_eq!(read(directory, "log").unwrap(), "9\n");
        assert_eq!(read(directory, "log.1").unwrap(), "longer than a file may be\n");
        assert_eq!(read(directory, "log.2").unwrap(), "7777\n8888\n");
    }

    #[test]
    fn without_any_to_keep_it_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = open_in(directory.path(), 10, 0);
        assert!(file.write(b"11111111\n") && file.write(b"2222\n"));
        assert_eq!(read(directory.path(), "log").unwrap(), "2222\n");
        assert_eq!(read(directory.path(), "log.1"), None);
    }

    #[test]
    fn what_cannot_be_renamed_or_opened_loses_lines_at_worst() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("log.1")).unwrap();
        fs::write(path.join("log.1/x"), "x").unwrap();
        let mut file = open_in(path, 10, 1);
        assert!(file.write(b"1111\n") && file.write(b"2222\n") && file.write(b"3333\n"));
        assert_eq!(read(path, "log").unwrap(), "1111\n2222\n3333\n");
        fs::remove_dir_all(path).unwrap();
        assert!(file.write(b"4444\n")); // there, but nobody sees it
        assert!(!file.write(b"5555\n") && !file.write(b"6666\n"));
        fs::create_dir(path).unwrap();
        file.retry_ns = 0;
        assert!(file.write(b"7777\n"));
        assert_eq!(read(path, "log").unwrap(), "7777\n");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let settings = FileSettings { path: None, max_bytes: 10, keep: 1 };
        assert!(RotatingFile::open(&directory.path().to_string_lossy(), &settings).is_err());
        assert!(RotatingFile::open("/dev/null", &settings).is_err());
        assert!(RotatingFile::open("", &settings).is_err());
    }
}
