//! Signals: those of the host's are for the host's threads.

/// While this lives, threads that the calling thread starts do not take signals, and keep it so. The thread itself takes those
/// that came meanwhile afterwards.
#[cfg(unix)]
pub struct SignalsBlocked(libc::sigset_t);

#[cfg(not(unix))]
pub struct SignalsBlocked;

/// Blocks what is meant for the process. What a thread brings upon itself stays as it is: blocked, it would end the process
/// without the host's handler having a say.
pub fn block_signals() -> SignalsBlocked {
    #[cfg(unix)]
    {
        const OWN: [libc::c_int; 6] =
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];
        // SAFETY: sets of signals are plain data, filled in before they are used.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            for signal in OWN {
                libc::sigdelset(&mut all, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
            SignalsBlocked(before)
        }
    }
    #[cfg(not(unix))]
    SignalsBlocked
}

#[cfg(unix)]
impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: what was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    /// Whether this thread has a signal blocked.
    fn blocked(signal: libc::c_int) -> bool {
        // SAFETY: asks for the set in force.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
            libc::sigismember(&set, signal) == 1
        }
    }

    #[test]
    fn threads_that_are_started_meanwhile_take_no_signals() {
        let before = blocked(libc::SIGUSR1);
        let thread = {
            let _blocked = block_signals();
            std::thread::spawn(|| (blocked(libc::SIGUSR1), blocked(libc::SIGTERM), blocked(libc::SIGSEGV)))
        };
        assert_eq!(thread.join().unwrap(), (true, true, false));
        assert_eq!(blocked(libc::SIGUSR1), before);
    }
}
