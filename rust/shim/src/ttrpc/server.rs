//! The server's side: connections, request validation, answers.
//!
//! Calls run concurrently, over one connection or many: a call is handed out with a [`Reply`] and
//! answered whenever its answer is known. What is wrong with a request is answered here, in the
//! words of Go's ttrpc server.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use prost::Message;

use super::frame::{self, Decoded, Frame};
use super::status::{Code, Status};
use super::stream::{FrameStream, ReadState};
use crate::event_loop::{EventLoop, Registration, Timer, TimerId, Token};
use crate::log::{error, warn};
use crate::proto::ttrpc::{Request, Response};

/// A connection whose client leaves more than this unread is not read from, in bytes.
const UNSENT_LIMIT: usize = 1 << 20;

/// A connection whose client leaves more than this unread gets nothing more on its streams, in bytes.
const STREAM_LIMIT: usize = 128 << 10;

/// The right, and the duty, to answer one call.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a call that is never answered hangs its client"]
pub struct Reply {
    connection: u32,
    stream: u32,
}

/// A call's place: connection and stream.
pub type ReplyKey = (u32, u32);

impl Reply {
    /// For an operation that nobody asked for: the answer is dropped. Connections count from 1.
    pub fn to_nobody() -> Self {
        Self {
            connection: 0,
            stream: 0,
        }
    }

    pub fn key(&self) -> ReplyKey {
        (self.connection, self.stream)
    }
}

#[derive(Debug)]
pub struct Call {
    pub reply: Reply,
    pub service: String,
    pub method: String,
    pub payload: Vec<u8>,
}

/// What a connection brought.
#[derive(Debug)]
pub enum Incoming {
    /// A call; of a streaming method its first message may be in it, and further ones follow.
    Call(Call),
    /// On a stream: a message, or the client's end of it, or both.
    Data {
        key: ReplyKey,
        message: Option<Vec<u8>>,
        ended: bool,
    },
}

struct Connection {
    stream: FrameStream,
    registration: Registration,
    last_id: u32,
    /// Calls without an answer, with the timer of those that have a deadline.
    open: BTreeMap<u32, Option<TimerId>>,
    /// Those of them on which the client may send more.
    streams: BTreeSet<u32>,
}

#[derive(Default)]
pub struct Server {
    listener: Option<(UnixListener, Registration)>,
    connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    /// The streaming methods, by service and name.
    pub streaming: &'static [(&'static str, &'static str)],
    /// Programs that work for a call and have to end at its deadline.
    workers: BTreeMap<ReplyKey, i32>,
}

impl Server {
    pub fn listen(&mut self, events: &mut EventLoop, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let registration = events.add(&listener, Token::Listener)?;
        self.listener = Some((listener, registration));
        Ok(())
    }

    /// Takes no more connections. The name goes first: who finds it must find a shim that stays.
    pub fn stop_listening(&mut self, events: &mut EventLoop) {
        if let Some((listener, registration)) = self.listener.take() {
            if let Ok(address) = listener.local_addr()
                && let Some(path) = address.as_pathname()
            {
                let _ = std::fs::remove_file(path);
            }
            events.remove(&listener, registration);
        }
    }

    pub fn accept(&mut self, events: &mut EventLoop) {
        loop {
            let Some((listener, _)) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok((socket, _)) => {
                    if let Err(e) = self.admit(events, socket) {
                        error!("ttrpc: refusing connection: {e}");
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    // Out of descriptors, most likely: the backlog keeps the caller until then.
                    error!("ttrpc: failed accept: {e}; trying again");
                    events.arm(Duration::from_millis(100), Timer::Accept);
                    return;
                }
            }
        }
    }

