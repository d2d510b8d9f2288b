//! The lower directories of an overlay: what a layer takes for granted from the layers below it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::metadata::{self, Times};
use super::whiteout::{Marks, is_whiteout};
use crate::error::{Error, Result};
use crate::sys::{self, openat2};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opened lower directories, nearest first.
pub(crate) struct Lower(Vec<OwnedFd>);

/// Something found in a lower directory.
pub(crate) struct Found {
    /// Its directory there, and where that really is, all links resolved.
    pub dir: OwnedFd,
    pub real_dir: Vec<u8>,
    pub stat: Stat,
}

impl Lower {
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self> {
        let open = |path: &PathBuf| {
            rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
                .map_err(|e| Error::io("open", path.as_os_str().as_bytes(), e))
        };
        paths.iter().map(open).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All names at the top of the lower layers.
    pub(crate) fn names(&self) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for lower in &self.0 {
            let dir = sys::open_dir_below(lower.as_fd(), b"", false)?;
            sys::for_each_name(dir.as_fd(), b".", |name, _| {
                names.insert(name.to_bytes().to_vec());
                Ok(())
            })?;
        }
        Ok(names)
    }

    /// Gives the new directory `target` owner, mode and attributes of the same `path` in the nearest
    /// layer that has it, and returns its times. `None` when no layer has it, or a nearer one has
    /// something else there.
    pub(crate) fn lend_metadata(
        &self,
        path: &[u8],
        target: BorrowedFd<'_>,
        marks: Marks,
    ) -> Result<Option<Times>> {
        for lower in &self.0 {
            let fd = match openat2(lower.as_fd(), path, readable(), Mode::empty(), INSIDE) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR) => break,
                Err(e) => return Err(Error::io("openat2", path, e)),
            };
            let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("fstat", path, e))?;
            copy_metadata(fd.as_fd(), &stat, target, path, marks)?;
            return Ok(Some(times(&stat)));
        }
        Ok(None)
    }

    /// The nearest layer's `name` in directory `dir`, if no nearer layer deleted it.
    pub(crate) fn find(&self, dir: &[u8], name: &[u8], path: &[u8]) -> Result<Option<Found>> {
        let dir = if dir.is_empty() { b"." } else { dir };
        for lower in &self.0 {
            let found =
                openat2(lower.as_fd(), dir, DIRECTORY, Mode::empty(), INSIDE).and_then(|at| {
                    Ok((
                        rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW)?,
                        at,
                    ))
                });
            match found {
                Ok((stat, _)) if is_whiteout(&stat) => break,
                Ok((stat, dir)) => {
                    let real_dir = sys::real_path(lower.as_fd(), dir.as_fd(), path)?;
                    return Ok(Some(Found {
                        dir,
                        real_dir,
                        stat,
                    }));
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(Error::io("openat2", path, e)),
            }
        }
        Ok(None)
    }
}

fn readable() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

pub(crate) fn times(stat: &Stat) -> Times {
    let spec = |tv_sec, nanos: u64| rustix::fs::Timespec {
        tv_sec,
        tv_nsec: nanos as i64,
    };
    Times {
        last_access: spec(stat.st_atime, stat.st_atime_nsec),
        last_modification: spec(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Owner, attributes and mode of `source`, which `stat` describes, for `target`.
pub(crate) fn copy_metadata(
    source: BorrowedFd<'_>,
    stat: &Stat,
    target: BorrowedFd<'_>,
    path: &[u8],
    marks: Marks,
) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::fchown(target, Some(uid), Some(gid)) {
        // Network file systems refuse even the owner a file already has.
        Err(Errno::PERM) if same_owner(target, stat) => {}
        Err(e) => return Err(Error::io("fchown", path, e)),
        Ok(()) => {}
    }
    for (name, value) in sys::xattrs(source, path)? {
        if marks.reserves(name.to_bytes()) || is_overlay_private(name.to_bytes()) {
            continue;
        }
        match rustix::fs::fsetxattr(target, &name, &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(e) => return Err(Error::io("fsetxattr", path, e)),
        }
    }
    metadata::set_mode(target, stat.st_mode & 0o7777, path)
}

fn is_overlay_private(name: &[u8]) -> bool {
    name.starts_with(b"user.overlay.")
}

fn same_owner(fd: BorrowedFd<'_>, wanted: &Stat) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| (stat.st_uid, stat.st_gid) == (wanted.st_uid, wanted.st_gid))
}

/// Whether a hard link to it can be made at all.
pub(crate) fn can_be_linked(stat: &Stat) -> bool {
    sys::file_type(stat) != FileType::Directory
}
