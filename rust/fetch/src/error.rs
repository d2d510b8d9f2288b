//! Why a request or a body did not come through.

use std::io;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Texts are for the end of a message that says what was asked of whom; they hold nothing secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name has no address.
    #[error("the name {0} has no address: check it and the DNS")]
    Name(String),
    /// A connection, or the bytes on it.
    #[error("{}", plain(.0))]
    Io(io::Error),
    /// The host broke off.
    #[error("the host broke off the connection")]
    Closed,
    /// Nothing came for too long.
    #[error("no answer in time: try again later")]
    Idle,
    /// So little came that it counts as nothing.
    #[error("the host sends too slowly: try again later")]
    Slow,
    /// The handshake failed, or a record on an encrypted connection was wrong.
    #[error("no TLS connection: {0}")]
    Tls(String),
    /// A certificate or key that cannot be used.
    #[error("{0}")]
    Certificate(String),
    /// The proxy did not connect.
    #[error("the proxy refused with status {0}")]
    Proxy(u16),
    /// What came is no answer of HTTP/1.1.
    #[error("the host's answer is no HTTP/1.1: {0}")]
    Protocol(String),
    /// The caller's flag was set.
    #[error("cancelled")]
    Cancelled,
}

/// What the system says, without its number: `connection refused`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // Errors of this crate that went through `Read` and `Write` come out as they went in.
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            let inner = error.into_inner().and_then(|inner| inner.downcast().ok());
            return inner.map_or(Self::Closed, |inner| *inner);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => match error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            {
                Some(tls) => Self::Tls(tls.to_string()),
                None => Self::Io(error),
            },
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}
