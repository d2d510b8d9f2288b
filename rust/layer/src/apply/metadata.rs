//! Owner, extended attributes, mode and times, in the order in which none undoes another: a change of
//! owner clears set-id bits and `security.capability`, so mode and attributes come after it.
//!
//! What already is as wanted is left alone: a `stat` costs a tenth of a journalled change, and a
//! needless `chown` would strip a hard-linked file of its capabilities.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::name::show;
use super::whiteout::Marks;
use crate::error::{Error, Result};
use crate::sys;
use crate::tar::{Entry, Time};

/// Access and modification time.
pub(crate) type Times = Timestamps;

/// What an entry wants its inode to look like.
pub(crate) struct Wanted<'a> {
    /// `None`: leave it to the caller.
    pub owner: Option<(u32, u32)>,
    pub mode: u32,
    pub times: Times,
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
    pub marks: Marks,
}

impl<'a> Wanted<'a> {
    pub(crate) fn of(entry: &'a Entry, same_owner: bool, marks: Marks) -> Result<Self> {
        Ok(Self {
            owner: same_owner.then(|| owner(entry)).transpose()?,
            mode: entry.mode,
            times: times(entry),
            xattrs: &entry.xattrs,
            marks,
        })
    }

    /// Sets all but the times on an open file or directory.
    pub(crate) fn set(
        &self,
        fd: BorrowedFd<'_>,
        path: &[u8],
        warn: &mut dyn FnMut(String),
    ) -> Result<()> {
        let stat = rustix::fs::fstat(fd).map_err(|e| Error::io("fstat", path, e))?;
        let chown = self
            .owner
            .filter(|&owner| owner != (stat.st_uid, stat.st_gid));
        if let Some((uid, gid)) = chown {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| chown_error(path, e))?;
        }
        self.set_xattrs(sys::file_type(&stat), path, warn, |name, value| {
            rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
        })?;
        if chown.is_some() || stat.st_mode & 0o7777 != self.mode {
            set_mode(fd, self.mode, path)?;
        }
        Ok(())
    }

    /// Sets everything on `name` in `dir`, which is no directory; a link is not followed.
    pub(crate) fn set_at(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        warn: &mut dyn FnMut(String),
    ) -> Result<()> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::io("fstatat", path, e))?;
        let kind = sys::file_type(&stat);
        let chown = self
            .owner
            .filter(|&owner| owner != (stat.st_uid, stat.st_gid));
        if let Some(owner) = chown {
            chown_at(dir, name, owner, path)?;
        }
        if !self.xattrs.is_empty() {
            // There is no setxattrat before Linux 6.13; the magic link stands for the directory only.
            let mut through = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
            through.extend_from_slice(name);
            self.set_xattrs(kind, path, warn, |name, value| {
                rustix::fs::lsetxattr(&through[..], name, value, XattrFlags::empty())
            })?;
        }
        let chmod = chown.is_some() || stat.st_mode & 0o7777 != self.mode;
        if chmod && kind != FileType::Symlink {
            chmod_at(dir, name, self.mode, path)?;
        }
        match same_mtime(&stat, &self.times) {
            true => Ok(()),
            false => set_times_at(dir, name, &self.times, path),
        }
    }

    fn set_xattrs(
        &self,
        kind: FileType,
        path: &[u8],
        warn: &mut dyn FnMut(String),
        set: impl Fn(&CString, &[u8]) -> Result<(), Errno>,
    ) -> Result<()> {
        for (key, value) in self.xattrs {
            let skipped =
                |why: &str| format!("{}: attribute {} left out: {why}", show(path), show(key));
            if self.marks.reserves(key) {
                warn(skipped("reserved to the host"));
                continue;
            }
            let name = CString::new(&key[..]).map_err(|_| {
                Error::invalid(format!("NUL in an attribute name of {}", show(path)))
            })?;
            match set(&name, value) {
                Ok(()) => {}
                // The user namespace of attributes exists on files and directories only (xattr(7)).
                Err(Errno::PERM)
                    if key.starts_with(b"user.")
                        && !matches!(kind, FileType::RegularFile | FileType::Directory) =>
                {
                    warn(skipped("not possible on this type of file"));
                }
                Err(Errno::NOTSUP) => warn(skipped("the file system does not support it")),
                Err(e) => {
                    let mut what = path.to_vec();
                    what.extend_from_slice(b" attribute ");
                    what.extend_from_slice(key);
                    return Err(Error::io("setxattr", &what, e));
                }
            }
        }
        Ok(())
    }
}

/// Owner and group of an entry; the kernel's IDs are 32 bits, and the last one means "none".
pub(crate) fn owner(entry: &Entry) -> Result<(u32, u32)> {
    let id = |value: i64, what: &str| match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::invalid(format!(
            "{what} {value} of {} is out of range",
            show(&entry.path)
        ))),
    };
    Ok((id(entry.uid, "uid")?, id(entry.gid, "gid")?))
}

/// Times out of the range every file system can hold become 1970, as containerd has it.
fn times(entry: &Entry) -> Times {
    const LAST: i64 = i64::MAX / 1_000_000_000;
    let bound = |time: Time| match (0..LAST).contains(&time.seconds) {
        true => Timespec {
            tv_sec: time.seconds,
            tv_nsec: i64::from(time.nanos),
        },
        false => Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
    };
    Times {
        last_access: bound(
            entry
                .atime
                .map_or(entry.mtime, |atime| atime.max(entry.mtime)),
        ),
        last_modification: bound(entry.mtime),
    }
}

fn same_mtime(stat: &Stat, times: &Times) -> bool {
    let mtime = times.last_modification;
    (stat.st_mtime, stat.st_mtime_nsec as i64) == (mtime.tv_sec, mtime.tv_nsec)
}

pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u32, path: &[u8]) -> Result<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(|e| Error::io("fchmod", path, e))
}

pub(crate) fn set_times(fd: BorrowedFd<'_>, times: &Times, path: &[u8]) -> Result<()> {
    rustix::fs::futimens(fd, times).map_err(|e| Error::io("futimens", path, e))
}

pub(crate) fn set_times_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    times: &Times,
    path: &[u8],
) -> Result<()> {
    rustix::fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Error::io("utimensat", path, e))
}

pub(crate) fn chown_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    owner: (u32, u32),
    path: &[u8],
) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| chown_error(path, e))
}

fn chown_error(path: &[u8], errno: Errno) -> Error {
    match errno {
        Errno::INVAL => Error::io(
            "chown (is the owner mapped in this user namespace?)",
            path,
            errno,
        ),
        errno => Error::io("chown", path, errno),
    }
}

/// `fchmodat` has no way not to follow links before Linux 6.6; an `O_PATH` descriptor has.
fn chmod_at(dir: BorrowedFd<'_>, name: &[u8], mode: u32, path: &[u8]) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| Error::io("openat", path, e))?;
    let through = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::chmod(through, Mode::from_raw_mode(mode)).map_err(|e| Error::io("chmod", path, e))
}
