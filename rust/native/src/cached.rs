//! Files that are in the kernel's memory, read without ever waiting for a disk.

use std::io::IoSliceMut;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::ReadWriteFlags;

/// `length` bytes at `offset` of a file that has `size`; `None` whenever they are not to be had at once.
#[pyfunction]
#[pyo3(signature = (path, *, size, offset, length))]
pub fn read_cached(
    py: Python<'_>,
    path: PathBuf,
    size: u64,
    offset: u64,
    length: usize,
) -> Option<Bound<'_, PyBytes>> {
    // A descriptor of a file that was opened this way has been looked up in memory alone.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::CACHED).ok()?;
    let found = rustix::fs::fstat(&file).ok()?;
    if u64::try_from(found.st_size) != Ok(size) {
        return None;
    }
    let read = PyBytes::new_with(py, length, |buffer| {
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == length => Ok(()),
            _ => Err(PyErr::new::<pyo3::exceptions::PyBlockingIOError, _>(())),
        }
    });
    read.ok()
}
