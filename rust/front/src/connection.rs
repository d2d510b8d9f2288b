//! The state of a connection, and what does not belong to one direction.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::frame::{self, Reason, Violation, kind};
use crate::grpc::Payload;
use crate::hpack;
use crate::limits::Limits;
use crate::stream::Stream;

/// The methods by path. A method's place in the list that this was made of is its number.
#[derive(Debug)]
pub struct Routes {
    methods: HashMap<Vec<u8>, (usize, bool)>,
}

impl Routes {
    /// Paths (`/service/Method`), and whether the caller sends a stream of messages.
    pub fn new(methods: impl IntoIterator<Item = (String, bool)>) -> Self {
        let numbered = methods.into_iter().enumerate();
        Self {
            methods: numbered
                .map(|(n, (path, many))| (path.into_bytes(), (n, many)))
                .collect(),
        }
    }

    pub(crate) fn find(&self, path: &[u8]) -> Option<(usize, bool)> {
        self.methods.get(path).copied()
    }
}

/// A call that has begun.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    pub stream: u32,
    pub method: usize,
    /// Names are lower-case and appear once.
    pub metadata: Vec<(String, String)>,
    /// What the caller said when its headers came.
    pub timeout: Option<Duration>,
    /// The request, unless it is a stream of messages.
    pub message: Option<Payload>,
}

/// What arrived, or became possible.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Call(Call),
    /// A call of a path that is nobody's; it is to be finished.
    Unknown {
        stream: u32,
        path: String,
    },
    /// A message of a stream of requests.
    Message {
        stream: u32,
        message: Payload,
    },
    /// No more messages will come.
    HalfClosed {
        stream: u32,
    },
    /// The call is over, and its handler to be cancelled; when it has ended, `forget` is to be called.
    Reset {
        stream: u32,
    },
    /// A stream that was full is not any more.
    Writable {
        stream: u32,
    },
    /// The connection is over: send what there is and close it. Calls are to be cancelled.
    Closed {
        reason: String,
    },
}

/// One connection, from its first byte.
pub struct Connection {
    pub(crate) limits: Limits,
    pub(crate) routes: Arc<Routes>,
    pub(crate) events: Vec<Event>,
    pub(crate) closed: bool,

    // Receiving
    pub(crate) rest: Vec<u8>,
    pub(crate) greeted: bool,
    pub(crate) configured: bool,
    pub(crate) decoder: hpack::Decoder,
    pub(crate) block: Option<Block>,
    pub(crate) last_stream: u32,
    pub(crate) streams: HashMap<u32, Stream>,
    pub(crate) receive_window: i64,
    pub(crate) partial: usize,
    pub(crate) pings: Pings,
    pub(crate) flood: f64,
    pub(crate) now: f64,
    /// Calls that are over for the peer while their handlers are not.
    pub(crate) undone: usize,
    pub(crate) draining: bool,

    // Sending
    pub(crate) control: Vec<u8>,
    /// Streams that can send now, and those that wait for the connection's window.
    pub(crate) ready: VecDeque<u32>,
    pub(crate) starved: VecDeque<u32>,
    pub(crate) send_window: i64,
    pub(crate) initial_send_window: i64,
    pub(crate) max_frame: usize,
    pub(crate) queued: usize,
    pub(crate) table_told: bool,
}

/// A header block whose end has not come.
pub(crate) struct Block {
    pub(crate) stream: u32,
    pub(crate) ends_stream: bool,
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: u32,
}

/// A peer's keep-alive pings, which it may send as often as Go's servers let it by default.
pub(crate) struct Pings {
    last: f64,
    strikes: u32,
    /// Whether we sent headers or data since: a ping after these measures the way, and is welcome.
    pub(crate) forgiven: bool,
}

const PING_INTERVAL: f64 = 300.0;
const IDLE_PING_INTERVAL: f64 = 7200.0;
const PING_STRIKES: u32 = 2;

impl Pings {
    fn is_too_many(&mut self, now: f64, idle: bool) -> bool {
        let before = std::mem::replace(&mut self.last, now);
        if std::mem::take(&mut self.forgiven) {
            self.strikes = 0;
            return false;
        }
        if now - before
            < if idle {
                IDLE_PING_INTERVAL
            } else {
                PING_INTERVAL
            }
        {
            self.strikes += 1;
        }
        self.strikes > PING_STRIKES
    }
}

