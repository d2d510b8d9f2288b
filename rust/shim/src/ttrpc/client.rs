//! The client's side, as far as the event publisher needs it: one unary call at a time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use prost::Message;

use super::frame::{self, Decoded};
use super::stream::{FrameStream, ReadState};
use crate::proto::google::rpc;
use crate::proto::ttrpc::{Request, Response};

pub struct Client {
    stream: FrameStream,
    next_id: u32,
    waiting: Option<u32>,
}

impl Client {
    /// Connects to a Unix socket. Never blocks: a full backlog is an error, to be tried later.
    pub fn connect(path: &str) -> io::Result<Self> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
            None => SocketAddrUnix::new(path)?,
        };
        rustix::net::connect(&socket, &address)?;
        let stream = FrameStream::new(UnixStream::from(socket))?;
        Ok(Self {
            stream,
            next_id: 1,
            waiting: None,
        })
    }

    /// Sends a call; its answer comes out of [`Client::progress`].
    pub fn call(
        &mut self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        timeout_nano: i64,
    ) -> io::Result<()> {
        let request = Request {
            service: service.into(),
            method: method.into(),
            payload,
            timeout_nano,
            metadata: Vec::new(),
        };
        if !self
            .stream
            .queue(self.next_id, frame::REQUEST, 0, &request.encode_to_vec())
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the message is too large",
            ));
        }
        self.waiting = Some(self.next_id);
        self.next_id = self
            .next_id
            .checked_add(2)
            .ok_or_else(|| io::Error::other("ids used up"))?;
        self.stream.flush()
    }

    /// Moves bytes; gives the answer to the call under way once it is there.
    pub fn progress(&mut self) -> io::Result<Option<Option<rpc::Status>>> {
        self.stream.flush()?;
        let state = self.stream.read()?;
        while let Some(decoded) = self.stream.next() {
            let Decoded::Frame(frame) = decoded else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "oversized answer",
                ));
            };
            if frame.kind == frame::RESPONSE && self.waiting == Some(frame.stream) {
                self.waiting = None;
                let response = Response::decode(&*frame.data)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                return Ok(Some(response.status.filter(|s| s.code != 0)));
            }
        }
        match state {
            ReadState::Closed { .. } => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(None),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
