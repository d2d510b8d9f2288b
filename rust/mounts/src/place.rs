//! Where a mount goes: a folder (or file) that is opened first and named by its descriptor afterwards.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// `openat2` answers EAGAIN when a rename elsewhere on the machine makes its check unsure.
const ATTEMPTS_ON_EAGAIN: usize = 128;

/// An opened mount point. Mounting goes through the descriptor, so that nobody can swap the path
/// for another one in between.
#[derive(Debug)]
pub(crate) struct Place {
    fd: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// Opens `below` inside `root`. Links in `root` itself are followed; links inside of it, absolute ones
    /// too, are resolved as if `root` were `/`, so that no link of an image leads out of it.
    pub(crate) fn resolve(root: &Path, below: &str) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let top =
            openat(CWD, root, flags, Mode::empty()).map_err(|e| Error::io("open", root, e))?;
        let fd = if below.is_empty() {
            top
        } else {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let mut attempts = 0;
            loop {
                match openat2(&top, below, flags, Mode::empty(), resolve) {
                    Err(Errno::AGAIN) if attempts < ATTEMPTS_ON_EAGAIN => attempts += 1,
                    Ok(fd) => break fd,
                    Err(e) => {
                        let named = root.join(below.trim_start_matches('/'));
                        return Err(Error::io("openat2", named, e));
                    }
                }
            }
        };
        let link = through_proc(fd.as_fd());
        let path = std::fs::read_link(&link).map_err(|e| Error::io("readlink", &link, e))?;
        Ok(Self { fd, path })
    }

    /// Opens the path anew, in the mount namespace of this thread: what is mounted on it by now. A link
    /// that was put in its place meanwhile is an error.
    pub(crate) fn reopen(&self) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = openat2(CWD, &self.path, flags, Mode::empty(), resolve)
            .map_err(|e| Error::io("openat2", &self.path, e))?;
        Ok(Self {
            fd,
            path: self.path.clone(),
        })
    }

    /// The path, links resolved, as it was when it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path that the kernel resolves to exactly this place.
    pub(crate) fn through_proc(&self) -> PathBuf {
        through_proc(self.fd.as_fd())
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn through_proc(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()))
}
