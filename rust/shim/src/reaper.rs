//! Signals and the exits of children.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Signals the loop reads; all are blocked for it.
const SIGNALS: [libc::c_int; 5] = [
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGUSR1,
    libc::SIGHUP,
];

/// Blocks the signals the loop handles and opens a descriptor to read them from. Whatever the
/// parent ignored is reset, so that children start with defaults.
pub fn signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: plain calls on local signal sets; the returned descriptor is owned by nobody else.
    unsafe {
        for signal in 1..libc::SIGRTMIN() {
            if signal != libc::SIGPIPE {
                // Fails for SIGKILL and SIGSTOP, as it must.
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in SIGNALS {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

/// Makes this process the parent of its descendants' orphans.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: sets a flag of this process; no memory is passed.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// All signals that have come.
pub fn drain_signals(fd: &OwnedFd) -> Vec<i32> {
    const SIZE: usize = size_of::<libc::signalfd_siginfo>();
    let mut signals = Vec::new();
    let mut buffer = [0; SIZE];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            // The signal's number is the first field of the record.
            Ok(SIZE) => {
                signals.push(i32::from_ne_bytes([
                    buffer[0], buffer[1], buffer[2], buffer[3],
                ]));
            }
            Err(rustix::io::Errno::INTR) => {}
            _ => return signals,
        }
    }
}

/// Reaps one exited child: its pid and wait status.
pub fn reap_one() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: writes a wait status to a live integer.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}
