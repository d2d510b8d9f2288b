//! HTTP/1.1 GET for large bodies: a blocking thread receives, another may cancel it at any time.
//!
//! Authorisation, redirects, retries and the choice of host are the caller's: this crate sends one request
//! and hands out status, headers and the body. It speaks TLS (rustls), goes through a proxy (absolute form,
//! or CONNECT for TLS), and keeps idle connections for the next request to the same place.
//!
//! Sources: RFC 9110, RFC 9112.

mod body;
mod client;
mod error;
mod head;
mod tls;
mod wire;

pub use body::Response;
pub use client::{Client, Place, Proxy, Request};
pub use error::{Error, Result};
pub use tls::{Tls, TlsFiles};
pub use wire::Limits;

/// A flag that another thread sets to make a running call return [`Error::Cancelled`] soon.
pub type CancelFlag = std::sync::Arc<std::sync::atomic::AtomicBool>;
