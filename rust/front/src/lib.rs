//! The serving side of one gRPC connection: HTTP/2 framing, HPACK, flow control and gRPC's own
//! framing, without I/O, clock or threads.
//!
//! Bytes that arrived go into [`Connection::feed`], which tells what they mean as [`Event`]s; answers
//! go in by `respond`, `send` and `finish`; bytes to write come out of [`Connection::output`].
//!
//! A peer is not trusted. Whatever it sends, memory stays within [`Limits`]: unread messages by flow
//! control, messages that are not complete by `partial`, answers that it does not read by `queued`,
//! header blocks by `header_list`, acknowledgements that it does not read by `control`; and frames
//! that cost work but bring none are counted against `flood`.

mod connection;
mod frame;
mod grpc;
pub mod hpack;
mod huffman;
mod limits;
mod receive;
mod request;
mod send;
mod stream;

pub use connection::{Call, Connection, Event, Routes};
pub use grpc::{Payload, percent_encode};
pub use limits::Limits;
