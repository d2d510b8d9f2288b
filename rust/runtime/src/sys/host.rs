//! Questions about the host and this process's place on it. Unlike the rest of this room, these allocate:
//! they are the maker's, not the new process's.

use std::ffi::CString;

use super::check;

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
