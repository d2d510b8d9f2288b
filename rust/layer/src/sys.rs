//! Small pieces over rustix: directory listing, opening below a root, extended attributes.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Longest path handed to the kernel at once; PATH_MAX less the terminating NUL.
pub(crate) const PATH_MAX: usize = libc::PATH_MAX as usize - 1;

pub(crate) fn is_dir(stat: &Stat) -> bool {
    file_type(stat) == FileType::Directory
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// `parent/name`, or `name` alone at the top.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    if !parent.is_empty() {
        path.extend_from_slice(parent);
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The part before the last slash (empty at the top) and the part after it.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}

/// Calls `visit` with each name in `dir` but `.` and `..`, in the file system's order, and its type
/// as the directory tells it (may be `Unknown`). `path` serves error messages only.
pub(crate) fn for_each_name(
    dir: BorrowedFd<'_>,
    path: &[u8],
    mut visit: impl FnMut(&CStr, FileType) -> Result<()>,
) -> Result<()> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|e| Error::io("getdents", path, e))?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        visit(entry.file_name(), entry.file_type())?;
    }
    Ok(())
}

/// Opens the directory `path` below `root` without following any link; `path` may exceed PATH_MAX.
/// With `same_mount` a mount point on the way is refused ([`Error::Escape`]).
pub(crate) fn open_dir_below(
    root: BorrowedFd<'_>,
    path: &[u8],
    same_mount: bool,
) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    if same_mount {
        resolve |= ResolveFlags::NO_XDEV;
    }
    let mut at: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let (head, tail) = if rest.len() <= PATH_MAX {
            (rest, &b""[..])
        } else {
            let cut = rest[..PATH_MAX]
                .iter()
                .rposition(|&b| b == b'/')
                .unwrap_or(PATH_MAX);
            (&rest[..cut], &rest[(cut + 1).min(rest.len())..])
        };
        let head = if head.is_empty() { b"." } else { head };
        let from = at.as_ref().map_or(root, |fd| fd.as_fd());
        let fd = openat2(from, head, flags, Mode::empty(), resolve)
            .map_err(|e| Error::io("openat2", path, e))?;
        if tail.is_empty() {
            return Ok(fd);
        }
        at = Some(fd);
        rest = tail;
    }
}

/// Where the directory `dir` lies below `root`, all links resolved. `path` serves error messages only.
pub(crate) fn real_path(root: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>> {
    let link = |fd: BorrowedFd<'_>| {
        rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())
            .map(CString::into_bytes)
            .map_err(|e| Error::io("readlink", path, e))
    };
    let (root, dir) = (link(root)?, link(dir)?);
    let below = dir
        .strip_prefix(&root[..])
        .filter(|below| root == b"/" || matches!(below, [] | [b'/', ..]));
    let below = below.ok_or_else(|| Error::io("readlink", path, Errno::NOENT))?;
    Ok(below.strip_prefix(b"/").unwrap_or(below).to_vec())
}

/// `openat2`, asked again when the kernel could not exclude a race with a rename elsewhere.
pub(crate) fn openat2(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..64 {
        match rustix::fs::openat2(dir, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// All extended attributes of an open file; none where the file system has no such thing.
pub(crate) fn xattrs(fd: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut names = Vec::new();
    let mut found = Vec::new();
    match grow(&mut names, |buffer| rustix::fs::flistxattr(fd, buffer)) {
        Ok(()) => {}
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(found),
        Err(e) => return Err(Error::io("flistxattr", path, e)),
    }
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name).expect("split at NUL");
        let mut value = Vec::new();
        match grow(&mut value, |buffer| {
            rustix::fs::fgetxattr(fd, &name, buffer)
        }) {
            Ok(()) => found.push((name, value)),
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(Error::io("fgetxattr", path, e)),
        }
    }
    Ok(found)
}

/// Calls `get` with larger and larger buffers until the answer fits; most fit the first time.
pub(crate) fn grow(
    buffer: &mut Vec<u8>,
    mut get: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    buffer.resize(256, 0);
    loop {
        match get(buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(());
            }
            // The kernel holds names and values to 64 KiB each.
            Err(Errno::RANGE) if buffer.len() <= 1 << 16 => buffer.resize(buffer.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}
