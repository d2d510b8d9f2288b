//! The one error type of the crate. Each variant is one thing a caller can react to.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::digest::Digest;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. The `Display` text names the thing and is fit to show to a user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed. `path` is relative to the root (or names the stream: `layer`, `sink`).
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// The operation: the system call's name, or `read`/`write`.
        op: &'static str,
        /// Path inside the root as the archive names it, or a stream's name.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The compressed stream or the tar archive is damaged or says something impossible.
    #[error("invalid archive: {0}")]
    InvalidArchive(String),

    /// The source ended too early; names what was cut.
    #[error("unexpected end of {0}")]
    UnexpectedEof(String),

    /// The bytes read are not the blob that was asked for.
    #[error("layer digest mismatch: expected {expected}, got {got}")]
    DigestMismatch {
        /// From the descriptor.
        expected: Digest,
        /// Of the bytes read.
        got: Digest,
    },

    /// The source is longer or shorter than its descriptor says (bytes).
    #[error("layer size mismatch: expected {expected} bytes, got {got}")]
    SizeMismatch {
        /// From the descriptor.
        expected: u64,
        /// Bytes read.
        got: u64,
    },

    /// The uncompressed archive is not the one the image configuration names.
    #[error("layer diff ID mismatch: expected {expected}, got {got}")]
    DiffIdMismatch {
        /// From the image configuration's `rootfs.diff_ids`.
        expected: Digest,
        /// Of the uncompressed bytes.
        got: Digest,
    },

    /// The archive exceeds one of the caller's [`Limits`](crate::Limits) or a fixed bound of the format reader.
    #[error("layer exceeds the limit of {limit} {what}")]
    LimitExceeded {
        /// Unit and thing, e.g. `unpacked bytes`.
        what: &'static str,
        /// The bound.
        limit: u64,
    },

    /// The caller's cancel flag was set.
    #[error("cancelled")]
    Cancelled,

    /// The layer builds upon the layers below it, which were not given.
    #[error("the layer cannot be applied before those below it: {0}")]
    NeedsParents(String),

    /// The file that was read while it was written was given up by its writer.
    #[error("the layer did not arrive")]
    Abandoned,

    /// A compression or media type this crate cannot read.
    #[error("unsupported layer compression: {0}")]
    UnsupportedCompression(String),

    /// The kernel refused a path that leads out of the tree: over a mount point, or a link to outside.
    #[error("{}: the path leads out of the tree (is something mounted there?)", .0.display())]
    Escape(PathBuf),

    /// An option out of its range, e.g. a compression level.
    #[error("invalid option: {0}")]
    InvalidOption(String),

    /// Text that is not a digest, or an algorithm that is not known.
    #[error("{0}")]
    InvalidDigest(String),
}

impl Error {
    /// An [`Error::Io`] for a path in bytes.
    pub(crate) fn io(op: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = PathBuf::from(OsStr::from_bytes(path));
        match source.raw_os_error() {
            // openat2 answers EXDEV where RESOLVE_IN_ROOT or RESOLVE_NO_XDEV would be broken.
            Some(libc::EXDEV) if op == "openat2" => Self::Escape(path),
            _ => Self::Io { op, path, source },
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::InvalidArchive(reason.into())
    }

    /// The `errno` of an [`Error::Io`].
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the archive's bytes themselves are at fault, so that a wrong digest explains it better.
    pub(crate) fn blames_content(&self) -> bool {
        matches!(
            self,
            Self::InvalidArchive(_) | Self::UnexpectedEof(_) | Self::UnsupportedCompression(_)
        )
    }
}