impl Connection {
    pub fn new(routes: Arc<Routes>, limits: Limits) -> Self {
        let mut connection = Self {
            receive_window: i64::from(limits.connection_window),
            limits,
            routes,
            events: Vec::new(),
            closed: false,
            rest: Vec::new(),
            greeted: false,
            configured: false,
            decoder: hpack::Decoder::default(),
            block: None,
            last_stream: 0,
            streams: HashMap::new(),
            partial: 0,
            pings: Pings {
                last: f64::NEG_INFINITY,
                strikes: 0,
                forgiven: false,
            },
            flood: 0.0,
            now: f64::NEG_INFINITY,
            undone: 0,
            draining: false,
            control: Vec::new(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            send_window: frame::INITIAL_WINDOW,
            initial_send_window: frame::INITIAL_WINDOW,
            max_frame: frame::MAX_PAYLOAD,
            queued: 0,
            table_told: false,
        };
        connection.greet();
        connection
    }

    fn greet(&mut self) {
        let settings = [
            (
                frame::setting::MAX_CONCURRENT_STREAMS,
                self.limits.calls as u32,
            ),
            (
                frame::setting::INITIAL_WINDOW_SIZE,
                self.limits.stream_window,
            ),
            (
                frame::setting::MAX_HEADER_LIST_SIZE,
                self.limits.header_list as u32,
            ),
        ];
        frame::put_head(&mut self.control, settings.len() * 6, kind::SETTINGS, 0, 0);
        for (name, value) in settings {
            self.control.extend_from_slice(&name.to_be_bytes());
            self.control.extend_from_slice(&value.to_be_bytes());
        }
        let more = self.receive_window - frame::INITIAL_WINDOW;
        if more > 0 {
            frame::put_number(&mut self.control, kind::WINDOW_UPDATE, 0, more as u32);
        }
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether no call is under way.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// Takes no new call from now on and says so; calls under way go on.
    pub fn drain(&mut self) {
        if !self.draining && !self.closed {
            self.draining = true;
            self.go_away(Reason::NoError, "");
        }
    }

    /// The handler of a call that was reset has ended.
    pub fn forget(&mut self) {
        self.undone = self.undone.saturating_sub(1);
    }

    pub(crate) fn go_away(&mut self, reason: Reason, what: &str) {
        frame::put_head(&mut self.control, 8 + what.len(), kind::GOAWAY, 0, 0);
        self.control
            .extend_from_slice(&self.last_stream.to_be_bytes());
        self.control
            .extend_from_slice(&(reason as u32).to_be_bytes());
        self.control.extend_from_slice(what.as_bytes());
    }

    pub(crate) fn fail(&mut self, violation: Violation) {
        self.go_away(violation.reason, violation.what);
        self.closed = true;
        self.streams.clear();
        self.events.push(Event::Closed {
            reason: violation.what.to_owned(),
        });
    }

    /// Resets a stream; its handler, if it was told of the call, is told of the end.
    pub(crate) fn reset(&mut self, id: u32, reason: Reason) {
        frame::put_number(&mut self.control, kind::RST_STREAM, id, reason as u32);
        self.drop_stream(id);
    }

    /// Removes a stream whose call is not finished.
    pub(crate) fn drop_stream(&mut self, id: u32) {
        let Some(stream) = self.remove(id) else {
            return;
        };
        if stream.told && !stream.finished {
            self.undone += 1;
            self.events.push(Event::Reset { stream: id });
        }
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        self.partial -= stream.deframer.partial();
        self.queued -= stream.queued;
        Some(stream)
    }

    pub(crate) fn set_time(&mut self, now: f64) {
        let elapsed = now - self.now;
        self.flood = (self.flood - elapsed * self.limits.flood_per_second).max(0.0);
        self.now = now;
    }

    /// Counts a frame that brought nothing.
    pub(crate) fn useless(&mut self) -> Result<(), Violation> {
        self.flood += 1.0;
        if self.flood > self.limits.flood {
            return Err(Violation::new(
                Reason::EnhanceYourCalm,
                "too many frames without use",
            ));
        }
        Ok(())
    }

    pub(crate) fn pinged(&mut self) -> Result<(), Violation> {
        if self.pings.is_too_many(self.now, self.streams.is_empty()) {
            return Err(Violation::new(Reason::EnhanceYourCalm, "too_many_pings"));
        }
        Ok(())
    }
}
