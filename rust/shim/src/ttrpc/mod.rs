//! The ttrpc protocol: framing, a non-blocking byte stream, the server's and the client's side.
//!
//! Every frame has a ten-byte header (length, stream id, both big endian; type; flags) and at most
//! 4 MiB of data. A unary call is one request frame and one response frame; on a stream there are data
//! frames between, in both directions.

pub mod client;
pub mod frame;
pub mod server;
pub mod status;
pub mod stream;

pub use status::{Code, Status};
