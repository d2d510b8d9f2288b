//! Processes: made, joined, awaited, ended, and what the calling one is set to.

use std::ffi::CStr;
use std::os::fd::{OwnedFd, RawFd};

use super::{Errno, Result, check, owned};

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

pub fn unshare(flags: u64) -> Result<()> {
    call!(libc::SYS_unshare, flags).map(drop)
}

pub fn setns(fd: RawFd, flags: i32) -> Result<()> {
    call!(libc::SYS_setns, fd, flags).map(drop)
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

pub fn prctl(option: i32, a: u64, b: u64, c: u64) -> Result<i64> {
    call!(libc::SYS_prctl, option, a, b, c, 0)
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