    /// Takes a connection of the same user in; any other user's is refused.
    pub fn admit(&mut self, events: &mut EventLoop, socket: UnixStream) -> io::Result<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&socket)?;
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if peer.uid != uid || peer.gid != gid {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "invalid credentials: peer is uid {:?}, gid {:?}",
                    peer.uid, peer.gid
                ),
            ));
        }
        let stream = FrameStream::new(socket)?;
        self.next_connection += 1;
        let id = self.next_connection;
        let registration = events.add(&stream, Token::Connection(id))?;
        self.connections.insert(
            id,
            Connection {
                stream,
                registration,
                last_id: 0,
                open: BTreeMap::new(),
                streams: BTreeSet::new(),
            },
        );
        Ok(id)
    }

    /// Serves a connection that became readable or writable and returns what it brought.
    pub fn serve(&mut self, events: &mut EventLoop, id: u32) -> Vec<Incoming> {
        let streaming = self.streaming;
        let mut calls = Vec::new();
        let Some(connection) = self.connections.get_mut(&id) else {
            return calls;
        };
        if let Err(e) = connection.stream.flush() {
            self.close(events, id, Some(&e));
            return calls;
        }
        if connection.stream.unsent() > UNSENT_LIMIT {
            return calls;
        }
        let state = connection.stream.read();
        while let Some(decoded) = connection.stream.next() {
            match connection.validate(id, decoded) {
                Ok(Some(Valid::Data(data))) => calls.push(data),
                Ok(Some(Valid::Call(call, timeout, more))) => {
                    let timer = timeout.map(|after| {
                        let stream = call.reply.stream;
                        events.arm(
                            after,
                            Timer::Deadline {
                                connection: id,
                                stream,
                            },
                        )
                    });
                    connection.open.insert(call.reply.stream, timer);
                    let name = (call.service.as_str(), call.method.as_str());
                    if more && streaming.contains(&name) {
                        connection.streams.insert(call.reply.stream);
                    }
                    calls.push(Incoming::Call(call));
                }
                Ok(None) => {}
                Err((stream, status)) => connection.respond(stream, Err(status)),
            }
        }
        let flushed = connection.stream.flush();
        match (state, flushed) {
            (Ok(ReadState::More), Ok(())) => events.again(Token::Connection(id)),
            (Ok(ReadState::Drained), Ok(())) => {}
            (Ok(ReadState::Closed { torn }), _) => {
                if torn {
                    warn!("ttrpc: connection closed in the middle of a message");
                }
                self.close(events, id, None);
            }
            (Err(e), _) | (_, Err(e)) => self.close(events, id, Some(&e)),
        }
        calls
    }

    /// Answers a call. If its client is gone or its deadline has passed, nobody is told.
    pub fn answer(
        &mut self,
        events: &mut EventLoop,
        reply: Reply,
        result: Result<Vec<u8>, Status>,
    ) {
        let Some(connection) = self.connections.get_mut(&reply.connection) else {
            return;
        };
        let Some(timer) = connection.open.remove(&reply.stream) else {
            return;
        };
        if let Some(timer) = timer {
            events.disarm(timer);
        }
        connection.streams.remove(&reply.stream);
        connection.respond(reply.stream, result);
        if let Err(e) = connection.stream.flush() {
            self.close(events, reply.connection, Some(&e));
        }
    }

    /// Sends a message on a stream; false if the stream is no more.
    pub fn send(&mut self, events: &mut EventLoop, key: ReplyKey, message: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&key.0) else {
            return false;
        };
        if !connection.open.contains_key(&key.1)
            || !connection.stream.queue(key.1, frame::DATA, 0, message)
        {
            return false;
        }
        if let Err(e) = connection.stream.flush() {
            self.close(events, key.0, Some(&e));
            return false;
        }
        true
    }

    /// Ends a stream well.
    pub fn finish(&mut self, events: &mut EventLoop, reply: Reply) {
        let Some(connection) = self.connections.get_mut(&reply.connection) else {
            return;
        };
        let Some(timer) = connection.open.remove(&reply.stream) else {
            return;
        };
        connection.streams.remove(&reply.stream);
        if let Some(timer) = timer {
            events.disarm(timer);
        }
        let flags = frame::REMOTE_CLOSED | frame::NO_DATA;
        let _ = connection
            .stream
            .queue(reply.stream, frame::DATA, flags, b"");
        if let Err(e) = connection.stream.flush() {
            self.close(events, reply.connection, Some(&e));
        }
    }

    /// Whether a connection has much that its client does not read.
    pub fn is_backed_up(&self, id: u32) -> bool {
        self.connections
            .get(&id)
            .is_some_and(|c| c.stream.unsent() > STREAM_LIMIT)
    }

    /// The child `pid` works for a call and is killed should its deadline pass.
    pub fn kill_at_deadline(&mut self, key: ReplyKey, pid: i32) {
        self.workers.insert(key, pid);
    }

    pub fn forget_child(&mut self, key: ReplyKey) {
        self.workers.remove(&key);
    }

    /// A call's deadline has passed: its client is told, its later answer is dropped.
    pub fn expire(&mut self, events: &mut EventLoop, connection: u32, stream: u32) {
        if let Some(pid) = self.workers.get(&(connection, stream)) {
            // SAFETY: signals a child that has not been reaped; no memory is passed.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        self.answer(
            events,
            Reply { connection, stream },
            Err(Status::deadline_exceeded()),
        );
    }

    /// Whether the call's deadline has passed: its client, still there, was told that it failed.
    /// A client that went away was told nothing, and finds what was done when it comes back.
    pub fn expired(&self, reply: &Reply) -> bool {
        self.connections
            .get(&reply.connection)
            .is_some_and(|c| !c.open.contains_key(&reply.stream))
    }

    pub fn has_connection(&self, id: u32) -> bool {
        self.connections.contains_key(&id)
    }

    pub fn has_connections(&self) -> bool {
        !self.connections.is_empty()
    }

    /// True when every answer has left this process.
    pub fn all_sent(&self) -> bool {
        self.connections.values().all(|c| c.stream.unsent() == 0)
    }

    fn close(&mut self, events: &mut EventLoop, id: u32, error: Option<&io::Error>) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        match error.map(io::Error::kind) {
            None | Some(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            Some(_) => error!(
                "ttrpc: connection failed: {}",
                error.unwrap_or(&io::Error::other(""))
            ),
        }
        events.remove(&connection.stream, connection.registration);
        for timer in connection.open.into_values().flatten() {
            events.disarm(timer);
        }
    }
}

