//! The kernel: raw calls that libc has no wrapper for, or whose wrapper allocates or locks.
//!
//! Everything here is async-signal-safe and allocates nothing, so that it may be used between
//! `clone3` and `execve`.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

pub type Result<T> = std::result::Result<T, Errno>;

impl Errno {
    pub fn last() -> Self {
        // SAFETY: errno's location is valid for the calling thread.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl fmt::Display for Errno {
    /// The kernel's words as C and Go programs write them, without "(os error N)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_ascii_lowercase(), chars.as_str()),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<Errno> for std::io::Error {
    fn from(e: Errno) -> Self {
        std::io::Error::from_raw_os_error(e.0)
    }
}

impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Self {
        Self(e.raw_os_error().unwrap_or(libc::EIO))
    }
}

fn check(result: i64) -> Result<i64> {
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(result)
    }
}

/// A system call by number. Arguments are converted to words by the caller.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {
        // SAFETY: every pointer among the arguments comes from a live reference of this module's
        // safe wrappers and has the length that the call is told.
        check(unsafe { libc::syscall($number $(, $arg)*) })
    };
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
pub const CLONE_NEWTIME: u64 = 0x80;

/// Forks with `flags`; the child returns 0 here, on a copy of this stack.
///
/// # Safety
/// In the child only async-signal-safe work on data prepared before may follow, until `execve` or
/// `_exit`; it must not return into code that believes to be the parent.
pub unsafe fn clone3(flags: u64, cgroup: Option<RawFd>) -> Result<i32> {
    let parented = flags & libc::CLONE_PARENT as u64 != 0;
    let mut args = CloneArgs {
        flags,
        exit_signal: if parented { 0 } else { libc::SIGCHLD as u64 },
        ..Default::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd as u64;
    }
    let size = std::mem::size_of::<CloneArgs>();
    call!(libc::SYS_clone3, &raw const args, size).map(|pid| pid as i32)
}

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

pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// Changes a mount that a descriptor stands for, or everything below it too.
pub fn mount_setattr(fd: RawFd, recursive: bool, attr: &MountAttr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = std::mem::size_of::<MountAttr>();
    let attr = std::ptr::from_ref(attr);
    call!(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, attr, size).map(drop)
}

/// A detached copy of the mount at `path`, or of the tree of mounts there.
pub fn open_tree(dir: RawFd, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    const OPEN_TREE_CLONE: i32 = 1;
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC
        | libc::AT_EMPTY_PATH
        | if recursive { libc::AT_RECURSIVE } else { 0 };
    call!(libc::SYS_open_tree, dir, path.as_ptr(), flags).map(owned)
}

/// Puts the mount `from` on the place `to`.
pub fn move_mount(from: RawFd, to: RawFd) -> Result<()> {
    const EMPTY_PATHS: i32 = 0x4 | 0x40;
    let empty = c"".as_ptr();
    call!(libc::SYS_move_mount, from, empty, to, empty, EMPTY_PATHS).map(drop)
}

pub fn fsopen(kind: &CStr) -> Result<OwnedFd> {
    call!(libc::SYS_fsopen, kind.as_ptr(), 1).map(owned)
}

/// A parameter of a file system to be: a flag, or a string.
pub fn fsconfig(fs: RawFd, key: &CStr, value: Option<&CStr>) -> Result<()> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    let (command, value) = match value {
        None => (SET_FLAG, std::ptr::null()),
        Some(text) => (SET_STRING, text.as_ptr()),
    };
    call!(libc::SYS_fsconfig, fs, command, key.as_ptr(), value, 0).map(drop)
}

/// Makes the file system and a detached mount of it.
pub fn fsmount(fs: RawFd, attributes: u64) -> Result<OwnedFd> {
    const CREATE: u32 = 6;
    let null = std::ptr::null::<u8>();
    call!(libc::SYS_fsconfig, fs, CREATE, null, null, 0)?;
    call!(libc::SYS_fsmount, fs, 1, attributes).map(owned)
}

/// Changes the propagation or flags of a mount, the old way.
pub fn remount(path: &CStr, flags: u64) -> Result<()> {
    let null = std::ptr::null::<u8>();
    call!(libc::SYS_mount, null, path.as_ptr(), null, flags, null).map(drop)
}

pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Result<()> {
    let (source, target, kind) = (source.as_ptr(), target.as_ptr(), kind.as_ptr());
    call!(libc::SYS_mount, source, target, kind, flags, data.as_ptr()).map(drop)
}

pub fn pivot_root(new: &CStr, old: &CStr) -> Result<()> {
    call!(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()).map(drop)
}

pub fn umount(path: &CStr, flags: i32) -> Result<()> {
    call!(libc::SYS_umount2, path.as_ptr(), flags).map(drop)
}

