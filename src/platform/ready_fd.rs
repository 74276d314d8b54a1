//! A file descriptor that is readable while a queue has events, for the host's own poller.

#[cfg(not(unix))]
pub use none::ReadyFd;
#[cfg(unix)]
pub use unix::ReadyFd;

#[cfg(unix)]
mod unix {
    use crate::error::{Error, Result, Status};

    /// A pipe with at most one byte in it. (A pipe rather than an eventfd: every Unix has it.)
    pub struct ReadyFd {
        read: libc::c_int,
        write: libc::c_int,
        set: bool,
    }

    impl ReadyFd {
        pub fn new() -> Result<Self> {
            let mut ends = [-1; 2];
            if !pipe(&mut ends) {
                let error = std::io::Error::last_os_error();
                return Err(Error::new(Status::OutOfMemory, format!("cannot make a descriptor: {error}")));
            }
            Ok(ReadyFd { read: ends[0], write: ends[1], set: false })
        }

        /// The descriptor to watch for reading.
        pub fn number(&self) -> i32 {
            self.read
        }

        /// Makes the descriptor readable.
        pub fn set(&mut self) {
            if !self.set {
                // SAFETY: one byte from a valid address into a descriptor of our own. The pipe is empty.
                self.set = unsafe { libc::write(self.write, [1u8].as_ptr().cast(), 1) } == 1;
            }
        }

        /// Makes the descriptor unreadable.
        pub fn clear(&mut self) {
            if self.set {
                let mut byte = [0u8];
                // SAFETY: one byte into a valid address. Does not block: the byte is there.
                unsafe { libc::read(self.read, byte.as_mut_ptr().cast(), 1) };
                self.set = false;
            }
        }
    }

    /// Makes a pipe that does not block and ends with the program: at once, so that no other thread forks in between.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn pipe(ends: &mut [libc::c_int; 2]) -> bool {
        // SAFETY: `ends` has room for the two descriptors.
        unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) == 0 }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    fn pipe(ends: &mut [libc::c_int; 2]) -> bool {
        // SAFETY: `ends` has room for the two descriptors.
        if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
            return false;
        }
        for &mut end in ends {
            // SAFETY: `end` was opened just now. Setting flags on it cannot fail in a way that matters here.
            unsafe {
                libc::fcntl(end, libc::F_SETFD, libc::FD_CLOEXEC);
                libc::fcntl(end, libc::F_SETFL, libc::O_NONBLOCK);
            }
        }
        true
    }

    impl Drop for ReadyFd {
        fn drop(&mut self) {
            // SAFETY: both descriptors are ours and not used afterwards.
            unsafe {
                libc::close(self.read);
                libc::close(self.write);
            }
        }
    }
}

#[cfg(not(unix))]
mod none {
    use crate::error::{Error, Result, Status};

    /// There is none here: nothing that a poller of this system waits for could stand for a queue.
    pub enum ReadyFd {}

    impl ReadyFd {
        pub fn new() -> Result<Self> {
            Err(Error::new(
                Status::Unsupported,
                "this system has no file descriptors to poll: use blaze_wait with a time-out, or blaze_poll",
            ))
        }

        pub fn number(&self) -> i32 {
            match *self {}
        }

        pub fn set(&mut self) {
            match *self {}
        }

        pub fn clear(&mut self) {
            match *self {}
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn readable(fd: i32) -> bool {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    #[test]
    fn the_descriptor_follows_the_state() {
        let mut ready = ReadyFd::new().unwrap();
        assert!(!readable(ready.number()));
        ready.set();
        ready.set();
        assert!(readable(ready.number()));
        ready.clear();
        assert!(!readable(ready.number()));
        ready.set();
        assert!(readable(ready.number()));
    }
}
