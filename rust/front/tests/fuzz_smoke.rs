//! What the fuzz target does, for a moment and without libFuzzer: any bytes, and frames that are
//! nearly right, must neither panic nor cost more memory than the limits say.

mod common;

use common::*;
use front::{Connection, Event, Limits, Routes};
use proptest::prelude::*;
use std::sync::Arc;

fn small() -> Limits {
    Limits {
        max_receive: 1000,
        calls: 8,
        header_list: 2000,
        stream_window: 4000,
        connection_window: 70_000,
        partial: 3000,
        queued: 5000,
        stream_queue: 500,
        control: 2000,
        flood: 300.0,
        flood_per_second: 10.0,
    }
}

/// Feeds parts; every call is answered at once or left open by its stream's number.
fn run(parts: &[Vec<u8>]) {
    let routes = Routes::new([(ONCE.to_owned(), false), (EACH.to_owned(), true)]);
    let mut connection = Connection::new(Arc::new(routes), small());
    let mut now = 0.0;
    for part in parts {
        now += 0.01;
        for event in connection.feed(part, now) {
            match event {
                Event::Call(call) if call.stream % 4 == 1 => {
                    connection.respond(call.stream, &[], &[0; 700], &[("x", "y")]);
                }
                Event::Message { stream, message } => {
                    connection.consumed(stream, message.bytes.len());
                    connection.send(stream, &[], &message.bytes);
                }
                Event::Unknown { stream, .. } => connection.finish(stream, &[], 12, "unknown", &[]),
                Event::HalfClosed { stream } => connection.finish(stream, &[], 0, "", &[]),
                Event::Reset { .. } => connection.forget(),
                Event::Call(_) | Event::Writable { .. } | Event::Closed { .. } => {}
            }
        }
        let (bytes, _) = connection.output(4096);
        assert!(bytes.len() < 4096 + 70_000);
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(request(ONCE, &[])),
        Just(request(EACH, &[("grpc-encoding", "gzip")])),
        Just(message(b"hello")),
        Just(1000u32.to_be_bytes().to_vec()),
        Just(vec![0, 4, 0, 0, 1, 0]),
        Just(vec![0; 8]),
    ];
    let kind = prop_oneof![4 => 0u8..2, 3 => 0u8..10, 1 => any::<u8>()];
    let flags = prop_oneof![Just(4u8), Just(5u8), Just(0u8), any::<u8>()];
    (kind, flags, 0u32..10, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20)) {
        let mut greeted = vec![PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])];
        run(&parts);
        greeted.extend(parts);
        run(&greeted);
    }

    #[test]
    fn frames_that_are_nearly_right(frames in prop::collection::vec(any_frame(), 0..60), size in 1usize..200) {
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        bytes.extend(frames.concat());
        run(&bytes.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>());
    }
}
