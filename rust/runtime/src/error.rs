//! What goes wrong, in words for a person.

use std::fmt;

pub type Result<T> = std::result::Result<T, Error>;

/// The class tells a caller what to answer its client; the text names the thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    NotFound,
    AlreadyExists,
    /// The configuration is wrong.
    Invalid,
    /// The container's state does not allow it.
    State,
    /// The specification has it, this runtime does not.
    Unimplemented,
    /// The kernel or a hook refused.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub class: Class,
    pub message: String,
}

impl Error {
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { class, message }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Class::Invalid, message)
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Class::Failed, message)
    }

    /// A field of the specification that is not served: `what` is its path and value.
    pub fn unimplemented(what: impl fmt::Display) -> Self {
        let hint =
            "not implemented by containerd-hybrid-runtime; select runc or crun by BinaryName";
        Self::new(Class::Unimplemented, format!("{what}: {hint}"))
    }

    /// Puts what was being done in front.
    pub fn during(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Gives a kernel error its context.
pub trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| {
            let e: std::io::Error = e.into();
            let text = match e.raw_os_error() {
                Some(number) => crate::sys::Errno(number).to_string(),
                None => e.to_string(),
            };
            Error::failed(format!("{}: {text}", what()))
        })
    }
}
