//! A client made of frames.
#![allow(dead_code)] // each test program uses a part

use std::sync::Arc;

use front::{Connection, Event, Limits, Routes, hpack};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const ONCE: &str = "/test.Echo/Once";
pub const EACH: &str = "/test.Echo/Each";
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::encode(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

pub fn request(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "%2Frun%2Fsocket"),
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    ];
    block(&[&fields[..], more].concat())
}

pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// A frame that came out, with what its header block says.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct Client {
    pub connection: Connection,
    decoder: hpack::Decoder,
    next: u32,
    pub now: f64,
}

impl Client {
    pub fn new(limits: Limits) -> Self {
        let mut client = Self::silent(limits);
        client.feed(PREFACE);
        client.feed(&frame(SETTINGS, 0, 0, &[]));
        client.take();
        client
    }

    /// Before the client has said anything.
    pub fn silent(limits: Limits) -> Self {
        let routes = Routes::new([(ONCE.to_owned(), false), (EACH.to_owned(), true)]);
        let connection = Connection::new(Arc::new(routes), limits);
        Self {
            connection,
            decoder: hpack::Decoder::default(),
            next: 1,
            now: 0.0,
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.connection.feed(bytes, self.now)
    }

    /// Opens a stream; its number and what came of it.
    pub fn open(&mut self, path: &str, more: &[(&str, &str)]) -> (u32, Vec<Event>) {
        let stream = self.next;
        self.next += 2;
        let events = self.feed(&frame(HEADERS, END_HEADERS, stream, &request(path, more)));
        (stream, events)
    }

    /// A whole call of `Once`.
    pub fn once(&mut self, bytes: &[u8]) -> (u32, Vec<Event>) {
        let (stream, mut events) = self.open(ONCE, &[]);
        events.extend(self.feed(&frame(DATA, END_STREAM, stream, &message(bytes))));
        (stream, events)
    }

    /// All that can be sent now.
    pub fn take(&mut self) -> Vec<Frame> {
        self.take_with_events().0
    }

    pub fn take_with_events(&mut self) -> (Vec<Frame>, Vec<Event>) {
        let (mut bytes, mut events) = (Vec::new(), Vec::new());
        loop {
            let (some, more) = self.connection.output(65_536);
            events.extend(more);
            if some.is_empty() {
                return (frames(&bytes), events);
            }
            bytes.extend(some);
        }
    }

    pub fn fields(&mut self, frame: &Frame) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        self.decoder
            .decode(&frame.payload, usize::MAX, |name, value| {
                fields.push((text(name), text(value)))
            })
            .expect("a header block");
        fields
    }

    /// The status of a call that ended: number and text.
    pub fn status(&mut self, frame: &Frame) -> (String, String) {
        assert_eq!(frame.kind, HEADERS);
        assert!(frame.flags & END_STREAM != 0);
        let fields = self.fields(frame);
        let value = |name: &str| {
            let found = fields.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        (value("grpc-status"), value("grpc-message"))
    }
}

pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let [a, b, c, kind, flags, d, e, f, g] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes([d, e, f, g]);
        frames.push(Frame {
            kind,
            flags,
            stream,
            payload: rest[..length].to_vec(),
        });
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "frames come out whole");
    frames
}

/// The reason of a connection that was ended, and the text that the peer was told.
pub fn goodbye(frames: &[Frame]) -> (u32, String) {
    let frame = frames
        .iter()
        .find(|frame| frame.kind == GOAWAY)
        .expect("a GOAWAY");
    let code = u32::from_be_bytes(frame.payload[4..8].try_into().expect("a code"));
    (
        code,
        String::from_utf8(frame.payload[8..].to_vec()).expect("text"),
    )
}
