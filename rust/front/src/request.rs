//! From a request's header fields to what a call is.

use std::time::Duration;

use crate::grpc::{self, Refusal, code};

/// The fields that mean something to us, and the rest.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) path: Vec<u8>,
    /// First value of each name that is not the protocol's own; binary ones (`-bin`) are left out.
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) timeout: Option<Duration>,
    post: bool,
    grpc: bool,
    regular: bool,
    bad_timeout: Option<String>,
    encoding: Option<String>,
    malformed: bool,
}

/// Why a request is no call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not HTTP/2 as it should be: the stream is reset.
    Malformed,
    /// HTTP, but not gRPC: answered with this HTTP status.
    NotGrpc(u16, &'static str),
    Refused(Refusal),
}

impl Request {
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        if let Some(pseudo) = name.strip_prefix(b":") {
            self.malformed |= self.regular;
            match pseudo {
                b"method" => self.post = value == b"POST",
                b"path" => {
                    self.malformed |= !self.path.is_empty();
                    self.path = value.to_vec();
                }
                b"scheme" | b"authority" => {}
                _ => self.malformed = true,
            }
            return;
        }
        self.regular = true;
        self.malformed |= name.is_empty() || name.iter().any(u8::is_ascii_uppercase);
        match name {
            b"content-type" => self.grpc = is_grpc(value),
            b"grpc-timeout" => {
                self.timeout = grpc::timeout(value);
                if self.timeout.is_none() {
                    self.bad_timeout = Some(text(value));
                }
            }
            b"grpc-encoding" => self.encoding = Some(text(value)),
            b"te" | b"grpc-accept-encoding" | b"grpc-message-type" | b"content-length" => {}
            b"connection" => self.malformed = true,
            _ if name.ends_with(b"-bin") => {}
            _ if self
                .metadata
                .iter()
                .any(|(known, _)| known.as_bytes() == name) => {}
            _ => self.metadata.push((text(name), text(value))),
        }
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        if self.malformed || self.path.is_empty() {
            return Some(Fault::Malformed);
        }
        if !self.grpc {
            return Some(Fault::NotGrpc(415, "invalid gRPC request content-type"));
        }
        if !self.post {
            return Some(Fault::NotGrpc(
                405,
                "http2Server.operateHeaders: only POST is taken",
            ));
        }
        if let Some(value) = &self.bad_timeout {
            let text = format!("malformed grpc-timeout: {value:?}");
            return Some(Fault::Refused(Refusal::new(code::INTERNAL, text)));
        }
        match self.encoding.as_deref() {
            None | Some("identity" | "gzip") => None,
            Some(other) => {
                let text =
                    format!("grpc: Decompressor is not installed for grpc-encoding {other:?}");
                Some(Fault::Refused(Refusal::new(code::UNIMPLEMENTED, text)))
            }
        }
    }

    /// Whether messages that say so are compressed (with gzip).
    pub(crate) fn compresses(&self) -> bool {
        self.encoding.as_deref() == Some("gzip")
    }
}

/// `application/grpc`, perhaps with `+proto` or parameters.
fn is_grpc(value: &[u8]) -> bool {
    match value.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
