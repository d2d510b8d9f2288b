//! Call results as clients read them: a gRPC code and a message.

use crate::proto::google::rpc;

/// gRPC status codes, by their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
}

/// A refusal. containerd's clients turn code and message back into an error, and cut the class
/// suffix (": not found") off the message if it is there; so the suffixes are theirs to the letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// An error without a class, as Go's `errors.New` becomes on the wire.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }

    pub fn invalid_argument(message: impl AsRef<str>) -> Self {
        Self::classed(Code::InvalidArgument, message, "invalid argument")
    }

    pub fn not_found(message: impl AsRef<str>) -> Self {
        Self::classed(Code::NotFound, message, "not found")
    }

    pub fn already_exists(message: impl AsRef<str>) -> Self {
        Self::classed(Code::AlreadyExists, message, "already exists")
    }

    pub fn failed_precondition(message: impl AsRef<str>) -> Self {
        Self::classed(Code::FailedPrecondition, message, "failed precondition")
    }

    pub fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    fn classed(code: Code, message: impl AsRef<str>, class: &str) -> Self {
        Self::new(code, format!("{}: {class}", message.as_ref()))
    }

    pub fn to_wire(&self) -> rpc::Status {
        rpc::Status {
            code: self.code as i32,
            message: self.message.clone(),
            details: Vec::new(),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
