//! Terminals and sessions.

use std::os::fd::{OwnedFd, RawFd};

use super::{Result, check, owned};

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
