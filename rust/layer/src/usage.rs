//! Disk usage of a tree.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::{self, join};

/// Space a tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Allocated bytes (`st_blocks` × 512), hard links counted once.
    pub bytes: u64,
    /// Distinct inodes, the top directory included.
    pub inodes: u64,
}

/// Measures the tree below (and including) `dir`, as containerd's snapshotters report it.
///
/// Entries that vanish meanwhile are left out. Links are not followed.
///
/// # Errors
/// [`Error::Io`].
pub fn disk_usage(dir: BorrowedFd<'_>) -> Result<Usage> {
    let stat = rustix::fs::fstat(dir).map_err(|e| Error::io("fstat", b".", e))?;
    let mut usage = Usage {
        bytes: stat.st_blocks as u64 * 512,
        inodes: 1,
    };
    // Only inodes that can be met twice are remembered: memory stays flat for ordinary trees.
    let mut linked: HashSet<(u64, u64)> = HashSet::new();
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let dir = match sys::open_dir_below(dir, &path, false) {
            Ok(dir) => dir,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(e) => return Err(e),
        };
        sys::for_each_name(dir.as_fd(), &path, |name, _| {
            let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Ok(()),
                Err(e) => return Err(Error::io("fstatat", &join(&path, name.to_bytes()), e)),
            };
            if sys::is_dir(&stat) {
                pending.push(join(&path, name.to_bytes()));
            } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                return Ok(());
            }
            usage.bytes += stat.st_blocks as u64 * 512;
            usage.inodes += 1;
            Ok(())
        })?;
    }
    Ok(usage)
}
