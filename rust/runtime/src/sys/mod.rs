//! The kernel: raw calls that libc has no wrapper for, or whose wrapper allocates or locks.
//!
//! Everything here, except in `host`, is async-signal-safe and allocates nothing, so that it may be used
//! between `clone3` and `execve`. Whatever the room, callers name it `sys::CALL`.

use std::fmt;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

pub type Result<T> = std::result::Result<T, Errno>;

impl Errno {
    pub fn last() -> Self {
        // SAFETY: errno's location is valid for the calling thread.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl fmt::Display for Errno {
    /// The kernel's words as C and Go programs write them, without "(os error N)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_ascii_lowercase(), chars.as_str()),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<Errno> for std::io::Error {
    fn from(e: Errno) -> Self {
        std::io::Error::from_raw_os_error(e.0)
    }
}

impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Self {
        Self(e.raw_os_error().unwrap_or(libc::EIO))
    }
}

fn check(result: i64) -> Result<i64> {
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(result)
    }
}

/// A system call by number. Arguments are converted to words by the caller.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {
        // SAFETY: every pointer among the arguments comes from a live reference of this module's
        // safe wrappers and has the length that the call is told.
        check(unsafe { libc::syscall($number $(, $arg)*) })
    };
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

// After the macro, which they use.
mod files;
mod host;
mod mounts;
mod network;
mod process;
mod rights;
mod sockets;
mod terminals;

pub use self::files::*;
pub use self::host::*;
pub use self::mounts::*;
pub use self::network::*;
pub use self::process::*;
pub use self::rights::*;
pub use self::sockets::*;
pub use self::terminals::*;
