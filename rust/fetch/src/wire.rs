//! A socket that waits in slices, so that a cancel and the limits of time are seen while nothing comes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use crate::CancelFlag;
use crate::error::{Error, Result};

const SLICE: Duration = Duration::from_millis(50);
/// TLS asks for small pieces; system calls take large ones.
const BUFFER: usize = 64 * 1024;

/// How patient to be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a connection.
    pub dial: Duration,
    /// Between two bytes.
    pub idle: Duration,
    /// Less than `slow_bytes` in this time is too little.
    pub slow: Duration,
    /// See `slow`.
    pub slow_bytes: u64,
}

/// Connected, not blocking in the kernel; blocks its caller instead.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    limits: Limits,
    cancel: CancelFlag,
    buffer: Vec<u8>,
    at: usize,
    window: Instant,
    received: u64,
}

impl Wire {
    /// Tries the addresses of `host` in turn; they share the time there is.
    pub(crate) fn connect(
        host: &str,
        port: u16,
        limits: Limits,
        cancel: CancelFlag,
    ) -> Result<Self> {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (name, port)
            .to_socket_addrs()
            .map_err(|_| Error::Name(name.to_owned()))?
            .collect();
        let mut failed = Error::Name(name.to_owned());
        let deadline = Instant::now() + limits.dial;
        for (tried, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
            match dial(address, share, &cancel) {
                Ok(stream) => {
                    return Ok(Self {
                        stream,
                        limits,
                        cancel,
                        buffer: Vec::new(),
                        at: 0,
                        window: Instant::now(),
                        received: 0,
                    });
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Makes an idle connection serve another caller.
    pub(crate) fn adopt(&mut self, limits: Limits, cancel: CancelFlag) {
        self.limits = limits;
        self.cancel = cancel;
        self.window = Instant::now();
        self.received = 0;
    }

    /// Whether an idle connection still stands: neither ended nor with bytes that nobody asked for.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        self.at == self.buffer.len()
            && matches!(self.stream.peek(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    fn receive(&mut self, target: &mut [u8]) -> Result<usize> {
        loop {
            match rustix::io::read(&self.stream, &mut *target) {
                Ok(n) => {
                    self.received += n as u64;
                    self.check_speed()?;
                    return Ok(n);
                }
                Err(Errno::AGAIN) => {
                    wait(&self.stream, PollFlags::IN, self.limits.idle, &self.cancel)?
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            // A stream of single bytes never makes the reader wait for long.
            self.check_speed()?;
        }
    }

    fn check_speed(&mut self) -> Result<()> {
        if self.cancel.load(Relaxed) {
            return Err(Error::Cancelled);
        }
        if self.window.elapsed() < self.limits.slow {
            return Ok(());
        }
        if self.received < self.limits.slow_bytes {
            return Err(Error::Slow);
        }
        self.window = Instant::now();
        self.received = 0;
        Ok(())
    }
}

impl Read for Wire {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() {
            if target.len() >= BUFFER {
                return Ok(self.receive(target)?);
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(BUFFER, 0);
            let n = self.receive(&mut buffer);
            buffer.truncate(*n.as_ref().unwrap_or(&0));
            self.buffer = buffer;
            self.at = 0;
            n?;
        }
        let n = target.len().min(self.buffer.len() - self.at);
        target[..n].copy_from_slice(&self.buffer[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(&self.stream, data, rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => return Ok(n),
                Err(Errno::AGAIN) => {
                    wait(&self.stream, PollFlags::OUT, self.limits.idle, &self.cancel)?;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn dial(address: &SocketAddr, within: Duration, cancel: &CancelFlag) -> Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS | Errno::INTR) => wait(&socket, PollFlags::OUT, within, cancel)?,
        Err(e) => return Err(e.into()),
    }
    let stream = TcpStream::from(socket);
    if let Some(error) = stream.take_error()? {
        return Err(error.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn wait(fd: impl AsFd, what: PollFlags, within: Duration, cancel: &CancelFlag) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        if cancel.load(Relaxed) {
            return Err(Error::Cancelled);
        }
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(SLICE);
        let slice = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&fd, what)], Some(&slice)) {
            Ok(0) if left.is_zero() => return Err(Error::Idle),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}
