//! Logging in logrus' text form, which containerd forwards to its own log unchanged.
//!
//! In a bundle, containerd reads a FIFO named `log`. The daemon may go away and come back: lines
//! nobody reads are dropped, a full FIFO drops lines rather than stop the loop.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

use crate::clock;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

static DEBUG: AtomicBool = AtomicBool::new(false);
static SINK: OnceLock<OwnedFd> = OnceLock::new();

/// Sends further lines to the FIFO at `path` (relative to the working directory) if there is one.
pub fn init(debug: bool, path: Option<&str>) {
    DEBUG.store(debug, Ordering::Relaxed);
    let Some(path) = path else { return };
    // A reader of our own lets the FIFO be opened while nobody else reads it, and is closed again:
    // a line written to nobody should fail, not fill the FIFO.
    let reader = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) {
        let _ = SINK.set(fd);
    }
    drop(reader);
}

pub fn enabled(level: Level) -> bool {
    level != Level::Debug || DEBUG.load(Ordering::Relaxed)
}

pub fn write(level: Level, message: fmt::Arguments<'_>) {
    let name = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warning",
        Level::Error => "error",
    };
    let mut line = String::with_capacity(160);
    let _ = write!(
        line,
        "time=\"{}\" level={name} msg=",
        clock::rfc3339(SystemTime::now())
    );
    quote(&mut line, &message.to_string());
    let _ = writeln!(line, " runtime={}", crate::RUNTIME_NAME);
    match SINK.get() {
        // One write below PIPE_BUF is whole or not at all.
        Some(fd) => drop(rustix::io::write(fd, line.as_bytes())),
        // The test harness captures what goes through the macro.
        None if cfg!(test) => eprint!("{line}"),
        None => drop(std::io::stderr().write_all(line.as_bytes())),
    }
}

/// Quotes as Go's `%q` does for the characters a log line may have.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

macro_rules! debug {
    ($($arg:tt)*) => {
        if $crate::log::enabled($crate::log::Level::Debug) {
            $crate::log::write($crate::log::Level::Debug, format_args!($($arg)*));
        }
    };
}
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($arg)*)) };
}
macro_rules! warn_ {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warn, format_args!($($arg)*)) };
}
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($arg)*)) };
}
pub(crate) use {debug, error, info, warn_ as warn};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        let mut out = String::new();
        quote(&mut out, "a \"b\"\nc\\d\u{1}é");
        assert_eq!(out, r#""a \"b\"\nc\\d\u0001é""#);
    }
}
