//! Keeping the runtime's own file out of reach of containers.
//!
//! Until a container's process has executed its program it is a process of this file, and a hostile
//! image can make it execute itself (`#!/proc/self/exe`). Whoever then opens `/proc/PID/exe` could write
//! to the host's file. So the program runs from a detached read-only mount of itself: writing through it
//! fails, and nobody can change a mount that is in no namespace.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::error::{Context, Result};
use crate::sys::{self, MountAttr};

/// Set in the environment of the protected program.
pub const MARK: &str = "_CONTAINERD_HYBRID_PROTECTED";

/// Executes this program again from a protected mount of it, unless it is already. To be called first,
/// with one thread. Returns in the protected program.
pub fn reexec() -> Result<()> {
    if is_protected() {
        // SAFETY: called with one thread, as the caller promises.
        unsafe { std::env::remove_var(MARK) };
        return Ok(());
    }
    let tree = protected()?;
    let args: Vec<CString> = std::env::args_os()
        .filter_map(|arg| CString::new(arg.as_bytes()).ok())
        .collect();
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .chain(CString::new(format!("{MARK}=1")))
        .collect();
    let pointers = |list: &[CString]| -> Vec<*const i8> {
        let ends = std::iter::once(std::ptr::null());
        list.iter().map(|s| s.as_ptr().cast()).chain(ends).collect()
    };
    // SAFETY: both lists end with null and their strings live.
    let errno = unsafe { sys::execveat(tree.as_raw_fd(), &pointers(&args), &pointers(&env)) };
    Err(errno).context(what)
}

fn what() -> String {
    "protecting /proc/self/exe".into()
}

/// This program's file on a protected mount, to be executed (`execveat` with an empty path) with
/// [`MARK`] in its environment.
pub fn protected() -> Result<OwnedFd> {
    let tree = sys::open_tree(libc::AT_FDCWD, c"/proc/self/exe", false).context(what)?;
    let attr = MountAttr {
        set: sys::MOUNT_ATTR_RDONLY,
        ..Default::default()
    };
    sys::mount_setattr(tree.as_raw_fd(), false, &attr).context(what)?;
    Ok(tree)
}

/// Whether this program runs from a read-only mount in no namespace. The mark alone proves nothing: an
/// environment is easily made.
fn is_protected() -> bool {
    std::env::var_os(MARK).is_some() && {
        let file = sys::open(c"/proc/self/exe", libc::O_PATH);
        file.and_then(|file| sys::is_read_only(file.as_raw_fd()))
            .unwrap_or(false)
    }
}
