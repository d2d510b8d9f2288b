//! One direction of one stream: bytes from a source to a sink, as fast as both allow.
//!
//! Between two pipes the kernel moves pages (splice); elsewhere bytes go through a buffer. Both
//! sides are registered edge-triggered and [`Pump::run`] works until one of them stops it, so a
//! sink without room stops the reading, and with it, in the end, the writer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::sink::{Sink, set_nonblocking};
use super::stream::{self, Stream};

/// The most one splice call is asked to move, in bytes.
const SPLICE_LEN: usize = 1 << 20;
/// What is copied at once: all that a pipe holds, where nothing can be spliced.
const BUFFER_LEN: usize = super::PIPE_SIZE;
/// Of a source that does not say what it holds.
const UNKNOWN_LEN: usize = 16 << 10;
/// Moves in one turn before other sources get theirs.
const TURN: usize = 16;

pub enum Source {
    Pipe(OwnedFd),
    Terminal(OwnedFd),
    Stream(stream::End),
}

impl Source {
    /// Whether an empty source may still bring something that was written before.
    ///
    /// What is written to a pipe is in it. What is written to a terminal passes through the kernel's
    /// own buffers and a worker that fills ours a page at a time; only its end (EIO) says that no
    /// more comes.
    pub fn lags(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    pub fn pipe(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self::Pipe(fd))
    }

    pub fn terminal(master: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&master)?;
        Ok(Self::Terminal(master))
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Pipe(fd) | Self::Terminal(fd) => Some(fd.as_fd()),
            Self::Stream(_) => None,
        }
    }

    pub fn stream(&self) -> Option<&Stream> {
        match self {
            Self::Stream(end) => Some(&end.0),
            _ => None,
        }
    }

    /// Bytes that wait in it, if it says so.
    fn held(&self) -> Option<usize> {
        match self {
            Self::Pipe(fd) | Self::Terminal(fd) => {
                let held = rustix::io::ioctl_fionread(fd).ok()?;
                Some(usize::try_from(held).unwrap_or(usize::MAX))
            }
            Self::Stream(end) => Some(end.0.held()),
        }
    }

    fn read(&self, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
        match self {
            Self::Pipe(fd) | Self::Terminal(fd) => {
                rustix::io::read(fd, rustix::buffer::spare_capacity(buffer))
            }
            Self::Stream(end) => end.0.read(buffer),
        }
    }
}

/// What stopped a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its share of the turn is used up.
    Turn,
    /// All that was written has been passed on; more may come.
    Empty,
    /// The sink has no room.
    Full,
    /// The source has ended, and all of it has been passed on; or the sink takes no more.
    End,
    /// As `End`, but the client has not opened its side yet, and would find neither content nor end
    /// were it closed now.
    Unopened,
}

pub struct Pump {
    pub source: Source,
    pub sink: Sink,
    splices: bool,
    /// Bytes read and not yet written.
    held: Vec<u8>,
    source_ended: bool,
    pub moved: u64,
    pub last_moved: Instant,
    /// Until when a client may open its side; after that it is not expected any more.
    pub open_until: Instant,
}

impl Pump {
    pub fn new(source: Source, sink: Sink) -> Self {
        let splices = matches!(source, Source::Pipe(_)) && sink.splices;
        Self {
            source,
            sink,
            splices,
            held: Vec::new(),
            source_ended: false,
            moved: 0,
            last_moved: Instant::now(),
            open_until: Instant::now(),
        }
    }

    /// Whether the client is still expected to open its side.
    pub fn is_awaited(&mut self) -> bool {
        Instant::now() < self.open_until && !self.sink.was_opened(self.moved)
    }

    pub fn run(&mut self) -> Stop {
        let before = self.moved;
        let mut stop = Stop::Turn;
        for _ in 0..TURN {
            let step = if self.splices {
                self.splice()
            } else {
                self.copy()
            };
            if let Err(end) = step {
                stop = end;
                break;
            }
        }
        if self.moved != before {
            self.last_moved = Instant::now();
        }
        if stop == Stop::End && self.source_ended {
            if self.is_awaited() {
                return Stop::Unopened;
            }
            self.sink.end_of_input();
        }
        stop
    }

