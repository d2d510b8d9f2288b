//! A non-blocking Unix socket that speaks frames.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::frame::{self, Decoded, Decoder};

/// Bytes read in one turn before other sources get theirs.
const READ_BUDGET: usize = 256 << 10;

pub struct FrameStream {
    socket: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ReadState {
    /// Everything there was has been read.
    Drained,
    /// The budget was used up; more may be waiting.
    More,
    /// The peer closed its side; `torn` if in the middle of a frame.
    Closed { torn: bool },
}

impl FrameStream {
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            decoder: Decoder::default(),
            out: Vec::new(),
            sent: 0,
        })
    }

    pub fn read(&mut self) -> io::Result<ReadState> {
        let mut chunk = [0; 8 << 10];
        let mut total = 0;
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => {
                    return Ok(ReadState::Closed {
                        torn: self.decoder.mid_frame(),
                    });
                }
                Ok(n) => {
                    self.decoder.feed(&chunk[..n]);
                    total += n;
                    if total >= READ_BUDGET {
                        return Ok(ReadState::More);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(ReadState::Drained),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub fn next(&mut self) -> Option<Decoded> {
        self.decoder.next()
    }

    /// Queues a frame; false if it is too large to be sent.
    #[must_use]
    pub fn queue(&mut self, stream: u32, kind: u8, flags: u8, data: &[u8]) -> bool {
        frame::encode(&mut self.out, stream, kind, flags, data)
    }

    /// Sends what the socket takes now. The rest follows when it becomes writable (edge-triggered).
    pub fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.out = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// Bytes queued and not yet taken by the socket.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }
}

impl AsFd for FrameStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
