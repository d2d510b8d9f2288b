//! What went wrong, in the classes of `containerd_hybrid.errors`. Knows nothing of Python.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A class of `containerd_hybrid.errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Cancelled,
    Unknown,
    InvalidArgument,
    InvalidDigest,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    DigestMismatch,
    SizeMismatch,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Aborted,
}

/// A failure on its way to Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub class: Class,
    pub message: String,
}

impl Failure {
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }

    /// A failed system call; `doing` names the operation and what it was about.
    pub fn os(error: impl Into<std::io::Error>, doing: impl Display) -> Self {
        let error = error.into();
        let class = error.raw_os_error().map_or(Class::Unknown, of_errno);
        Self::new(class, format!("{doing}: {error}"))
    }

    /// Says in front of the message what was being done.
    pub fn while_doing(mut self, doing: impl Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

/// The class that fits an errno whatever the call was.
pub fn of_errno(errno: i32) -> Class {
    match errno {
        libc::ENOENT => Class::NotFound,
        libc::EEXIST => Class::AlreadyExists,
        libc::EACCES | libc::EPERM => Class::PermissionDenied,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::ENOMEM => Class::ResourceExhausted,
        libc::EMFILE | libc::ENFILE | libc::EMLINK => Class::ResourceExhausted,
        libc::EROFS | libc::ENOTEMPTY => Class::FailedPrecondition,
        libc::EBUSY | libc::EAGAIN | libc::EPIPE | libc::ECONNRESET => Class::Unavailable,
        libc::EIO | libc::EUCLEAN => Class::DataLoss,
        libc::EINVAL | libc::EBADF | libc::ENAMETOOLONG | libc::ELOOP => Class::InvalidArgument,
        libc::ENOTDIR | libc::EISDIR | libc::ENOTBLK | libc::EXDEV => Class::InvalidArgument,
        libc::ENOSYS | libc::EOPNOTSUPP | libc::ENODEV => Class::Unimplemented,
        _ => Class::Unknown,
    }
}

impl From<layer::Error> for Failure {
    fn from(error: layer::Error) -> Self {
        use layer::Error;
        let class = match &error {
            Error::Io { source, .. } => source.raw_os_error().map_or(Class::Unknown, of_errno),
            Error::InvalidArchive(_)
            | Error::UnexpectedEof(_)
            | Error::Escape(_)
            | Error::InvalidOption(_) => Class::InvalidArgument,
            Error::DigestMismatch { .. } | Error::DiffIdMismatch { .. } => Class::DigestMismatch,
            Error::SizeMismatch { .. } => Class::SizeMismatch,
            Error::LimitExceeded { .. } => Class::ResourceExhausted,
            Error::Cancelled => Class::Cancelled,
            Error::Abandoned => Class::Aborted,
            Error::NeedsParents(_) => Class::FailedPrecondition,
            Error::UnsupportedCompression(_) => Class::Unimplemented,
            Error::InvalidDigest(_) => Class::InvalidDigest,
            _ => Class::Unknown,
        };
        Self::new(class, error.to_string())
    }
}

impl From<mounts::Error> for Failure {
    fn from(error: mounts::Error) -> Self {
        Self::new(of_mounts(&error), error.to_string())
    }
}

fn of_mounts(error: &mounts::Error) -> Class {
    use mounts::Error;
    match error {
        Error::InvalidOption { .. } | Error::OptionsTooLong { .. } | Error::Refused(_) => {
            Class::InvalidArgument
        }
        Error::NoProjectQuotas { .. } => Class::FailedPrecondition,
        Error::Helper { missing: true, .. } => Class::Unimplemented,
        Error::Undo { first, .. } => of_mounts(first),
        _ => error.raw_os_error().map_or(Class::Unknown, of_errno),
    }
}

/// Runs `work`; a panic becomes a failure, so that a bug of ours is an error of one call and not more.
pub fn guard<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = format!("panic in native code: {}", text_of(panic.as_ref()));
        Err(Failure::new(Class::Internal, message))
    })
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
