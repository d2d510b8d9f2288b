//! Whether an entry is the same in both trees, by containerd's rules.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::walk::Location;
use crate::error::{Error, Result};
use crate::sys;

/// `OVERLAYFS_SUPER_MAGIC` (linux/magic.h).
const OVERLAY: u64 = 0x794c_7630;

/// Whether both trees are overlay mounts.
pub(crate) fn both_overlay(lower: BorrowedFd<'_>, upper: BorrowedFd<'_>) -> bool {
    [lower, upper]
        .iter()
        .all(|fd| rustix::fs::fstatfs(fd).is_ok_and(|fs| fs.f_type as u64 == OVERLAY))
}

/// Compares `old`, which is in `old_dir`, with `at`.
///
/// Times decide for files; only where both have whole seconds, as unpacked layers do, is the content
/// compared. Directories differ by mode, owner and attributes, not by their times.
pub(crate) fn same(
    old_dir: BorrowedFd<'_>,
    old: &Stat,
    at: Location<'_>,
    overlay: bool,
) -> Result<bool> {
    let new = at.stat;
    if (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino) {
        return Ok(true);
    }
    let what = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_rdev);
    if what(old) != what(new) {
        return Ok(false);
    }
    // Two mounts of one overlay's layers give a file different devices but its real inode number and
    // change time; a copied-up file keeps the number and never the change time.
    let change = |s: &Stat| (s.st_ino, s.st_size, s.st_ctime, s.st_ctime_nsec);
    if overlay && !sys::is_dir(new) && change(old) == change(new) {
        return Ok(true);
    }
    let kind = sys::file_type(new);
    if matches!(kind, FileType::RegularFile | FileType::Directory) && !same_xattrs(old_dir, at)? {
        return Ok(false);
    }
    if kind == FileType::Directory {
        return Ok(true);
    }
    if (old.st_size, old.st_mtime) != (new.st_size, new.st_mtime) {
        return Ok(false);
    }
    if (old.st_mtime_nsec, new.st_mtime_nsec) != (0, 0) {
        return Ok(old.st_mtime_nsec == new.st_mtime_nsec);
    }
    match kind {
        FileType::Symlink => {
            let target = |dir: BorrowedFd<'_>| {
                rustix::fs::readlinkat(dir, at.name, Vec::new())
                    .map_err(|e| Error::io("readlinkat", at.path, e))
            };
            Ok(target(old_dir)? == target(at.dir)?)
        }
        FileType::RegularFile if new.st_size > 0 => same_content(old_dir, at),
        _ => Ok(true),
    }
}

fn same_xattrs(old_dir: BorrowedFd<'_>, at: Location<'_>) -> Result<bool> {
    let kind = sys::file_type(at.stat);
    Ok(archived_xattrs(old_dir, at.name, kind, at.path)?
        == archived_xattrs(at.dir, at.name, kind, at.path)?)
}

/// The attributes that belong into a layer, sorted: file capabilities and what users set. What the
/// host's administrator, security module or overlay wrote stays here.
pub(crate) fn archived_xattrs(
    dir: BorrowedFd<'_>,
    name: &[u8],
    kind: FileType,
    path: &[u8],
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(Vec::new());
    }
    let fd = open(dir, name, path)?;
    let mut found: Vec<_> = sys::xattrs(fd.as_fd(), path)?
        .into_iter()
        .map(|(name, value)| (name.into_bytes(), value))
        .filter(|(name, _)| {
            name == b"security.capability"
                || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        })
        .collect();
    found.sort();
    Ok(found)
}

pub(crate) fn open(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| Error::io("openat", path, e))
}

fn same_content(old_dir: BorrowedFd<'_>, at: Location<'_>) -> Result<bool> {
    const PIECE: usize = 128 * 1024;
    let files = [
        open(old_dir, at.name, at.path)?,
        open(at.dir, at.name, at.path)?,
    ];
    let mut buffers = [vec![0; PIECE], vec![0; PIECE]];
    loop {
        let mut lens = [0; 2];
        for ((file, buffer), len) in files.iter().zip(&mut buffers).zip(&mut lens) {
            *len = read_full(file.as_fd(), buffer, at.path)?;
        }
        if lens[0] != lens[1] || buffers[0][..lens[0]] != buffers[1][..lens[1]] {
            return Ok(false);
        }
        if lens[0] == 0 {
            return Ok(true);
        }
    }
}

fn read_full(fd: BorrowedFd<'_>, buffer: &mut [u8], path: &[u8]) -> Result<usize> {
    let mut at = 0;
    while at < buffer.len() {
        match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buffer[at..])) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(e) => return Err(Error::io("read", path, e)),
        }
    }
    Ok(at)
}
