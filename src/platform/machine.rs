//! What this machine's processor is called.

use std::sync::OnceLock;

/// The processor's name as the system has it; its architecture, if the system does not say.
pub fn cpu_name() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| from_system().unwrap_or_else(|| std::env::consts::ARCH.to_owned())).clone()
}

#[cfg(target_os = "linux")]
fn from_system() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(not(target_os = "linux"))]
fn from_system() -> Option<String> {
    None
}
