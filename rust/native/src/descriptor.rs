//! Descriptors that Python hands over.

use std::fs::File;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::{Class, Failure};

/// A duplicate of `fd`, with the same offset. Python may close its own at any time.
pub fn duplicate(fd: RawFd) -> Result<File, Failure> {
    let doing = format_args!("use descriptor {fd}").to_string();
    if fd < 0 {
        return Err(Failure::new(
            Class::InvalidArgument,
            format!("{doing}: it is negative"),
        ));
    }
    // SAFETY: the number is borrowed for one system call, which answers EBADF if nothing is open there.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let own = rustix::io::fcntl_dupfd_cloexec(borrowed, 0).map_err(|e| Failure::os(e, doing))?;
    Ok(own.into())
}

/// Opens a folder for reading; what is no folder is refused.
pub fn folder(path: &Path) -> Result<File, Failure> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path)
        .map_err(|e| Failure::os(e, format_args!("open folder {}", path.display())))
}
