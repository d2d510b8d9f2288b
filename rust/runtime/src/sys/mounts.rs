//! Mounts and roots.

use std::ffi::CStr;
use std::os::fd::{OwnedFd, RawFd};

use super::{Result, check, owned};

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