pub fn chroot(path: &CStr) -> Result<()> {
    call!(libc::SYS_chroot, path.as_ptr()).map(drop)
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

pub fn unshare(flags: u64) -> Result<()> {
    call!(libc::SYS_unshare, flags).map(drop)
}

pub fn setns(fd: RawFd, flags: i32) -> Result<()> {
    call!(libc::SYS_setns, fd, flags).map(drop)
}

/// Whether this process may write there: not on a read-only file system, for one.
pub fn is_writable(path: &std::path::Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    call!(
        libc::SYS_faccessat,
        libc::AT_FDCWD,
        path.as_ptr(),
        libc::W_OK
    )
    .is_ok()
}

/// The user and group of this process.
pub fn identity() -> (u32, u32) {
    // SAFETY: cannot fail, and no memory is passed.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

pub fn is_root() -> bool {
    identity().0 == 0
}

/// Whether users of this process are not those of the host.
pub fn is_in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let host = ["0", "0", "4294967295"];
    !map.is_empty() && !map.split_whitespace().eq(host)
}

pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    call!(libc::SYS_pidfd_open, pid, 0).map(owned)
}

pub fn pidfd_send_signal(fd: RawFd, signal: i32) -> Result<()> {
    let null = std::ptr::null::<u8>();
    call!(libc::SYS_pidfd_send_signal, fd, signal, null, 0).map(drop)
}

/// A copy of another process's descriptor.
pub fn pidfd_getfd(process: RawFd, number: RawFd) -> Result<OwnedFd> {
    call!(libc::SYS_pidfd_getfd, process, number, 0).map(owned)
}

pub fn kill(pid: i32, signal: i32) -> Result<()> {
    call!(libc::SYS_kill, pid, signal).map(drop)
}

/// Waits until `fd` has something to read, or the time is over (`None`: for ever).
pub fn poll_in(fd: RawFd, timeout_ms: Option<i32>) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one live structure.
        match check(unsafe { libc::poll(&raw mut poll, 1, timeout_ms.unwrap_or(-1)) }.into()) {
            Ok(n) => return Ok(n > 0),
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Waits for a child; its wait status.
pub fn wait(pid: i32) -> Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives through the call.
        match check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }.into()) {
            Ok(_) => return Ok(status),
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A pair of connected sockets that keep message boundaries.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    Ok((owned(fds[0].into()), owned(fds[1].into())))
}

/// Makes receiving fail with `EAGAIN` when nothing comes for so long.
pub fn limit_receiving(socket: RawFd, limit: std::time::Duration) -> Result<()> {
    let time = libc::timeval {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_usec: limit.subsec_micros().into(),
    };
    let size = std::mem::size_of_val(&time) as libc::socklen_t;
    let level = libc::SOL_SOCKET;
    let time = (&raw const time).cast();
    // SAFETY: the option takes a timeval, which lives through the call.
    check(unsafe { libc::setsockopt(socket, level, libc::SO_RCVTIMEO, time, size) }.into())
        .map(drop)
}

const CONTROL: usize = 64;

/// Sends a message, with a descriptor if there is one.
pub fn send(socket: RawFd, data: &[u8], fd: Option<RawFd>) -> Result<()> {
    let mut iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let mut control = [0_u64; CONTROL / 8];
    // SAFETY: a zeroed header is valid; it is filled in below.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if let Some(fd) = fd {
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the control buffer is aligned and larger than one descriptor's message.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(4) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(message).cast::<RawFd>().write_unaligned(fd);
        }
    }
    call!(
        libc::SYS_sendmsg,
        socket,
        &raw const header,
        libc::MSG_NOSIGNAL
    )
    .map(drop)
}

/// Receives a message (length 0: the other side is gone) and a descriptor that came with it.
pub fn receive(socket: RawFd, data: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut iov = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let mut control = [0_u64; CONTROL / 8];
    // SAFETY: a zeroed header is valid; it is filled in below.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    let length = loop {
        match call!(libc::SYS_recvmsg, socket, &raw mut header, flags) {
            Ok(n) => break n as usize,
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    };
    // SAFETY: the kernel filled the control buffer; a rights message holds descriptors that are ours.
    let fd = unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        if !message.is_null()
            && (*message).cmsg_type == libc::SCM_RIGHTS
            && (*message).cmsg_len as usize >= libc::CMSG_LEN(4) as usize
        {
            let fd = libc::CMSG_DATA(message).cast::<RawFd>().read_unaligned();
            Some(OwnedFd::from_raw_fd(fd))
        } else {
            None
        }
    };
    Ok((length, fd))
}

