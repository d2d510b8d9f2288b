//! System calls that rustix does not have, and threads with a context of their own.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{mem, thread};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::{Error, Result};

/// Runs `work` in a thread with its own working directory.
pub(crate) fn with_own_cwd<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    in_thread(UnshareFlags::FS, work)
}

/// Runs `work` in a thread with its own mount namespace. What it mounts there is seen by nobody else and
/// gone with the thread; descriptors it returns stay good.
pub(crate) fn with_own_mounts<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    in_thread(UnshareFlags::NEWNS, || {
        // Shared mounts would carry what is mounted here back to where we came from.
        let change = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", change).map_err(|e| Error::io("make mounts private", "/", e))?;
        work()
    })
}

fn in_thread<T: Send>(flags: UnshareFlags, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let body = || {
        // SAFETY: the descriptor table stays shared (no FILES in any caller's flags), and the thread ends
        // with this closure, so nobody else runs in its changed context.
        unsafe { unshare_unsafe(flags) }.map_err(|e| Error::io("unshare", "mount thread", e))?;
        work()
    };
    thread::scope(|scope| {
        let handle = thread::Builder::new()
            .name("mount".into())
            .spawn_scoped(scope, body)
            .map_err(|e| Error::io("start", "mount thread", e))?;
        handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Gives the detached tree `mount`, mounts below included, the mapping of the user namespace `user_ns`,
/// and sets `attributes` (`MOUNT_ATTR_*`) on it.
pub(crate) fn map_ids(
    mount: BorrowedFd<'_>,
    user_ns: BorrowedFd<'_>,
    attributes: u64,
) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_IDMAP | attributes,
        propagation: u64::from(libc::MS_PRIVATE as u32),
        userns_fd: user_ns.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    let empty: &CStr = c"";
    // SAFETY: the path is NUL-terminated, `attr` is a valid mount_attr of the size that is given, and the
    // kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH | AT_RECURSIVE,
            &raw const attr,
            mem::size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Most bytes of options that mount(2) reads, the terminating NUL not counted.
pub(crate) fn data_limit() -> usize {
    rustix::param::page_size() - 1
}