    fn splice(&mut self) -> Result<(), Stop> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let (Some(source), Some(sink)) = (self.source.fd(), self.sink.fd()) else {
            self.splices = false;
            return Ok(());
        };
        match splice(source, None, sink, None, SPLICE_LEN, flags) {
            Ok(0) => {
                self.source_ended = true;
                Err(Stop::End)
            }
            Ok(n) => {
                self.moved += n as u64;
                Ok(())
            }
            // The kernel does not say which side stopped it.
            Err(Errno::AGAIN) if self.source_is_empty() => Err(Stop::Empty),
            Err(Errno::AGAIN) => Err(Stop::Full),
            Err(Errno::INTR) => Ok(()),
            Err(Errno::INVAL) => {
                self.splices = false;
                Ok(())
            }
            Err(_) => Err(Stop::End),
        }
    }

    fn copy(&mut self) -> Result<(), Stop> {
        if self.held.is_empty() {
            if self.source_ended {
                return Err(Stop::End);
            }
            let there = self.source.held().unwrap_or(0);
            let mut buffer = Vec::with_capacity(there.clamp(UNKNOWN_LEN, BUFFER_LEN));
            match self.source.read(&mut buffer) {
                Ok(0) => self.source_ended = true,
                Ok(_) => self.write(&buffer)?,
                Err(Errno::AGAIN) => return Err(Stop::Empty),
                Err(Errno::INTR) => {}
                // A terminal ends with EIO when its last process has closed it.
                Err(Errno::IO) => self.source_ended = true,
                Err(_) => return Err(Stop::End),
            }
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        self.write(&held)
    }

    /// Writes what the sink takes and holds the rest.
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match self.sink.write(bytes) {
                Ok(n) => {
                    self.moved += n as u64;
                    bytes = &bytes[n..];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.held = bytes.to_vec();
                    return Err(Stop::Full);
                }
                Err(_) => return Err(Stop::End),
            }
        }
        Ok(())
    }

    fn source_is_empty(&self) -> bool {
        // If the source has something and the sink has room, the two changed since: run again.
        self.source.held() == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::pipe;
    use std::fs::File;
    use std::io::{Read, Write};

    fn nonblocking_pipe() -> (OwnedFd, OwnedFd) {
        let (read, write) = pipe().unwrap();
        set_nonblocking(&read).unwrap();
        set_nonblocking(&write).unwrap();
        (read, write)
    }

    /// Runs `pump` in this thread, waiting for either side as the loop does.
    fn drive(pump: &mut Pump) {
        let mut events = crate::event_loop::EventLoop::new().unwrap();
        events
            .add(pump.source.fd().unwrap(), crate::event_loop::Token::Pump(1))
            .unwrap();
        if pump.sink.pollable {
            events
                .add(pump.sink.fd().unwrap(), crate::event_loop::Token::Pump(1))
                .unwrap();
        }
        loop {
            match pump.run() {
                Stop::End => return,
                Stop::Turn => {}
                Stop::Unopened => panic!("a pipe is open"),
                Stop::Empty | Stop::Full => drop(events.wait(None).unwrap()),
            }
        }
    }

    /// 256 MiB of a pattern whose period is no power of two, through `make`'s pump, checked byte by
    /// byte by a reader that starts late and pauses.
    fn whole(make: impl FnOnce(OwnedFd, OwnedFd) -> Pump + Send + 'static) {
        const TOTAL: usize = 256 << 20;
        let pattern: Vec<u8> = (0..65_521_u32).map(|i| (i * 31 % 251) as u8).collect();
        let (process_read, process_write) = pipe().unwrap();
        let (client_read, client_write) = pipe().unwrap();
        let expected = pattern.clone();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut file = File::from(client_read);
            let (mut at, mut buffer) = (0, vec![0; 100_000]);
            loop {
                let n = file.read(&mut buffer).unwrap();
                if n == 0 {
                    return at;
                }
                let mut rest = &buffer[..n];
                while !rest.is_empty() {
                    let from = at % expected.len();
                    let m = rest.len().min(expected.len() - from);
                    assert!(
                        rest[..m] == expected[from..from + m],
                        "differs near byte {at}"
                    );
                    rest = &rest[m..];
                    at += m;
                }
                if at % 997 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        });
        let writer = std::thread::spawn(move || {
            let mut file = File::from(process_write);
            let mut left = TOTAL;
            while left > 0 {
                let n = left.min(pattern.len());
                file.write_all(&pattern[..n]).unwrap();
                left -= n;
            }
        });
        let mut pump = make(process_read, client_write);
        drive(&mut pump);
        assert_eq!(pump.moved, TOTAL as u64);
        drop(pump);
        writer.join().unwrap();
        assert_eq!(reader.join().unwrap(), TOTAL);
    }

    #[test]
    fn large_output_is_whole_when_spliced() {
        whole(|read, write| {
            let pump = Pump::new(Source::pipe(read).unwrap(), Sink::pipe(write).unwrap());
            assert!(pump.splices);
            pump
        });
    }

    #[test]
    fn large_output_is_whole_when_copied() {
        whole(|read, write| {
            let mut pump = Pump::new(Source::pipe(read).unwrap(), Sink::pipe(write).unwrap());
            pump.splices = false;
            pump
        });
    }

    #[test]
    fn a_full_sink_stops_the_reading_and_nothing_is_lost() {
        for splices in [true, false] {
            let (process_read, process_write) = nonblocking_pipe();
            let (client_read, client_write) = nonblocking_pipe();
            let mut pump = Pump::new(
                Source::pipe(process_read).unwrap(),
                Sink::pipe(client_write).unwrap(),
            );
            pump.splices &= splices;
            assert_eq!(pump.run(), Stop::Empty);
            let mut written = 0;
            // Until neither pipe takes more: the process is stopped by the absent client.
            while let Ok(n) = rustix::io::write(&process_write, &[b'x'; 4096]) {
                written += n;
                pump.run();
            }
            assert_eq!(pump.run(), Stop::Full);
            drop(process_write);
            let mut got = 0;
            let mut buffer = [0; 10_000];
            loop {
                match rustix::io::read(&client_read, &mut buffer) {
                    Ok(n) => got += n,
                    Err(Errno::AGAIN) if pump.run() == Stop::End && got == written => break,
                    Err(_) => {}
                }
            }
        }
    }

    #[test]
    fn a_sink_that_is_gone_ends_the_pump() {
        let _no_forks = crate::spawn::forks::none();
        let (process_read, process_write) = nonblocking_pipe();
        let (client_read, client_write) = nonblocking_pipe();
        let mut pump = Pump::new(
            Source::pipe(process_read).unwrap(),
            Sink::pipe(client_write).unwrap(),
        );
        drop(client_read);
        rustix::io::write(&process_write, b"x").unwrap();
        assert_eq!(pump.run(), Stop::End);
    }
}