pub fn accept(socket: RawFd) -> Result<OwnedFd> {
    let null = std::ptr::null::<u8>();
    loop {
        match call!(libc::SYS_accept4, socket, null, null, libc::SOCK_CLOEXEC) {
            Ok(fd) => return Ok(owned(fd)),
            Err(Errno(libc::EINTR | libc::ECONNABORTED)) => {}
            Err(e) => return Err(e),
        }
    }
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

pub fn prctl(option: i32, a: u64, b: u64, c: u64) -> Result<i64> {
    call!(libc::SYS_prctl, option, a, b, c, 0)
}

/// Sets the calling thread's permitted, effective and inheritable capabilities.
pub fn capset(permitted: u64, effective: u64, inheritable: u64) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let word = |set: u64, half: u32| (set >> (32 * half)) as u32;
    let mut data = [0_u32; 6];
    for half in 0..2 {
        let at = half as usize * 3;
        data[at] = word(effective, half);
        data[at + 1] = word(permitted, half);
        data[at + 2] = word(inheritable, half);
    }
    call!(libc::SYS_capset, header.as_ptr(), data.as_ptr()).map(drop)
}

/// The calling thread's (permitted, effective, inheritable) capabilities.
pub fn capget() -> Result<(u64, u64, u64)> {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0];
    let mut data = [0_u32; 6];
    call!(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr())?;
    let join = |at: usize| u64::from(data[at]) | u64::from(data[at + 3]) << 32;
    Ok((join(1), join(0), join(2)))
}

pub fn setgroups(groups: &[u32]) -> Result<()> {
    call!(libc::SYS_setgroups, groups.len(), groups.as_ptr()).map(drop)
}

pub fn setresgid(gid: u32) -> Result<()> {
    call!(libc::SYS_setresgid, gid, gid, gid).map(drop)
}

pub fn setresuid(uid: u32) -> Result<()> {
    call!(libc::SYS_setresuid, uid, uid, uid).map(drop)
}

/// Sets a limit of this process.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    let null = std::ptr::null::<u8>();
    call!(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), null).map(drop)
}

/// A limit of this process: soft and hard.
pub fn get_rlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = [0_u64; 2];
    let (null, to) = (std::ptr::null::<u8>(), limit.as_mut_ptr());
    call!(libc::SYS_prlimit64, 0, resource, null, to)?;
    Ok((limit[0], limit[1]))
}

pub fn personality(persona: u64) -> Result<()> {
    call!(libc::SYS_personality, persona).map(drop)
}

/// The NUMA policy of the calling thread; a mask without words is none.
pub fn set_mempolicy(mode: u32, nodes: &[u64]) -> Result<()> {
    let (mask, bits) = match nodes.len() {
        0 => (std::ptr::null(), 0),
        words => (nodes.as_ptr(), words * 64 + 1),
    };
    call!(libc::SYS_set_mempolicy, mode, mask, bits).map(drop)
}

pub fn sethostname(name: &[u8]) -> Result<()> {
    call!(libc::SYS_sethostname, name.as_ptr(), name.len()).map(drop)
}

pub fn setdomainname(name: &[u8]) -> Result<()> {
    call!(libc::SYS_setdomainname, name.as_ptr(), name.len()).map(drop)
}

pub fn join_session_keyring(name: &CStr) -> Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    call!(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()).map(drop)
}

pub fn ioprio_set(value: u32) -> Result<()> {
    const WHO_PROCESS: i32 = 1;
    call!(libc::SYS_ioprio_set, WHO_PROCESS, 0, value).map(drop)
}

/// `struct sched_attr`, its first version.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

pub fn sched_setattr(attr: &SchedAttr) -> Result<()> {
    call!(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0).map(drop)
}

/// Binds the calling thread to the processors whose bits are set.
pub fn sched_setaffinity(mask: &[u64]) -> Result<()> {
    let bytes = std::mem::size_of_val(mask);
    call!(libc::SYS_sched_setaffinity, 0, bytes, mask.as_ptr()).map(drop)
}

/// Loads a filter of packed `sock_filter` instructions. With `SECCOMP_FILTER_FLAG_NEW_LISTENER` the
/// notification descriptor comes back.
pub fn seccomp(program: &[u64], flags: u64) -> Result<Option<OwnedFd>> {
    const SET_MODE_FILTER: u32 = 1;
    const NEW_LISTENER: u64 = 8;
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const u64,
    }
    let program = Program {
        length: program.len() as u16,
        instructions: program.as_ptr(),
    };
    let result = call!(
        libc::SYS_seccomp,
        SET_MODE_FILTER,
        flags,
        &raw const program
    )?;
    Ok((flags & NEW_LISTENER != 0).then(|| owned(result)))
}

pub fn set_no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0).map(drop)
}

pub fn bpf(command: i32, attributes: &mut [u8]) -> Result<i64> {
    call!(
        libc::SYS_bpf,
        command,
        attributes.as_mut_ptr(),
        attributes.len()
    )
}

