//! Making a layer from the difference of two directories.

mod compare;
mod emit;
pub(crate) mod encode;
mod walk;

use std::fs::File;
use std::os::fd::BorrowedFd;

use crate::CancelFlag;
use crate::digest::{Algorithm, Digest};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

use emit::Emitter;

/// Compression of the layer to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiffCompression {
    /// Plain tar.
    None,
    /// One gzip member.
    #[default]
    Gzip,
    /// One zstd frame.
    Zstd,
}

/// How to write a diff.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// Compression of the result; default gzip.
    pub compression: DiffCompression,
    /// Compression level in the format's own scale; `None` is the format's default (gzip 6, zstd 3).
    pub level: Option<i32>,
    /// Upper bound of modification times, seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub source_date_epoch: Option<i64>,
    /// Compression threads; 0 means one per processor. The bytes written do not depend on it.
    pub threads: usize,
    /// Algorithm of both digests.
    pub algorithm: Algorithm,
    /// Set to stop early.
    pub cancel: Option<CancelFlag>,
}

/// The layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diffed {
    /// Digest of the bytes written.
    pub digest: Digest,
    /// Bytes written.
    pub size: u64,
    /// Digest of the uncompressed tar stream.
    pub diff_id: Digest,
    /// Length of the uncompressed tar stream in bytes.
    pub unpacked_bytes: u64,
}

/// Writes to `sink` the layer that turns `lower` into `upper`; without `lower`, all of `upper`.
///
/// Both are complete trees (mounted views), not overlay directories. Equal trees give equal bytes:
/// entries come in path order, times are whole seconds, no names of users or of the host.
/// Files that differ only where tar's whole seconds hide it are compared by content, as containerd does.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`], [`Error::InvalidOption`] for a level out of range,
/// [`Error::UnexpectedEof`] when a file shrinks meanwhile. `sink` then holds a part of the layer.
pub fn diff(
    lower: Option<BorrowedFd<'_>>,
    upper: BorrowedFd<'_>,
    sink: File,
    options: DiffOptions,
) -> Result<Diffed> {
    encode::run(&mut encode::to_file(&sink), &options, |sink| {
        let mut emitter = Emitter::new(upper, sink, options.source_date_epoch);
        let cancel = options.cancel.as_ref();
        walk::walk(lower, upper, cancel, &mut |change| emitter.change(change))?;
        emitter.finish()
    })
}
