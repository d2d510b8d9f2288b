//! Calls as well-behaved clients make them.

mod common;

use std::time::Duration;

use common::*;
use front::{Event, Limits};

fn call_of(events: &[Event]) -> &front::Call {
    match events {
        [Event::Call(call)] => call,
        other => panic!("one call, not {other:?}"),
    }
}

#[test]
fn a_unary_call_is_one_event_and_its_answer_three_frames() {
    let mut client = Client::new(Limits::default());
    let metadata = [
        ("containerd-namespace", "newest"),
        ("containerd-namespace", "older"),
        ("x-bin", "AA"),
    ];
    let (stream, events) = client.open(
        ONCE,
        &[&metadata[..], &[("grpc-timeout", "1500m")]].concat(),
    );
    assert_eq!(
        events,
        [],
        "a handler of one message is told when it is there"
    );
    let events = client.feed(&frame(DATA, END_STREAM, stream, &message(b"hi")));
    let call = call_of(&events);
    assert_eq!((call.stream, call.method), (1, 0));
    assert_eq!(
        call.metadata,
        [("containerd-namespace".to_owned(), "newest".to_owned())]
    );
    assert_eq!(call.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(
        call.message
            .as_ref()
            .map(|message| message.bytes.as_slice()),
        Some(&b"hi"[..])
    );

    client
        .connection
        .respond(stream, &[("before", "1")], b"ho", &[("after", "2")]);
    let frames = client.take();
    let [head, data, tail] = &frames[..] else {
        panic!("{frames:?}")
    };
    assert_eq!(
        client.fields(head),
        [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("before", "1")
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!((data.kind, data.flags), (DATA, 0));
    assert_eq!(data.payload, message(b"ho"));
    assert_eq!(client.status(tail), ("0".to_owned(), String::new()));
    assert!(client.connection.is_idle());
}

#[test]
fn a_failure_is_one_frame_with_the_text_encoded() {
    let mut client = Client::new(Limits::default());
    let (stream, _) = client.once(b"");
    client
        .connection
        .finish(stream, &[], 5, "50% of \u{fc}\n", &[]);
    let frames = client.take();
    assert_eq!(frames.len(), 1);
    assert_eq!(
        client.status(&frames[0]),
        ("5".to_owned(), "50%25 of %C3%BC%0A".to_owned())
    );
}

#[test]
fn it_does_not_matter_how_the_bytes_are_cut() {
    let mut whole = PREFACE.to_vec();
    whole.extend(frame(SETTINGS, 0, 0, &[]));
    whole.extend(frame(HEADERS, END_HEADERS, 1, &request(EACH, &[])));
    whole.extend(frame(DATA, 0, 1, &[message(b"one"), message(b"")].concat()));
    whole.extend(frame(DATA, END_STREAM, 1, &message(b"three")));
    let together = Client::silent(Limits::default()).feed(&whole);
    assert_eq!(together.len(), 5);
    for size in 1..40 {
        let mut client = Client::silent(Limits::default());
        let events: Vec<_> = whole
            .chunks(size)
            .flat_map(|part| client.feed(part))
            .collect();
        assert_eq!(events, together, "in parts of {size} bytes");
    }
}

#[test]
fn padding_priority_and_continuation() {
    let mut client = Client::new(Limits::default());
    let block = request(ONCE, &[]);
    let (first, rest) = block.split_at(20);
    let (second, third) = rest.split_at(20);
    // Padding of two bytes, and the five of a priority.
    let padded = [&[2][..], &[0, 0, 0, 0, 9], first, &[0, 0]].concat();
    assert_eq!(client.feed(&frame(HEADERS, PADDED | 0x20, 1, &padded)), []);
    assert_eq!(client.feed(&frame(CONTINUATION, 0, 1, second)), []);
    assert_eq!(client.feed(&frame(CONTINUATION, END_HEADERS, 1, third)), []);
    let data = [&[3][..], &message(b"hi"), &[0, 0, 0]].concat();
    let events = client.feed(&frame(DATA, PADDED | END_STREAM, 1, &data));
    assert_eq!(call_of(&events).message.as_ref().unwrap().bytes, b"hi");
}

#[test]
fn trailers_of_a_request_end_it() {
    let mut client = Client::new(Limits::default());
    let (stream, _) = client.open(EACH, &[]);
    let events = client.feed(&frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &block(&[("x", "y")]),
    ));
    assert_eq!(events, [Event::HalfClosed { stream }]);
}

#[test]
fn a_caller_that_goes_away() {
    let mut client = Client::new(Limits::default());
    let (stream, _) = client.once(b"");
    assert_eq!(
        client.feed(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())),
        [Event::Reset { stream }]
    );
    client.connection.respond(stream, &[], b"too late", &[]);
    assert_eq!(client.take(), []);
    let (unheard, _) = client.open(ONCE, &[]);
    let events = client.feed(&frame(RST_STREAM, 0, unheard, &8u32.to_be_bytes()));
    assert_eq!(events, [], "no handler was told of it");
}

#[test]
fn an_answer_before_the_request_has_ended() {
    let mut client = Client::new(Limits::default());
    let (stream, _) = client.open(EACH, &[]);
    client.connection.finish(stream, &[], 3, "no", &[]);
    let frames = client.take();
    assert_eq!(client.status(&frames[0]).0, "3");
    assert_eq!(
        (frames[1].kind, &frames[1].payload[..]),
        (RST_STREAM, &[0, 0, 0, 0][..])
    );
    assert_eq!(
        client.feed(&frame(DATA, 0, stream, &message(b"on its way"))),
        []
    );
    assert!(!client.connection.is_closed());
}

#[test]
fn a_large_answer_waits_for_windows_and_takes_turns() {
    let mut client = Client::new(Limits::default());
    let (first, _) = client.once(b"");
    let (second, _) = client.once(b"");
    for stream in [first, second] {
        client
            .connection
            .respond(stream, &[], &vec![7; 100_000], &[]);
    }
    let sent = client.take();
    let size = |frames: &[Frame], stream| -> usize {
        frames
            .iter()
            .filter(|f| f.kind == DATA && f.stream == stream)
            .map(|f| f.payload.len())
            .sum()
    };
    assert_eq!(
        size(&sent, first) + size(&sent, second),
        65_535,
        "the connection's window"
    );
    assert!(size(&sent, second) >= 16_384, "nobody has all of it");
    client.feed(&frame(WINDOW_UPDATE, 0, 0, &1_000_000u32.to_be_bytes()));
    let more = client.take();
    assert_eq!(
        size(&sent, first) + size(&more, first),
        65_535,
        "the stream's window"
    );
    client.feed(&frame(WINDOW_UPDATE, 0, first, &100_000u32.to_be_bytes()));
    let rest = client.take();
    assert_eq!(
        size(&sent, first) + size(&more, first) + size(&rest, first),
        100_005
    );
    assert_eq!(client.status(rest.last().unwrap()).0, "0");
}

#[test]
fn windows_change_with_the_settings() {
    let mut client = Client::new(Limits::default());
    let settings = |size: u32| frame(SETTINGS, 0, 0, &[&[0, 4][..], &size.to_be_bytes()].concat());
    client.feed(&settings(10));
    let (stream, _) = client.once(b"");
    client.connection.respond(stream, &[], &[1; 50], &[]);
    let data = |frames: Vec<Frame>| -> usize {
        frames
            .iter()
            .filter(|f| f.kind == DATA)
            .map(|f| f.payload.len())
            .sum()
    };
    assert_eq!(data(client.take()), 10);
    client.feed(&settings(4));
    assert_eq!(data(client.take()), 0, "six too many were sent");
    client.feed(&settings(30));
    assert_eq!(data(client.take()), 20);
}

#[test]
fn a_handler_is_held_back_and_let_go() {
    let mut client = Client::new(Limits {
        stream_queue: 1000,
        ..Limits::default()
    });
    let (stream, _) = client.open(EACH, &[]);
    client.feed(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    assert!(!client.connection.send(stream, &[], &[0; 900]));
    assert!(client.connection.send(stream, &[], &[0; 900]));
    assert_eq!(client.take_with_events().1, []);
    client.feed(&frame(WINDOW_UPDATE, 0, stream, &1000u32.to_be_bytes()));
    assert_eq!(
        client.take_with_events().1,
        [],
        "still more than half of it"
    );
    client.feed(&frame(WINDOW_UPDATE, 0, stream, &400u32.to_be_bytes()));
    assert_eq!(client.take_with_events().1, [Event::Writable { stream }]);
}

#[test]
fn a_caller_is_held_back_by_what_the_handler_has_not_taken() {
    let limits = Limits {
        stream_window: 40_000,
        ..Limits::default()
    };
    let mut client = Client::new(limits);
    let (stream, _) = client.open(EACH, &[]);
    let granted = |client: &mut Client| -> u32 {
        let frames = client.take();
        let updates = frames
            .iter()
            .filter(|f| f.kind == WINDOW_UPDATE && f.stream == stream);
        updates
            .map(|f| u32::from_be_bytes(f.payload[..].try_into().unwrap()))
            .sum()
    };
    for _ in 0..3 {
        client.feed(&frame(DATA, 0, stream, &message(&[0; 12_000])));
    }
    assert_eq!(granted(&mut client), 0);
    client.connection.consumed(stream, 24_000);
    assert_eq!(
        granted(&mut client),
        24_015,
        "and what frames of messages cost"
    );

    // A message larger than the window comes in all the same.
    let mut large = message(&vec![0; 100_000]);
    let mut window = 40_000 - 12_000;
    let mut messages = 0;
    while !large.is_empty() {
        let part: Vec<u8> = large.drain(..large.len().min(window).min(16_384)).collect();
        window -= part.len();
        messages += client.feed(&frame(DATA, 0, stream, &part)).len();
        window += granted(&mut client) as usize;
        assert!(window > 0, "stuck with {} bytes left", large.len());
    }
    assert_eq!(messages, 1);
}

#[test]
fn drain_lets_calls_end_and_takes_no_new_ones() {
    let mut client = Client::new(Limits::default());
    let (running, _) = client.once(b"");
    client.connection.drain();
    assert_eq!(goodbye(&client.take()), (0, String::new()));
    let (refused, events) = client.once(b"");
    assert_eq!(events, []);
    let frames = client.take();
    assert_eq!((frames[0].kind, frames[0].stream), (RST_STREAM, refused));
    assert_eq!(
        frames[0].payload,
        7u32.to_be_bytes(),
        "to be tried again elsewhere"
    );
    client.connection.respond(running, &[], b"", &[]);
    assert_eq!(client.take().len(), 3);
    assert!(client.connection.is_idle());
}

#[test]
fn pings_are_answered_and_settings_acknowledged() {
    let mut client = Client::new(Limits::default());
    client.feed(&frame(PING, 0, 0, b"12345678"));
    client.feed(&frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x40, 0]));
    let frames = client.take();
    assert_eq!(
        (frames[0].kind, frames[0].flags, &frames[0].payload[..]),
        (PING, ACK, &b"12345678"[..])
    );
    assert_eq!((frames[1].kind, frames[1].flags), (SETTINGS, ACK));
}