/// Handlers and blocked signals go back to what a new program expects.
pub fn reset_signals() {
    // SAFETY: SIG_DFL needs no handler; the sets and actions are live values of this frame.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
        let empty: u64 = 0;
        let null = std::ptr::null::<u8>();
        let size = std::mem::size_of::<u64>();
        let how = libc::SIG_SETMASK;
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const empty, null, size);
    }
}

/// Brings a network interface of the calling thread's namespace up.
pub fn interface_up(name: &[u8]) -> Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let socket = call!(libc::SYS_socket, libc::AF_INET, kind, 0).map(owned)?;
    // SAFETY: a zeroed request is valid; the name is shorter than its field.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        let fd = socket.as_raw_fd();
        check(libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request).into())?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut request).into())?;
    }
    Ok(())
}

/// A socket to the kernel's routing tables and devices.
pub fn route_socket() -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    call!(
        libc::SYS_socket,
        libc::AF_NETLINK,
        kind,
        libc::NETLINK_ROUTE
    )
    .map(owned)
}

fn interface(name: &[u8], index: i32, request: libc::c_ulong) -> Result<i32> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let socket = call!(libc::SYS_socket, libc::AF_UNIX, kind, 0).map(owned)?;
    // SAFETY: a zeroed request is valid, and lives; the name is cut to its field and its end.
    unsafe {
        let mut data: libc::ifreq = std::mem::zeroed();
        for (to, from) in data.ifr_name.iter_mut().take(15).zip(name) {
            *to = *from as libc::c_char;
        }
        data.ifr_ifru.ifru_ifindex = index;
        check(libc::ioctl(socket.as_raw_fd(), request, &raw mut data).into())?;
        Ok(data.ifr_ifru.ifru_ifindex)
    }
}

/// The number of a network device of the calling thread's namespace.
pub fn interface_index(name: &CStr) -> Result<u32> {
    interface(name.to_bytes(), 0, libc::SIOCGIFINDEX).map(|index| index as u32)
}

/// Whether a network device of the calling thread's namespace is set up.
pub fn interface_is_up(name: &CStr) -> Result<bool> {
    // The flags begin where the index does.
    let flags = interface(name.to_bytes(), 0, libc::SIOCGIFFLAGS)?;
    Ok(flags & libc::IFF_UP != 0)
}

pub fn interface_exists(index: u32) -> bool {
    const SIOCGIFNAME: libc::c_ulong = 0x8910;
    interface(b"", index as i32, SIOCGIFNAME).is_ok()
}

/// Unlocks a new pseudo-terminal and opens its other side, without a path.
pub fn open_slave(master: RawFd) -> Result<OwnedFd> {
    const TIOCSPTLCK: u64 = 0x4004_5431;
    const TIOCGPTPEER: u64 = 0x5441;
    let unlocked = 0_i32;
    call!(libc::SYS_ioctl, master, TIOCSPTLCK, &raw const unlocked)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    call!(libc::SYS_ioctl, master, TIOCGPTPEER, flags).map(owned)
}

pub fn set_window_size(terminal: RawFd, rows: u16, columns: u16) -> Result<()> {
    let size = [rows, columns, 0, 0];
    call!(libc::SYS_ioctl, terminal, libc::TIOCSWINSZ, size.as_ptr()).map(drop)
}

/// A session of its own, and the controlling terminal of it if one is given.
pub fn new_session() -> Result<()> {
    call!(libc::SYS_setsid).map(drop)
}

pub fn set_controlling_terminal(terminal: RawFd) -> Result<()> {
    call!(libc::SYS_ioctl, terminal, libc::TIOCSCTTY, 0).map(drop)
}

pub fn umask(mask: u32) {
    let _ = call!(libc::SYS_umask, mask);
}

pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

/// Replaces the program. Both lists end with a null pointer.
///
/// # Safety
/// The pointers in the lists must be strings that live.
pub unsafe fn execve(path: &CStr, args: &[*const i8], env: &[*const i8]) -> Errno {
    // SAFETY: by this function's own condition; the lists end with null.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr().cast(), env.as_ptr().cast()) };
    Errno::last()
}

/// Executes the file that `fd` is.
///
/// # Safety
/// As [`execve`].
pub unsafe fn execveat(fd: RawFd, args: &[*const i8], env: &[*const i8]) -> Errno {
    let (args, env) = (args.as_ptr(), env.as_ptr());
    match call!(
        libc::SYS_execveat,
        fd,
        c"".as_ptr(),
        args,
        env,
        libc::AT_EMPTY_PATH
    ) {
        Err(e) => e,
        Ok(_) => Errno(libc::EIO),
    }
}
