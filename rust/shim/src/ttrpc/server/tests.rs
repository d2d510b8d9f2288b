//! The server over a socket pair.

use super::*;
use std::io::{Read, Write};

struct Peer {
    events: EventLoop,
    server: Server,
    connection: u32,
    socket: UnixStream,
    decoder: frame::Decoder,
}

impl Peer {
    fn new() -> Self {
        let mut events = EventLoop::new().unwrap();
        let mut server = Server::default();
        let (near, far) = UnixStream::pair().unwrap();
        let connection = server.admit(&mut events, near).unwrap();
        far.set_nonblocking(true).unwrap();
        Self {
            events,
            server,
            connection,
            socket: far,
            decoder: frame::Decoder::default(),
        }
    }

    fn send(&mut self, stream: u32, kind: u8, data: &[u8]) -> Vec<Call> {
        let mut wire = Vec::new();
        assert!(frame::encode(&mut wire, stream, kind, 0, data));
        self.send_raw(&wire)
    }

    fn send_raw(&mut self, wire: &[u8]) -> Vec<Call> {
        let mut calls = Vec::new();
        for part in wire.chunks(32 << 10) {
            self.socket.write_all(part).unwrap();
            calls.extend(self.calls());
        }
        calls
    }

    fn calls(&mut self) -> Vec<Call> {
        let incoming = self.server.serve(&mut self.events, self.connection);
        let calls = incoming.into_iter().map(|incoming| match incoming {
            Incoming::Call(call) => call,
            Incoming::Data { .. } => panic!("{incoming:?}"),
        });
        calls.collect()
    }

    fn answers(&mut self) -> Vec<(u32, Response)> {
        let mut chunk = [0; 64 << 10];
        while let Ok(n) = self.socket.read(&mut chunk) {
            if n == 0 {
                break;
            }
            self.decoder.feed(&chunk[..n]);
        }
        let mut out = Vec::new();
        while let Some(Decoded::Frame(f)) = self.decoder.next() {
            out.push((f.stream, Response::decode(&*f.data).unwrap()));
        }
        out
    }

    fn refusal(&mut self) -> (u32, i32, String) {
        let (stream, response) = self.answers().pop().expect("an answer");
        let status = response.status.expect("a status");
        (stream, status.code, status.message)
    }
}

