//! Waiting for a process in the foreground: its signals, its terminal, its exit code.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use runtime::{Error, sys};

use super::commands::{Console, is_terminal};

static PROCESS: AtomicI32 = AtomicI32::new(0);
static RESIZED: AtomicI32 = AtomicI32::new(0);

extern "C" fn forward(signal: i32) {
    if signal == libc::SIGWINCH {
        RESIZED.store(1, Ordering::Relaxed);
    } else {
        let _ = sys::kill(PROCESS.load(Ordering::Relaxed), signal);
    }
}

/// Waits for the process and returns its exit code; copies its terminal to this one meanwhile.
pub fn attend(pid: i32, console: Console) -> Result<u8, Error> {
    let failed = |e: sys::Errno| Error::failed(format!("waiting for process {pid}: {e}"));
    PROCESS.store(pid, Ordering::Relaxed);
    let forwarded = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGWINCH,
    ];
    for signal in forwarded {
        // SAFETY: the handler only stores an atomic or calls kill(2).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(i32) = forward;
            action.sa_sigaction = handler as usize;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
    if let Some(master) = console {
        copy(master.as_raw_fd());
    }
    let status = sys::wait(pid).map_err(failed)?;
    Ok(match libc::WIFSIGNALED(status) {
        true => 128 + libc::WTERMSIG(status) as u8,
        false => libc::WEXITSTATUS(status) as u8,
    })
}

/// Rows and columns of this terminal.
pub fn window_size() -> Option<(u32, u32)> {
    // SAFETY: the structure lives through the call.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size) == 0).then_some(size)
    };
    size.map(|s| (u32::from(s.ws_row), u32::from(s.ws_col)))
}

/// This terminal without its own line editing, until dropped.
struct Raw(libc::termios);

impl Raw {
    fn enter() -> Option<Self> {
        if !is_terminal(std::io::stdin()) {
            return None;
        }
        // SAFETY: the structures live through the calls.
        unsafe {
            let mut old: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(0, &raw mut old) != 0 {
                return None;
            }
            let mut raw = old;
            libc::cfmakeraw(&raw mut raw);
            libc::tcsetattr(0, libc::TCSANOW, &raw const raw);
            Some(Self(old))
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: what was read from this terminal.
        unsafe { libc::tcsetattr(0, libc::TCSANOW, &raw const self.0) };
    }
}

/// Copies between the terminal's master and the standard streams until the other side is closed.
fn copy(master: RawFd) {
    let _raw = Raw::enter();
    let resize = || {
        if let Some((rows, columns)) = window_size() {
            let _ = sys::set_window_size(master, rows as u16, columns as u16);
        }
    };
    resize();
    let poll = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [poll(master), poll(0)];
    let mut buffer = [0; 16 << 10];
    loop {
        if RESIZED.swap(0, Ordering::Relaxed) != 0 {
            resize();
        }
        // SAFETY: the array lives through the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, 1000) };
        if ready <= 0 {
            continue;
        }
        if fds[0].revents != 0 {
            match sys::read(master, &mut buffer) {
                // EIO: the last process has closed its side.
                Ok(0) | Err(_) => return,
                Ok(n) => write_all(1, &buffer[..n]),
            }
        }
        if fds[1].revents != 0 {
            match sys::read(0, &mut buffer) {
                Ok(0) | Err(_) => {
                    // End of file, as a terminal says it.
                    write_all(master, &[4]);
                    fds[1].fd = -1;
                }
                Ok(n) => write_all(master, &buffer[..n]),
            }
        }
    }
}

fn write_all(fd: RawFd, mut data: &[u8]) {
    while let Ok(n @ 1..) = sys::write(fd, data) {
        data = &data[n..];
        if data.is_empty() {
            return;
        }
    }
}
