//! Files and descriptors.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{Errno, Result, check, owned};

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub const RESOLVE_BENEATH: u64 = 0x08;
pub const RESOLVE_IN_ROOT: u64 = 0x10;

/// Opens `path` below `dir`, close-on-exec. Retries what a racing rename made uncertain.
pub fn openat2(dir: RawFd, path: &CStr, flags: i32, resolve: u64) -> Result<OwnedFd> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve,
    };
    let size = std::mem::size_of::<OpenHow>();
    let mut tries = 0;
    loop {
        match call!(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, size) {
            Ok(fd) => return Ok(owned(fd)),
            Err(Errno(libc::EAGAIN | libc::EINTR)) if tries < 128 => tries += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Opens what `path` names inside of the tree `root`, whatever symbolic links say.
pub fn open_in_root(root: RawFd, path: &CStr, flags: i32) -> Result<OwnedFd> {
    openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
}

pub fn open(path: &CStr, flags: i32) -> Result<OwnedFd> {
    openat(libc::AT_FDCWD, path, flags, 0)
}

pub fn openat(dir: RawFd, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC;
    call!(libc::SYS_openat, dir, path.as_ptr(), flags, mode).map(owned)
}

pub fn mkdirat(dir: RawFd, name: &CStr, mode: u32) -> Result<()> {
    call!(libc::SYS_mkdirat, dir, name.as_ptr(), mode).map(drop)
}

pub fn mknodat(dir: RawFd, name: &CStr, mode: u32, dev: u64) -> Result<()> {
    call!(libc::SYS_mknodat, dir, name.as_ptr(), mode, dev).map(drop)
}

pub fn symlinkat(target: &CStr, dir: RawFd, name: &CStr) -> Result<()> {
    call!(libc::SYS_symlinkat, target.as_ptr(), dir, name.as_ptr()).map(drop)
}

pub fn unlinkat(dir: RawFd, name: &CStr, flags: i32) -> Result<()> {
    call!(libc::SYS_unlinkat, dir, name.as_ptr(), flags).map(drop)
}

/// Reads a symbolic link into `buffer`; its length comes back.
pub fn readlinkat(dir: RawFd, name: &CStr, buffer: &mut [u8]) -> Result<usize> {
    let (pointer, length) = (buffer.as_mut_ptr(), buffer.len());
    call!(libc::SYS_readlinkat, dir, name.as_ptr(), pointer, length).map(|n| n as usize)
}

pub fn fchownat(dir: RawFd, name: &CStr, uid: u32, gid: u32, flags: i32) -> Result<()> {
    call!(libc::SYS_fchownat, dir, name.as_ptr(), uid, gid, flags).map(drop)
}

pub fn fchmodat(dir: RawFd, name: &CStr, mode: u32) -> Result<()> {
    call!(libc::SYS_fchmodat, dir, name.as_ptr(), mode).map(drop)
}

pub fn faccessat(dir: RawFd, path: &CStr, mode: i32) -> Result<()> {
    call!(
        libc::SYS_faccessat2,
        dir,
        path.as_ptr(),
        mode,
        libc::AT_EACCESS
    )
    .map(drop)
}

/// What `stat` says of the file that `fd` is.
pub fn fstat(fd: RawFd) -> Result<libc::stat> {
    // SAFETY: a zeroed stat is a valid value to be filled in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` lives through the call.
    check(unsafe { libc::fstat(fd, &raw mut stat) }.into())?;
    Ok(stat)
}

pub fn stat(path: &CStr) -> Result<libc::stat> {
    // SAFETY: a zeroed stat is a valid value to be filled in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers live through the call.
    check(unsafe { libc::stat(path.as_ptr(), &raw mut stat) }.into())?;
    Ok(stat)
}

/// The magic number of the file system that `fd` is on.
pub fn fs_magic(fd: RawFd) -> Result<i64> {
    // SAFETY: a zeroed statfs is a valid value to be filled in.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` lives through the call.
    check(unsafe { libc::fstatfs(fd, &raw mut stat) }.into())?;
    Ok(stat.f_type)
}

/// Whether the mount that `fd` is on is read-only.
pub fn is_read_only(fd: RawFd) -> Result<bool> {
    // SAFETY: a zeroed statvfs is a valid value to be filled in.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` lives through the call.
    check(unsafe { libc::fstatvfs(fd, &raw mut stat) }.into())?;
    Ok(stat.f_flag & libc::ST_RDONLY != 0)
}

pub fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match call!(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) {
            Ok(n) => return Ok(n as usize),
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
}

pub fn write(fd: RawFd, data: &[u8]) -> Result<usize> {
    loop {
        match call!(libc::SYS_write, fd, data.as_ptr(), data.len()) {
            Ok(n) => return Ok(n as usize),
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reads raw directory entries; their length in bytes, 0 at the end.
pub fn directory_entries(fd: RawFd, buffer: &mut [u64]) -> Result<usize> {
    let (pointer, bytes) = (buffer.as_mut_ptr(), std::mem::size_of_val(buffer));
    call!(libc::SYS_getdents64, fd, pointer, bytes).map(|n| n as usize)
}

/// The name of the entry at a byte of the buffer, and where the next one is.
pub fn directory_entry(buffer: &[u64], at: usize) -> Result<(&CStr, usize)> {
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    // SAFETY: any u64s are that many bytes.
    let bytes = unsafe {
        std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), std::mem::size_of_val(buffer))
    };
    let entry = bytes.get(at..).unwrap_or_default();
    if entry.len() <= NAME {
        return Err(Errno(libc::EIO));
    }
    let length = u16::from_ne_bytes([entry[LENGTH], entry[LENGTH + 1]]) as usize;
    let name = entry.get(NAME..length).unwrap_or_default();
    let name = CStr::from_bytes_until_nul(name).map_err(|_| Errno(libc::EIO))?;
    Ok((name, at + length))
}

pub fn close(fd: RawFd) {
    let _ = call!(libc::SYS_close, fd);
}

pub fn lseek_start(fd: RawFd) -> Result<()> {
    call!(libc::SYS_lseek, fd, 0, libc::SEEK_SET).map(drop)
}

/// Duplicates `fd` to the number `target`, which stays open across `execve`.
pub fn dup_to(fd: RawFd, target: RawFd) -> Result<()> {
    if fd == target {
        call!(libc::SYS_fcntl, fd, libc::F_SETFD, 0).map(drop)
    } else {
        call!(libc::SYS_dup3, fd, target, 0).map(drop)
    }
}

/// Marks every descriptor from `first` on as closed by `execve`.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    call!(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC).map(drop)
}

/// Closes every descriptor from `first` on except those in `keep`, which is sorted for it.
pub fn close_all_from(first: RawFd, keep: &mut [RawFd]) -> Result<()> {
    keep.sort_unstable();
    let mut from = first;
    for kept in keep.iter().copied().filter(|fd| *fd >= first) {
        if kept > from {
            call!(libc::SYS_close_range, from, kept - 1, 0)?;
        }
        from = kept + 1;
    }
    call!(libc::SYS_close_range, from, u32::MAX, 0).map(drop)
}

pub fn chdir(path: &CStr) -> Result<()> {
    call!(libc::SYS_chdir, path.as_ptr()).map(drop)
}

pub fn fchdir(fd: RawFd) -> Result<()> {
    call!(libc::SYS_fchdir, fd).map(drop)
}

/// The kernel's own answer: a path that begins with `(unreachable)` is outside of the root.
pub fn getcwd(buffer: &mut [u8]) -> Result<usize> {
    let (pointer, length) = (buffer.as_mut_ptr(), buffer.len());
    call!(libc::SYS_getcwd, pointer, length).map(|n| n as usize)
}

/// A file in memory with this content, at its beginning.
pub fn memory_file(name: &CStr, content: &[u8]) -> Result<OwnedFd> {
    let fd = call!(libc::SYS_memfd_create, name.as_ptr(), libc::MFD_CLOEXEC).map(owned)?;
    let mut rest = content;
    while !rest.is_empty() {
        let n = write(fd.as_raw_fd(), rest)?;
        rest = &rest[n..];
    }
    lseek_start(fd.as_raw_fd())?;
    Ok(fd)
}
