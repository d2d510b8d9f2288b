//! What a peer must not do, and what it costs if it does.

mod common;

use common::*;
use front::{Event, Limits};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

/// Feeds until the connection is ended; with what reason.
fn ended_by(limits: Limits, bytes: impl IntoIterator<Item = Vec<u8>>) -> u32 {
    let mut client = Client::new(limits);
    for part in bytes {
        let events = client.feed(&part);
        if client.connection.is_closed() {
            assert!(matches!(events.last(), Some(Event::Closed { .. })));
            assert_eq!(client.feed(&part), [], "nothing is taken afterwards");
            return goodbye(&client.take()).0;
        }
    }
    panic!("it goes on");
}

fn ended_by_one(bytes: Vec<u8>) -> u32 {
    ended_by(Limits::default(), [bytes])
}

#[test]
fn not_http2() {
    let mut client = Client::silent(Limits::default());
    let events = client.feed(b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(&events[..], [Event::Closed { .. }]));
    let mut client = Client::silent(Limits::default());
    client.feed(PREFACE);
    client.feed(&frame(PING, 0, 0, &[0; 8]));
    assert!(client.connection.is_closed(), "SETTINGS come first");
}

#[test]
fn frames_that_are_wrong() {
    assert_eq!(ended_by_one(frame(DATA, 0, 0, b"")), PROTOCOL);
    assert_eq!(
        ended_by_one(frame(DATA, 0, 1, b"x")),
        PROTOCOL,
        "a stream that was not opened"
    );
    assert_eq!(
        ended_by_one(frame(HEADERS, END_HEADERS, 2, &request(ONCE, &[]))),
        PROTOCOL
    );
    assert_eq!(
        ended_by_one(frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])),
        PROTOCOL
    );
    assert_eq!(
        ended_by_one(frame(HEADERS, END_HEADERS | 0x20, 1, &[0, 0])),
        FRAME_SIZE
    );
    assert_eq!(
        ended_by_one(frame(CONTINUATION, END_HEADERS, 1, b"")),
        PROTOCOL
    );
    assert_eq!(ended_by_one(frame(5, 0, 1, &[0; 4])), PROTOCOL, "a push");
    assert_eq!(ended_by_one(frame(PING, 0, 0, &[0; 7])), FRAME_SIZE);
    assert_eq!(ended_by_one(frame(PING, 0, 1, &[0; 8])), PROTOCOL);
    assert_eq!(ended_by_one(frame(SETTINGS, 0, 0, &[0; 5])), FRAME_SIZE);
    assert_eq!(ended_by_one(frame(SETTINGS, ACK, 0, &[0; 6])), FRAME_SIZE);
    assert_eq!(
        ended_by_one(frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0, 0, 0])),
        FLOW_CONTROL
    );
    assert_eq!(
        ended_by_one(frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        PROTOCOL
    );
    assert_eq!(
        ended_by_one(frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])),
        PROTOCOL
    );
    assert_eq!(ended_by_one(frame(RST_STREAM, 0, 1, &[0; 4])), PROTOCOL);
    assert_eq!(ended_by_one(frame(RST_STREAM, 0, 1, &[0; 3])), FRAME_SIZE);
    assert_eq!(
        ended_by_one(frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        FLOW_CONTROL
    );
    assert_eq!(
        ended_by_one(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        FLOW_CONTROL
    );
    assert_eq!(
        ended_by_one(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        PROTOCOL
    );
    let mut large = frame(DATA, 0, 1, &[]);
    large[1] = 0x80;
    assert_eq!(ended_by_one(large), FRAME_SIZE);
    let begun = frame(HEADERS, 0, 1, &request(ONCE, &[]));
    assert_eq!(
        ended_by(Limits::default(), [begun, frame(PING, 0, 0, &[0; 8])]),
        PROTOCOL
    );
}

#[test]
fn header_blocks_that_cannot_be_decoded() {
    for block in [
        &[0x80][..],                        // index 0
        &[0xff, 0xff, 0xff, 0xff, 0xff, 1], // an integer that is too long
        &[0xbe],                            // an entry that is not there
        &[0x00, 0x05, b'a'],                // a text that ends early
        &[0x00],
        &[0x3f, 0xff, 0xff, 0x3f], // a table larger than allowed
        &[0x82, 0x20],             // its size changed too late
        &[0x00, 0x81, 0xff, 0x00], // a Huffman code without end
    ] {
        assert_eq!(
            ended_by_one(frame(HEADERS, END_HEADERS, 1, block)),
            COMPRESSION,
            "{block:x?}"
        );
    }
}

#[test]
fn a_header_block_without_end() {
    let first = frame(HEADERS, 0, 1, &[0x82]);
    let empty = (0..100).map(|_| frame(CONTINUATION, 0, 1, &[]));
    assert_eq!(
        ended_by(
            Limits::default(),
            std::iter::once(first.clone()).chain(empty)
        ),
        CALM
    );
    let full = (0..100).map(|_| frame(CONTINUATION, 0, 1, &[0x82; 16_384]));
    assert_eq!(
        ended_by(Limits::default(), std::iter::once(first).chain(full)),
        CALM
    );
}

#[test]
fn small_blocks_that_say_much() {
    let mut client = Client::new(Limits::default());
    // 4,000 bytes into the table, then fifty thousand references to them, one byte each.
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    bomb.extend([b'y'; 4000]);
    client.feed(&frame(HEADERS, 0, 1, &bomb));
    for last in [false, false, true] {
        let flags = if last { END_HEADERS } else { 0 };
        assert_eq!(
            client.feed(&frame(CONTINUATION, flags, 1, &[0xbe; 16_000])),
            []
        );
    }
    assert!(!client.connection.is_closed());
    let frames = client.take();
    assert_eq!(
        (frames[0].kind, frames[0].stream),
        (RST_STREAM, 1),
        "no path was read"
    );
    let mut fields = vec![("x-long".to_owned(), "y".repeat(1000)); 70];
    fields
        .iter_mut()
        .enumerate()
        .for_each(|(n, field)| field.0 += &n.to_string());
    let fields: Vec<_> = fields
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    let block = request(ONCE, &fields);
    let mut parts = block.chunks(16_000).peekable();
    client.feed(&frame(HEADERS, 0, 3, parts.next().unwrap()));
    while let Some(part) = parts.next() {
        client.feed(&frame(
            CONTINUATION,
            if parts.peek().is_none() {
                END_HEADERS
            } else {
                0
            },
            3,
            part,
        ));
    }
    let frames = client.take();
    assert_eq!(client.status(&frames[0]).0, "13");
}

#[test]
fn requests_that_are_no_calls() {
    let ended = |fields: &[(&str, &str)]| {
        let mut client = Client::new(Limits::default());
        client.feed(&frame(HEADERS, END_HEADERS, 1, &block(fields)));
        assert!(!client.connection.is_closed());
        let frames = client.take();
        if frames[0].kind == RST_STREAM {
            return vec![("reset".to_owned(), frames[0].payload[3].to_string())];
        }
        client.fields(&frames[0])
    };
    let has = |fields: Vec<(String, String)>, name: &str, value: &str| {
        assert!(
            fields.contains(&(name.to_owned(), value.to_owned())),
            "{name}: {value} in {fields:?}"
        );
    };
    let grpc = ("content-type", "application/grpc");
    has(
        ended(&[
            (":method", "POST"),
            (":path", ONCE),
            ("content-type", "text/html"),
        ]),
        ":status",
        "415",
    );
    has(
        ended(&[
            (":method", "POST"),
            (":path", ONCE),
            ("content-type", "application/grpcx"),
        ]),
        ":status",
        "415",
    );
    has(
        ended(&[(":method", "GET"), (":path", ONCE), grpc]),
        ":status",
        "405",
    );
    has(ended(&[(":method", "POST"), grpc]), "reset", "1");
    has(
        ended(&[(":method", "POST"), (":path", ONCE), grpc, ("X", "y")]),
        "reset",
        "1",
    );
    has(
        ended(&[(":method", "POST"), grpc, (":path", ONCE)]),
        "reset",
        "1",
    );
    has(
        ended(&[(":method", "POST"), (":path", ONCE), (":odd", ""), grpc]),
        "reset",
        "1",
    );
    has(
        ended(&[
            (":method", "POST"),
            (":path", ONCE),
            grpc,
            ("connection", "close"),
        ]),
        "reset",
        "1",
    );
    let with = |name, value| ended(&[(":method", "POST"), (":path", ONCE), grpc, (name, value)]);
    has(with("grpc-timeout", "123456789S"), "grpc-status", "13");
    has(with("grpc-timeout", "5x"), "grpc-status", "13");
    has(with("grpc-encoding", "snappy"), "grpc-status", "12");
}

#[test]
fn messages_that_are_wrong() {
    let status = |path: &str, parts: &[&[u8]]| {
        let mut client = Client::new(Limits {
            max_receive: 100,
            ..Limits::default()
        });
        let (stream, _) = client.open(path, &[]);
        for (n, part) in parts.iter().enumerate() {
            let flags = if n + 1 == parts.len() { END_STREAM } else { 0 };
            client.feed(&frame(DATA, flags, stream, part));
        }
        let frames = client.take();
        client.status(&frames[0])
    };
    let (code, text) = status(ONCE, &[&message(&[0; 101])]);
    assert_eq!(
        (&*code, &*text),
        ("8", "grpc: received message larger than max (101 vs. 100)")
    );
    assert_eq!(status(EACH, &[&[0, 0xff, 0xff, 0xff, 0xff]]).0, "8");
    assert_eq!(status(ONCE, &[b""]).0, "13", "no message");
    assert_eq!(
        status(ONCE, &[&message(b"1"), &message(b"2")]).0,
        "13",
        "two"
    );
    assert_eq!(
        status(ONCE, &[&message(b"12")[..6]]).0,
        "13",
        "a part of one"
    );
    assert_eq!(
        status(ONCE, &[&[1, 0, 0, 0, 0]]).0,
        "13",
        "compressed by nothing"
    );
    assert_eq!(status(ONCE, &[&[7, 0, 0, 0, 0]]).0, "13", "no prefix");
}

#[test]
fn a_handler_learns_that_its_stream_went_wrong() {
    let mut client = Client::new(Limits::default());
    let (stream, _) = client.open(EACH, &[]);
    assert_eq!(
        client.feed(&frame(DATA, 0, stream, &[9; 5])),
        [Event::Reset { stream }]
    );
    let (stream, _) = client.open(EACH, &[]);
    assert_eq!(
        client.feed(&frame(WINDOW_UPDATE, 0, stream, &[0; 4])),
        [Event::Reset { stream }]
    );
    let (stream, _) = client.open(EACH, &[]);
    client.feed(&frame(DATA, END_STREAM, stream, b""));
    assert_eq!(
        client.feed(&frame(DATA, 0, stream, b"x")),
        [Event::Reset { stream }]
    );
    assert!(!client.connection.is_closed());
}

#[test]
fn more_than_was_granted() {
    let limits = Limits {
        stream_window: 20_000,
        connection_window: 70_000,
        ..Limits::default()
    };
    let mut client = Client::new(limits.clone());
    let (stream, _) = client.open(EACH, &[]);
    client.feed(&frame(DATA, 0, stream, &message(&[0; 15_000])));
    assert_eq!(
        client.feed(&frame(DATA, 0, stream, &message(&[0; 9_000]))),
        [Event::Reset { stream }]
    );
    // The connection's window is granted anew at once, so nothing that comes in order is too much.
    for _ in 0..20 {
        let (stream, _) = client.open(EACH, &[]);
        client.feed(&frame(DATA, 0, stream, &message(&[0; 15_000])));
    }
    assert!(!client.connection.is_closed());
}

#[test]
fn parts_of_messages_are_bounded_together() {
    let mut client = Client::new(Limits {
        partial: 50_000,
        ..Limits::default()
    });
    let part = [&[0, 0, 0x7f, 0, 0][..], &[0; 12_000]].concat();
    let mut refused = 0;
    for _ in 0..10 {
        let (stream, _) = client.open(ONCE, &[]);
        client.feed(&frame(DATA, 0, stream, &part));
        let frames = client.take();
        if frames.iter().any(|f| f.kind == HEADERS) {
            refused += 1;
        }
    }
    assert_eq!(refused, 6);
}

#[test]
fn answers_that_are_not_read_are_bounded() {
    let mut client = Client::new(Limits {
        queued: 300_000,
        ..Limits::default()
    });
    client.feed(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let mut answered = 0;
    for _ in 0..10 {
        let (stream, events) = client.once(b"");
        if events.is_empty() {
            continue;
        }
        answered += 1;
        client.connection.respond(stream, &[], &[0; 100_000], &[]);
    }
    assert_eq!(answered, 3);
}

#[test]
fn calls_at_once_are_bounded_and_so_are_those_whose_handler_goes_on() {
    let mut client = Client::new(Limits {
        calls: 5,
        ..Limits::default()
    });
    let mut begun = 0;
    for _ in 0..20 {
        let (stream, events) = client.once(b"");
        begun += events.len();
        client.feed(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    assert_eq!(begun, 5, "resets do not make room while handlers go on");
    client.connection.forget();
    assert_eq!(client.once(b"").1.len(), 1);
}

#[test]
fn frames_without_use_are_counted() {
    let limits = || Limits {
        flood: 100.0,
        ..Limits::default()
    };
    let many = |bytes: Vec<u8>| std::iter::repeat_n(bytes, 102);
    assert_eq!(
        ended_by(limits(), many(frame(PRIORITY, 0, 1, &[0; 5]))),
        CALM
    );
    assert_eq!(ended_by(limits(), many(frame(SETTINGS, 0, 0, &[]))), CALM);
    assert_eq!(ended_by(limits(), many(frame(SETTINGS, ACK, 0, &[]))), CALM);
    assert_eq!(ended_by(limits(), many(frame(PING, ACK, 0, &[0; 8]))), CALM);
    assert_eq!(ended_by(limits(), many(frame(99, 0, 1, &[]))), CALM);
    let open = frame(HEADERS, END_HEADERS, 1, &request(EACH, &[]));
    assert_eq!(
        ended_by(
            limits(),
            std::iter::once(open).chain(many(frame(DATA, 0, 1, &[])))
        ),
        CALM
    );
    let resets = (0..200u32).map(|n| {
        let open = frame(HEADERS, END_HEADERS, 2 * n + 1, &request(EACH, &[]));
        [open, frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
    });
    assert_eq!(ended_by(limits(), resets), CALM);

    let mut client = Client::new(limits());
    for second in 0..300 {
        client.now = f64::from(second);
        client.feed(&frame(PRIORITY, 0, 1, &[0; 5]));
    }
    assert!(
        !client.connection.is_closed(),
        "with time they are forgiven"
    );
}

#[test]
fn acknowledgements_that_are_not_read() {
    let limits = Limits {
        control: 1000,
        flood: 1e9,
        ..Limits::default()
    };
    assert_eq!(
        ended_by(limits, std::iter::repeat_n(frame(SETTINGS, 0, 0, &[]), 200)),
        CALM
    );
}

#[test]
fn pings_as_go_lets_them() {
    let ping = frame(PING, 0, 0, &[0; 8]);
    let mut client = Client::new(Limits::default());
    for _ in 0..3 {
        client.feed(&ping);
    }
    assert!(!client.connection.is_closed(), "the first, and two strikes");
    client.feed(&ping);
    assert_eq!(goodbye(&client.take()), (CALM, "too_many_pings".to_owned()));

    let mut client = Client::new(Limits::default());
    let (stream, _) = client.open(EACH, &[]);
    for minute in 0..10 {
        client.now = f64::from(minute) * 301.0;
        client.feed(&ping);
    }
    assert!(
        !client.connection.is_closed(),
        "every five minutes while there are calls"
    );
    for _ in 0..10 {
        client.connection.send(stream, &[], b"x");
        client.take();
        client.feed(&ping);
    }
    assert!(
        !client.connection.is_closed(),
        "one after each answer, to measure the way"
    );
}