enum Valid {
    /// A call, its timeout, and whether the client may send more on it.
    Call(Call, Option<Duration>, bool),
    Data(Incoming),
}

type Validated = Result<Option<Valid>, (u32, Status)>;

impl Connection {
    fn validate(&mut self, id: u32, decoded: Decoded) -> Validated {
        let Frame {
            stream,
            kind,
            flags,
            data,
        } = match decoded {
            Decoded::Frame(frame) => frame,
            Decoded::Oversized { stream, length } => {
                let message = format!(
                    "message length {length} exceed maximum message size of {}",
                    frame::MAX_DATA
                );
                return Err((stream, Status::new(Code::ResourceExhausted, message)));
            }
        };
        let invalid = |message: String| Err((stream, Status::new(Code::InvalidArgument, message)));
        if stream % 2 != 1 {
            return invalid("StreamID must be odd for client initiated streams".into());
        }
        match kind {
            frame::DATA if !self.streams.contains(&stream) => {
                return invalid("StreamID is no longer active".into());
            }
            frame::DATA => {
                let ended = flags & frame::REMOTE_CLOSED != 0;
                if ended {
                    self.streams.remove(&stream);
                }
                return Ok(Some(Valid::Data(Incoming::Data {
                    key: (id, stream),
                    message: (flags & frame::NO_DATA == 0).then_some(data),
                    ended,
                })));
            }
            frame::REQUEST => {}
            // Unknown types are ignored, so that later versions of the protocol may have more.
            _ => return Ok(None),
        }
        if stream <= self.last_id {
            return invalid("StreamID cannot be re-used and must increment".into());
        }
        self.last_id = stream;
        let request = match Request::decode(&*data) {
            Ok(request) => request,
            Err(e) => return invalid(format!("unmarshal request error: {e}")),
        };
        // A zero timeout means none; a negative one has passed before it arrived.
        let timeout = match request.timeout_nano {
            0 => None,
            nanos => Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))),
        };
        let call = Call {
            reply: Reply {
                connection: id,
                stream,
            },
            service: request.service,
            method: request.method,
            payload: request.payload,
        };
        let more = flags & frame::REMOTE_CLOSED == 0;
        Ok(Some(Valid::Call(call, timeout, more)))
    }

    fn respond(&mut self, stream: u32, result: Result<Vec<u8>, Status>) {
        let response = match result {
            Ok(payload) => Response {
                status: None,
                payload,
            },
            Err(status) => Response {
                status: Some(status.to_wire()),
                payload: Vec::new(),
            },
        };
        if !self
            .stream
            .queue(stream, frame::RESPONSE, 0, &response.encode_to_vec())
        {
            let status = Status::new(
                Code::ResourceExhausted,
                format!(
                    "response exceeds maximum message size of {}",
                    frame::MAX_DATA
                ),
            );
            let small = Response {
                status: Some(status.to_wire()),
                payload: Vec::new(),
            };
            let _ = self
                .stream
                .queue(stream, frame::RESPONSE, 0, &small.encode_to_vec());
        }
    }
}

#[cfg(test)]
mod tests;
