//! Requests, and the connections they go over.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::CancelFlag;
use crate::body::Response;
use crate::error::{Error, Result};
use crate::head::Head;
use crate::tls::Tls;
use crate::wire::{Limits, Wire};

/// Idle connections kept, and for how long.
const MAX_IDLE: usize = 16;
const IDLE_FOR: Duration = Duration::from_secs(30);

/// A host to be asked.
#[derive(Debug, Clone)]
pub struct Place {
    /// Name or address; IPv6 with or without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Encrypted with these settings, or plain.
    pub tls: Option<Tls>,
    /// Who connects for us.
    pub proxy: Option<Proxy>,
}

/// An HTTP proxy that is spoken to without encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `Proxy-Authorization`, empty for none.
    pub authorization: String,
}

impl Place {
    /// Whether a connection to one serves the other.
    fn is(&self, other: &Self) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(&one.0, &other.0),
            _ => false,
        };
        same_tls && (&self.host, self.port, &self.proxy) == (&other.host, other.port, &other.proxy)
    }
}

/// A request that does no harm when it is sent twice. `target` is path and query, or for a plain request
/// over a proxy the whole URL.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `GET` and so on, in upper case.
    pub method: &'a str,
    /// Request target as it goes out.
    pub target: &'a str,
    /// All headers but those about the connection and the body's length.
    pub headers: &'a [(String, String)],
    /// What is sent.
    pub body: Option<&'a [u8]>,
}

/// Idle connections, shared by all requests.
#[derive(Debug, Default)]
pub struct Client {
    idle: Mutex<Vec<(Place, Connection, Instant)>>,
}

pub(crate) enum Connection {
    Plain(Wire),
    Tls(Box<StreamOwned<ClientConnection, Wire>>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    fn wire(&mut self) -> &mut Wire {
        match self {
            Self::Plain(wire) => wire,
            Self::Tls(stream) => &mut stream.sock,
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(wire) => wire.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(wire) => wire.write(data),
            Self::Tls(stream) => stream.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(wire) => wire.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Client {
    /// Sends a request and reads the head of its answer.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn send(
        self: &Arc<Self>,
        place: &Place,
        request: &Request<'_>,
        limits: Limits,
        cancel: &CancelFlag,
    ) -> Result<Response> {
        let text = text_of(request)?;
        let is_bare = request.method == "HEAD";
        while let Some(mut connection) = self.take(place) {
            connection.wire().adopt(limits, Arc::clone(cancel));
            // The host may have ended it just now; then it has not seen the request.
            match exchange(&mut connection, &text) {
                Ok(Some((head, rest))) => {
                    return Response::new(self, place, connection, head, rest, is_bare);
                }
                Ok(None) | Err(Error::Closed) => {}
                Err(error) => return Err(error),
            }
        }
        let mut connection = connect(place, limits, cancel)?;
        match exchange(&mut connection, &text)? {
            Some((head, rest)) => Response::new(self, place, connection, head, rest, is_bare),
            None => Err(Error::Closed),
        }
    }

    /// Ends all idle connections.
    pub fn close(&self) {
        self.lock().clear();
    }

    fn take(&self, place: &Place) -> Option<Connection> {
        let mut idle = self.lock();
        idle.retain(|(_, _, since)| since.elapsed() < IDLE_FOR);
        while let Some(index) = idle.iter().rposition(|(known, ..)| known.is(place)) {
            let (_, mut connection, _) = idle.remove(index);
            if connection.wire().is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    pub(crate) fn give_back(&self, place: Place, connection: Connection) {
        let mut idle = self.lock();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push((place, connection, Instant::now()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Place, Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text_of(request: &Request<'_>) -> Result<Vec<u8>> {
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut lines = 1 + request.headers.len();
    if let Some(body) = request.body {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        lines += 1;
    }
    if text.matches(['\r', '\n']).count() != 2 * lines || text.contains('\0') {
        return Err(Error::Protocol(
            "a header has a line break or a null byte".into(),
        ));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(request.body.unwrap_or_default());
    Ok(bytes)
}

fn exchange(connection: &mut Connection, text: &[u8]) -> Result<Option<(Head, Vec<u8>)>> {
    connection.write_all(text)?;
    connection.flush()?;
    Head::read(connection)
}

fn connect(place: &Place, limits: Limits, cancel: &CancelFlag) -> Result<Connection> {
    let cancel = Arc::clone(cancel);
    let wire = match (&place.proxy, &place.tls) {
        (None, _) => Wire::connect(&place.host, place.port, limits, cancel)?,
        (Some(proxy), None) => Wire::connect(&proxy.host, proxy.port, limits, cancel)?,
        (Some(proxy), Some(_)) => {
            let wire = Wire::connect(&proxy.host, proxy.port, limits, cancel)?;
            tunnel(wire, place, proxy)?
        }
    };
    let Some(tls) = &place.tls else {
        return Ok(Connection::Plain(wire));
    };
    let host = place.host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|e| Error::Tls(e.to_string()))?;
    let connection =
        ClientConnection::new(Arc::clone(&tls.0), name).map_err(|e| Error::Tls(e.to_string()))?;
    let mut stream = StreamOwned::new(connection, wire);
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(|e| match e.into() {
                Error::Closed => Error::Tls("the host broke off the handshake".into()),
                error => error,
            })?;
    }
    Ok(Connection::Tls(Box::new(stream)))
}

/// Has the proxy connect (RFC 9110, section 9.3.6).
fn tunnel(mut wire: Wire, place: &Place, proxy: &Proxy) -> Result<Wire> {
    let host = match place.host.contains(':') && !place.host.starts_with('[') {
        true => format!("[{}]", place.host),
        false => place.host.clone(),
    };
    let at = format!("{host}:{}", place.port);
    let mut text = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n");
    if !proxy.authorization.is_empty() {
        text.push_str(&format!("Proxy-Authorization: {}\r\n", proxy.authorization));
    }
    text.push_str("\r\n");
    wire.write_all(text.as_bytes()).map_err(Error::from)?;
    match Head::read(&mut wire)? {
        Some((head, rest)) if (200..300).contains(&head.status) && rest.is_empty() => Ok(wire),
        Some((head, _)) => Err(Error::Proxy(head.status)),
        None => Err(Error::Closed),
    }
}
