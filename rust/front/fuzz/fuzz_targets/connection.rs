//! Any bytes after a proper greeting, in parts, with every call answered in one way or another.
#![no_main]

use std::sync::Arc;

use front::{Connection, Event, Limits, Routes};
use libfuzzer_sys::fuzz_target;

const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|input: &[u8]| {
    let (size, input) = input
        .split_first()
        .map_or((1, input), |(first, rest)| (*first, rest));
    let routes = Routes::new([("/a/Once".to_owned(), false), ("/a/Each".to_owned(), true)]);
    let limits = Limits {
        max_receive: 1000,
        calls: 8,
        queued: 5000,
        control: 2000,
        ..Limits::default()
    };
    let mut connection = Connection::new(Arc::new(routes), limits);
    connection.feed(GREETING, 0.0);
    for (n, part) in input.chunks(usize::from(size).max(1)).enumerate() {
        for event in connection.feed(part, n as f64 * 0.01) {
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
        connection.output(4096);
    }
});