#[test]
fn the_first_header_block_says_that_there_is_no_table() {
    let mut client = Client::new(Limits::default());
    let (first, _) = client.once(b"");
    let (second, _) = client.once(b"");
    client.connection.respond(first, &[], b"", &[]);
    client.connection.respond(second, &[], b"", &[]);
    let frames = client.take();
    let heads: Vec<_> = frames
        .iter()
        .filter(|f| f.kind == HEADERS)
        .map(|f| f.payload[0])
        .collect();
    assert_eq!(heads[0], 0x20);
    assert!(heads[1..].iter().all(|first| *first != 0x20));
}

#[test]
fn a_path_that_is_nobodys() {
    let mut client = Client::new(Limits::default());
    let path = "/test.Echo/Twice".to_owned();
    let (stream, events) = client.open(&path, &[]);
    assert_eq!(events, [Event::Unknown { stream, path }]);
    assert_eq!(
        client.feed(&frame(DATA, END_STREAM, stream, &message(b"hi"))),
        []
    );
    client.connection.finish(stream, &[], 12, "unknown", &[]);
    let frames = client.take();
    assert_eq!(client.status(&frames[0]).0, "12");
}

#[test]
fn a_stream_without_messages_has_its_initial_metadata() {
    let mut client = Client::new(Limits::default());
    let (stream, _) = client.open(EACH, &[]);
    client.feed(&frame(DATA, END_STREAM, stream, b""));
    client
        .connection
        .finish(stream, &[("before", "1")], 0, "", &[("after", "2")]);
    let frames = client.take();
    assert_eq!(frames.len(), 2);
    assert!(
        client
            .fields(&frames[0])
            .contains(&("before".to_owned(), "1".to_owned()))
    );
    assert!(
        client
            .fields(&frames[1])
            .contains(&("after".to_owned(), "2".to_owned()))
    );
}
