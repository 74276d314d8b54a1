//! The memory of this process, as the system counts it; and children, in which nothing else has taken memory yet.

use crate::abi::fail;
use serde_json::Value;
use std::fs;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

pub const MB: f64 = 1e6;

/// The fields of /proc/self/status, in bytes.
fn bytes_of(status: &str, fields: &[&str]) -> u64 {
    let of = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        fields.contains(&name).then(|| rest.split_whitespace().next()?.parse::<u64>().ok()).flatten()
    };
    status.lines().filter_map(of).sum::<u64>() * 1024
}

/// Bytes in memory now: anonymous pages and those of files.
pub fn resident() -> u64 {
    bytes_of(&fs::read_to_string("/proc/self/status").unwrap_or_default(), &["RssAnon", "RssFile"])
}

/// Anonymous pages and those of files, in MB.
pub fn parts_mb() -> (f64, f64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    (bytes_of(&status, &["RssAnon"]) as f64 / MB, bytes_of(&status, &["RssFile"]) as f64 / MB)
}

pub fn mb_between(before: u64, after: u64) -> f64 {
    (after as f64 - before as f64) / MB
}

/// Looks every 2 ms how much memory the process has, and keeps the most.
pub struct Watch {
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    pub fn start() -> Watch {
        // The system's own greatest value begins anew.
        let _ = fs::write("/proc/self/clear_refs", "5");
        let (most, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (shared, ends) = (Arc::clone(&most), Arc::clone(&over));
        let thread = spawn(move || {
            let Ok(mut file) = fs::File::open("/proc/self/status") else { return };
            let mut text = String::with_capacity(4096);
            while !ends.load(Ordering::Relaxed) {
                text.clear();
                if file.rewind().and_then(|()| file.read_to_string(&mut text)).is_ok() {
                    shared.fetch_max(bytes_of(&text, &["RssAnon", "RssFile"]), Ordering::Relaxed);
                }
                sleep(Duration::from_millis(2));
            }
        });
        Watch { most, over, thread }
    }

    /// The greatest value seen, and the system's own, which misses nothing.
    pub fn end(self) -> (u64, u64) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        (self.most.load(Ordering::Relaxed), bytes_of(&status, &["VmHWM"]))
    }
}

/// Runs a part of a measurement in a process of its own, and returns what it found out.
pub fn child(part: &str, quick: bool, limit: Duration) -> Result<Value, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg(format!("--child={part}")).args(quick.then_some("--quick")).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut output = child.stdout.take().unwrap_or_else(|| fail("a child has no output"));
    let reader = spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let began = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if began.elapsed() < limit => sleep(Duration::from_millis(10)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it has not ended within {} s", limit.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let text = reader.join().map_err(|_| "its output cannot be read")?.map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("it has ended with {status}"));
    }
    serde_json::from_str(text.lines().last().unwrap_or_default()).map_err(|error| error.to_string())
}
