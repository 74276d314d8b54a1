//! ONNX Runtime must not do behind the host's back what the host did not ask for: its own builds would start a
//! thread for usage data, and write to the user's cache directory. A program of its own, because it needs a
//! fresh process.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{engine, f32s, load, run};

/// The threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
#[cfg(target_os = "linux")]
fn no_thread_and_no_file_is_left_behind() {
    let home = tempfile::tempdir().unwrap();
    for variable in ["HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR"] {
        // The only test of this program, before any other thread of it reads the environment.
        unsafe { std::env::set_var(variable, home.path()) };
    }
    // Where these are set ONNX Runtime is silent by itself, and the test would prove nothing.
    for variable in ["CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "ORT_RUNNING_UNIT_TESTS"] {
        unsafe { std::env::remove_var(variable) };
    }
    let before = threads();
    let engine = engine(serde_json::json!({}));
    let model = load(&engine, "tiny");
    run(&engine, model, &[f32s(&[1, 4], &[0.0; 4])]);
    drop(engine);
    // The system forgets a thread a moment after it was joined.
    let began = std::time::Instant::now();
    while threads() > before && began.elapsed() < std::time::Duration::from_secs(5) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(threads(), before, "threads");
    let files: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.is_empty(), "{files:?}");
}
