//! The tar format: reading every dialect a layer may come in, writing POSIX pax.
//!
//! Read: v7, ustar, pax, GNU (long names, base-256 numbers, old sparse files), GNU's pax sparse formats
//! 0.0, 0.1 and 1.0, star's prefix. Written: ustar headers, with pax records where ustar has no room.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use header::{BLOCK, Kind, Time};
pub use reader::{Entry, Reader, Stream};
pub use sparse::Segment;
pub(crate) use sparse::padding;
pub(crate) use writer::END_MARK;
pub use writer::{WriteEntry, write_header};
