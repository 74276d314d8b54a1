//! CPU time: of threads, and of the whole process.

use std::thread::JoinHandle;

/// CPU time of threads, by their name, in nanoseconds. Threads of which the system does not say are left out.
pub fn threads_cpu_ns<'a>(threads: impl Iterator<Item = &'a JoinHandle<()>>) -> Vec<(String, u64)> {
    let named = |thread: &JoinHandle<()>| {
        Some((thread.thread().name().unwrap_or_default().to_owned(), thread_cpu_ns(thread)?))
    };
    threads.filter_map(named).collect()
}

#[cfg(target_os = "linux")]
fn thread_cpu_ns(thread: &JoinHandle<()>) -> Option<u64> {
    use std::os::unix::thread::JoinHandleExt;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the handle is not joined, so the thread's identifier is valid, even if it has ended.
    let error = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &mut clock) };
    if error != 0 { None } else { read(clock) }
}

#[cfg(not(target_os = "linux"))]
fn thread_cpu_ns(_: &JoinHandle<()>) -> Option<u64> {
    None
}

/// CPU time that the process has taken so far, in nanoseconds; `None` where the system does not say.
pub fn process_cpu_ns() -> Option<u64> {
    #[cfg(unix)]
    return read(libc::CLOCK_PROCESS_CPUTIME_ID);
    #[cfg(not(unix))]
    None
}

/// The time for which this machine's cores had nothing to do so far, all together, in nanoseconds; `None` where the system
/// does not say.
pub fn machine_idle_ns() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return idle_ticks(&std::fs::read_to_string("/proc/stat").ok()?).map(|ticks| {
        // SAFETY: it only returns a number.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
        ticks * (1_000_000_000 / per_second)
    });
    #[cfg(not(target_os = "linux"))]
    None
}

/// From the first line of `/proc/stat`: cpu, user, nice, system, idle, waiting for a disk, and more. Where these are not
/// counted they are 0.
#[cfg(any(target_os = "linux", test))]
fn idle_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().skip(3);
    let idle: u64 = fields.next()?.parse().ok()?;
    let waiting: u64 = fields.next().map_or(Some(0), |field| field.parse().ok())?;
    (idle > 0).then_some(idle + waiting)
}

#[cfg(unix)]
fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    let error = unsafe { libc::clock_gettime(clock, &mut time) };
    (error == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_read_as_the_system_writes_it() {
        assert_eq!(idle_ticks("cpu  11 22 33 4400 55 0 7\ncpu0 1 2 3 4 5"), Some(4455));
        assert_eq!(idle_ticks("cpu  11 22 33 4400"), Some(4400));
        for nothing in ["", "cpu  0 0 0 0 0", "cpu  1 2 3", "intr 1 2 3 4 5", "cpu  1 2 3 x"] {
            assert_eq!(idle_ticks(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_computes_takes_cpu_time() {
        use std::sync::atomic::{AtomicBool, Ordering};
        static STOP: AtomicBool = AtomicBool::new(false);
        let work = || {
            while !STOP.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let thread = std::thread::Builder::new().name("worker".into()).spawn(work).unwrap();
        let start = process_cpu_ns();
        let seen = || threads_cpu_ns(std::iter::once(&thread));
        while seen()[0].1 < 1_000_000 {
            std::thread::yield_now();
        }
        assert_eq!(seen()[0].0, "worker");
        assert!(process_cpu_ns() > start);
        STOP.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}
