//! What a process may: users, capabilities, keys, filters.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use super::{Result, check, owned, prctl};

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

pub fn join_session_keyring(name: &CStr) -> Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    call!(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()).map(drop)
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
