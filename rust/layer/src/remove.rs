//! Recursive removal.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::{self, join, split};

/// Removes the entry `name` of `parent` with all that is below it; `Ok(false)` when there was none.
///
/// Never follows a link and never enters another mount: a mount point inside is an error, and what
/// lies beside it may be gone by then. Depth and length of paths do not matter.
///
/// # Errors
/// [`Error::Escape`] at a mount point; [`Error::Io`], among others EINVAL for a `name` with a slash.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    let name = name.as_bytes();
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(Error::io("remove", name, Errno::INVAL));
    }
    // EISDIR says "directory" on Linux; EPERM is POSIX' answer, which some file systems give.
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        Err(e @ Errno::PERM) => match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if sys::is_dir(&stat) => {}
            _ => return Err(Error::io("unlinkat", name, e)),
        },
        Err(e) => return Err(Error::io("unlinkat", name, e)),
    }
    // Whoever still writes into the tree can make a directory non-empty again behind our back.
    for _ in 0..8 {
        if empty(parent, name)? {
            return Ok(true);
        }
    }
    Err(Error::io("unlinkat", name, Errno::NOTEMPTY))
}

/// One pass: unlink all files, then the directories, deepest first. False if some was not empty.
fn empty(parent: BorrowedFd<'_>, top: &[u8]) -> Result<bool> {
    let mut found = vec![top.to_vec()];
    let mut next = 0;
    while next < found.len() {
        let path = found[next].clone();
        next += 1;
        let dir = match sys::open_dir_below(parent, &path, true) {
            Ok(dir) => dir,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(e) => return Err(e),
        };
        sys::for_each_name(dir.as_fd(), &path, |name, kind| {
            if kind != FileType::Directory {
                match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => return Ok(()),
                    Err(Errno::ISDIR) => {}
                    Err(e) => return Err(Error::io("unlinkat", &join(&path, name.to_bytes()), e)),
                }
            }
            found.push(join(&path, name.to_bytes()));
            Ok(())
        })?;
    }
    let mut all = true;
    let mut open: Option<(Vec<u8>, std::os::fd::OwnedFd)> = None;
    for path in found.iter().rev() {
        let (above, name) = split(path);
        if open.as_ref().is_none_or(|(of, _)| of != above) {
            open = match sys::open_dir_below(parent, above, true) {
                Ok(fd) => Some((above.to_vec(), fd)),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(e) => return Err(e),
            };
        }
        let Some((_, fd)) = &open else { continue };
        match rustix::fs::unlinkat(fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY) => all = false,
            Err(e) => return Err(Error::io("unlinkat", path, e)),
        }
    }
    Ok(all)
}
