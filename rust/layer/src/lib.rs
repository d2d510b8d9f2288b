//! What touches every byte of an image layer.
//!
//! * [`apply`]: compressed layer → directory, in one pass that also computes the digest of the
//!   compressed bytes and the diff ID (digest of the tar stream).
//! * [`apply_growing`]: the same, behind a writer that is still receiving the layer.
//! * [`unpack`]: compressed layer → tar stream, with the same checks.
//! * [`recipe`]: a layer without the bytes that the unpacked files have, and the layer again from that.
//! * [`diff`]: two directories → layer, with digest and diff ID.
//! * [`Hasher`], [`hash_file`], [`copy_and_hash`]: content store ingests.
//! * [`disk_usage`], [`remove_tree`]: what a snapshotter does with whole trees.
//!
//! Every path is resolved by the kernel below a directory descriptor the caller opened
//! (`openat2` with `RESOLVE_IN_ROOT`); no path string of the host is ever built from an archive.
//! Sources: OCI image spec `layer.md`, POSIX `pax`, tar(5) of libarchive, GNU tar manual.

mod apply;
mod buffer;
mod compression;
mod diff;
mod digest;
mod error;
mod growth;
mod gzip;
mod inflate;
mod isal;
mod pipeline;
pub mod recipe;
mod remove;
mod source;
mod sys;
pub mod tar;
mod unpack;
mod usage;

pub use apply::{Applied, ApplyOptions, Limits, Whiteouts, apply, apply_growing};
pub use compression::Compression;
pub use diff::{DiffCompression, DiffOptions, Diffed, diff};
pub use digest::{Algorithm, Digest, Hasher, copy_and_hash, hash_file};
pub use error::{Error, Result};
pub use growth::{Growing, Growth};
pub use gzip::gzip_backend;
pub use remove::remove_tree;
pub use unpack::{UnpackOptions, UnpackedLayer, unpack};
pub use usage::{Usage, disk_usage};

/// A flag that another thread sets to make a running call return [`Error::Cancelled`] soon.
pub type CancelFlag = std::sync::Arc<std::sync::atomic::AtomicBool>;
