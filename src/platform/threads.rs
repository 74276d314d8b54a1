//! Threads of this process: their numbers, and the CPU time that they have taken.

use std::cell::Cell;

/// A thread, as the system sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadTime {
    pub id: u32,
    /// Cut to 15 bytes by Linux.
    pub name: String,
    pub cpu_ns: u64,
}

/// The system's number for this thread; where it has none, one of this process's own.
#[inline]
pub fn thread_id() -> u32 {
    thread_local! {
        static ID: Cell<u32> = const { Cell::new(0) };
    }
    match ID.get() {
        0 => {
            let id = ask_thread_id();
            ID.set(id);
            id
        }
        id => id,
    }
}

#[cfg(target_os = "linux")]
fn ask_thread_id() -> u32 {
    // SAFETY: takes nothing, and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

#[cfg(not(target_os = "linux"))]
fn ask_thread_id() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// All threads of the process that are there now; none where the system does not say.
pub fn thread_times() -> Vec<ThreadTime> {
    let mut times = Vec::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return times };
    for task in tasks.flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
        let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let cpu_ns = read("schedstat").and_then(|text| text.split(' ').next()?.parse().ok());
        if let (Some(name), Some(cpu_ns)) = (read("comm"), cpu_ns) {
            times.push(ThreadTime { id, name: name.trim_end().to_owned(), cpu_ns });
        }
    }
    times.sort_by_key(|time| time.id);
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::process_cpu_ns;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_thread_is_among_them_and_takes_time() {
        let find = || thread_times().into_iter().find(|time| time.id == thread_id()).unwrap();
        let (before, process) = (find(), process_cpu_ns().unwrap());
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 30 {
            std::hint::black_box(0);
        }
        assert!(process_cpu_ns().unwrap() > process && !before.name.is_empty());
        assert!(find().cpu_ns >= before.cpu_ns);
        let other = std::thread::spawn(thread_id).join().unwrap();
        assert_ne!(other, thread_id());
    }
}
