//! One call's half-open pipes.

use std::collections::VecDeque;

use crate::connection::Call;
use crate::grpc::Deframer;

pub(crate) struct Stream {
    /// The call while its request is awaited: the handler of a single message is told both at once.
    pub(crate) waiting: Option<Box<Call>>,
    /// Whether there has been an event of this call, so that its end must be told too.
    pub(crate) told: bool,
    pub(crate) many_requests: bool,
    pub(crate) compresses: bool,
    /// Nobody wants the request's messages: its method is unknown.
    pub(crate) deaf: bool,

    pub(crate) remote_open: bool,
    pub(crate) receive_window: i64,
    /// Bytes of complete messages that the handler has not taken.
    pub(crate) unread: usize,
    pub(crate) deframer: Deframer,

    pub(crate) send_window: i64,
    pub(crate) queue: VecDeque<Chunk>,
    pub(crate) queued: usize,
    pub(crate) head_sent: bool,
    pub(crate) finished: bool,
    /// Whether the handler waits for room in the queue.
    pub(crate) held: bool,
    /// Whether the stream is in one of the connection's lines of those that want to send.
    pub(crate) in_line: bool,
}

/// Something to send, in order.
pub(crate) enum Chunk {
    /// A header block.
    Head(Vec<u8>),
    /// A message in its prefix, and how much of it has been sent.
    Data(Vec<u8>, usize),
    /// A header block that ends the stream.
    Tail(Vec<u8>),
}

impl Stream {
    pub(crate) fn new(receive_window: i64, send_window: i64) -> Self {
        Self {
            waiting: None,
            told: false,
            many_requests: false,
            compresses: false,
            deaf: false,
            remote_open: true,
            receive_window,
            unread: 0,
            deframer: Deframer::default(),
            send_window,
            queue: VecDeque::new(),
            queued: 0,
            head_sent: false,
            finished: false,
            held: false,
            in_line: false,
        }
    }
}