fn request(timeout_nano: i64) -> Vec<u8> {
    Request {
        service: "s".into(),
        method: "m".into(),
        timeout_nano,
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn answers_may_come_in_any_order() {
    let mut peer = Peer::new();
    let one = peer.send(1, frame::REQUEST, &request(0)).pop().unwrap();
    let two = peer.send(3, frame::REQUEST, &request(0)).pop().unwrap();
    peer.server
        .answer(&mut peer.events, two.reply, Ok(b"two".to_vec()));
    peer.server
        .answer(&mut peer.events, one.reply, Err(Status::not_found("one")));
    let got = peer.answers();
    assert_eq!(
        got[0],
        (
            3,
            Response {
                status: None,
                payload: b"two".to_vec()
            }
        )
    );
    assert_eq!(got[1].1.status.as_ref().unwrap().message, "one: not found");
    assert_eq!(got[1].1.status.as_ref().unwrap().code, 5);
}

#[test]
fn wrong_requests_are_refused_as_go_does() {
    let mut peer = Peer::new();
    assert!(peer.send(2, frame::REQUEST, &request(0)).is_empty());
    let text = "StreamID must be odd for client initiated streams".to_owned();
    assert_eq!(peer.refusal(), (2, 3, text));
    assert_eq!(peer.send(5, frame::REQUEST, &request(0)).len(), 1);
    assert!(peer.send(5, frame::REQUEST, &request(0)).is_empty());
    let text = "StreamID cannot be re-used and must increment".to_owned();
    assert_eq!(peer.refusal(), (5, 3, text));
    assert!(peer.send(7, frame::DATA, b"").is_empty());
    assert_eq!(
        peer.refusal(),
        (7, 3, "StreamID is no longer active".to_owned())
    );
    assert!(peer.send(9, frame::REQUEST, &[0xff; 4]).is_empty());
    assert!(peer.refusal().2.starts_with("unmarshal request error: "));
    assert!(
        peer.send(11, 9, b"").is_empty(),
        "unknown types are ignored"
    );
    assert!(peer.answers().is_empty());
}

#[test]
fn an_oversized_request_is_refused_and_the_connection_lives() {
    let mut peer = Peer::new();
    let length = frame::MAX_DATA as u32 + 1;
    let mut wire = length.to_be_bytes().to_vec();
    wire.extend([0, 0, 0, 1, frame::REQUEST, 0]);
    wire.extend(vec![0; length as usize]);
    assert!(peer.send_raw(&wire).is_empty());
    let text = "message length 4194305 exceed maximum message size of 4194304".to_owned();
    assert_eq!(peer.refusal(), (1, 8, text));
    assert_eq!(peer.send(3, frame::REQUEST, &request(0)).len(), 1);
}

#[test]
fn a_deadline_answers_once() {
    let mut peer = Peer::new();
    let call = peer.send(1, frame::REQUEST, &request(-5)).pop().unwrap();
    let (_, due) = peer.events.wait(None).unwrap();
    let connection = peer.connection;
    assert_eq!(
        due,
        [Timer::Deadline {
            connection,
            stream: 1
        }]
    );
    peer.server.expire(&mut peer.events, connection, 1);
    assert_eq!(
        peer.refusal(),
        (1, 4, "context deadline exceeded".to_owned())
    );
    assert!(peer.server.expired(&call.reply));
    peer.server
        .answer(&mut peer.events, call.reply, Ok(Vec::new()));
    assert!(peer.answers().is_empty());
}

#[test]
fn a_torn_connection_is_closed() {
    let mut peer = Peer::new();
    peer.send_raw(&[0, 0, 0, 50, 0, 0, 0, 1, 1, 0, 1, 2]);
    peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
    peer.server.serve(&mut peer.events, peer.connection);
    assert!(!peer.server.has_connections());
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let mut peer = Peer::new();
    let big = vec![1; 3 << 20];
    let call = peer.send(1, frame::REQUEST, &request(0)).pop().unwrap();
    peer.server
        .answer(&mut peer.events, call.reply, Ok(big.clone()));
    assert!(!peer.server.all_sent());
    assert!(
        peer.send(3, frame::REQUEST, &request(0)).is_empty(),
        "held back"
    );
    let mut got = Vec::new();
    let mut calls = Vec::new();
    while got.is_empty() || calls.is_empty() {
        got.extend(peer.answers());
        calls.extend(peer.calls());
    }
    assert_eq!(got[0].1.payload.len(), big.len());
    assert_eq!(calls[0].reply.stream, 3);
}

#[test]
fn a_stream_takes_data_until_either_side_ends_it() {
    let mut peer = Peer::new();
    peer.server.streaming = &[("s", "m")];
    let mut calls = peer.send(1, frame::REQUEST, &request(0));
    calls.extend(peer.send(3, frame::REQUEST, &request(0)));
    let mut data = |stream, flags, data: &[u8]| {
        let mut wire = Vec::new();
        assert!(frame::encode(&mut wire, stream, frame::DATA, flags, data));
        peer.socket.write_all(&wire).unwrap();
        let incoming = peer.server.serve(&mut peer.events, peer.connection).pop();
        incoming.map(|incoming| match incoming {
            Incoming::Data {
                key,
                message,
                ended,
            } => (key.1, message, ended),
            Incoming::Call(_) => panic!("{incoming:?}"),
        })
    };
    assert_eq!(data(1, 0, b"x"), Some((1, Some(b"x".to_vec()), false)));
    assert_eq!(data(3, 0, b""), Some((3, Some(Vec::new()), false)));
    let end = frame::REMOTE_CLOSED | frame::NO_DATA;
    assert_eq!(data(1, end, b""), Some((1, None, true)));
    assert_eq!(data(1, 0, b"more"), None);
    assert_eq!(peer.refusal().2, "StreamID is no longer active");
    let key = calls[1].reply.key();
    assert!(peer.server.send(&mut peer.events, key, b"y"));
    peer.server.finish(&mut peer.events, calls.remove(1).reply);
    assert!(!peer.server.send(&mut peer.events, key, b"z"));
    let mut wire = [0; 64];
    let n = peer.socket.read(&mut wire).unwrap();
    let head = |length, flags| [0, 0, 0, length, 0, 0, 0, 3, frame::DATA, flags];
    assert_eq!(wire[..n], [&head(1, 0)[..], b"y", &head(0, end)].concat());
}
