//! The body of an answer (RFC 9112, section 6).

use std::io::Read;
use std::sync::Arc;

use crate::client::{Client, Connection, Place};
use crate::error::{Error, Result};
use crate::head::Head;

/// Longest line between two chunks.
const MAX_LINE: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// So many bytes.
    Bytes(u64),
    /// So many of the present chunk; 0 before the line that begins one.
    Chunk(u64),
    /// Whatever comes until the connection ends.
    UntilClose,
    Nothing,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    head: Head,
    rest: Rest,
    /// Bytes that came with the head or with a chunk's line.
    early: Vec<u8>,
    at: usize,
    first_chunk: bool,
    /// Gone when the body was read and the connection given back.
    connection: Option<Connection>,
    client: Arc<Client>,
    place: Place,
}

impl Response {
    /// `is_bare`: it answers a HEAD, so its length is of a body that does not come.
    pub(crate) fn new(
        client: &Arc<Client>,
        place: &Place,
        connection: Connection,
        head: Head,
        early: Vec<u8>,
        is_bare: bool,
    ) -> Result<Self> {
        let coding = head
            .header("transfer-encoding")
            .map(str::to_ascii_lowercase);
        let rest = match (
            head.status,
            coding.as_deref(),
            head.header("content-length"),
        ) {
            _ if is_bare => Rest::Nothing,
            (204 | 304, ..) => Rest::Nothing,
            (_, Some("chunked"), _) => Rest::Chunk(0),
            (_, Some(other), _) if other != "identity" => {
                return Err(Error::Protocol("its transfer coding is not known".into()));
            }
            (_, _, Some(text)) => Rest::Bytes(
                text.parse()
                    .map_err(|_| Error::Protocol("its length is no number".into()))?,
            ),
            _ => Rest::UntilClose,
        };
        let mut response = Self {
            head,
            rest: if rest == Rest::Bytes(0) {
                Rest::Nothing
            } else {
                rest
            },
            early,
            at: 0,
            first_chunk: true,
            connection: Some(connection),
            client: Arc::clone(client),
            place: place.clone(),
        };
        if response.rest == Rest::Nothing {
            response.done();
        }
        Ok(response)
    }

    /// Status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// All headers as they came.
    pub fn headers(&self) -> &[(String, String)] {
        &self.head.headers
    }

    /// Some bytes of the body; 0 at its end.
    ///
    /// # Errors
    /// Any [`Error`] but those about connecting.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.rest {
                Rest::Nothing => return Ok(0),
                Rest::Chunk(0) => {
                    self.next_chunk()?;
                    continue;
                }
                Rest::Bytes(_) | Rest::Chunk(_) | Rest::UntilClose => {}
            }
            let most = match self.rest {
                Rest::Bytes(left) | Rest::Chunk(left) => buffer
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX)),
                _ => buffer.len(),
            };
            let n = self.raw(&mut buffer[..most])?;
            match &mut self.rest {
                Rest::Bytes(left) | Rest::Chunk(left) if n > 0 => *left -= n as u64,
                Rest::UntilClose if n == 0 => self.rest = Rest::Nothing,
                Rest::UntilClose => {}
                _ if most == 0 => return Ok(0),
                _ => return Err(Error::Closed),
            }
            if self.rest == Rest::Bytes(0) {
                self.rest = Rest::Nothing;
                self.done();
            }
            return Ok(n);
        }
    }

    /// Fills the buffer unless the body ends before, or an error comes, which is told then.
    pub fn fill(&mut self, buffer: &mut [u8]) -> (usize, Result<()>) {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) => return (filled, Err(error)),
            }
        }
        (filled, Ok(()))
    }

    fn raw(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.at < self.early.len() {
            let n = buffer.len().min(self.early.len() - self.at);
            buffer[..n].copy_from_slice(&self.early[self.at..self.at + n]);
            self.at += n;
            return Ok(n);
        }
        let connection = self.connection.as_mut().ok_or(Error::Closed)?;
        // Without a notice of the end a cut TLS stream looks like a whole one; lengths tell them apart.
        match connection.read(buffer).map_err(Error::from) {
            Err(Error::Closed) if self.rest != Rest::UntilClose => Err(Error::Closed),
            result => result,
        }
    }

    fn next_chunk(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.first_chunk, false) && !self.line()?.is_empty() {
            return Err(Error::Protocol("a chunk is longer than it says".into()));
        }
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16)
            .map_err(|_| Error::Protocol("a chunk's length is no number".into()))?;
        self.rest = Rest::Chunk(size);
        if size == 0 {
            while !self.line()?.is_empty() {}
            self.rest = Rest::Nothing;
            self.done();
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            if self.raw(&mut byte)? == 0 {
                return Err(Error::Closed);
            }
            match byte[0] {
                b'\n' => break,
                b => line.push(b),
            }
            if line.len() > MAX_LINE {
                return Err(Error::Protocol("a line has no end".into()));
            }
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| Error::Protocol("a chunk's length is no number".into()))
    }

    /// The body is read: the connection may serve the next request.
    fn done(&mut self) {
        let ends = self.head.header("connection").is_some_and(|value| {
            value
                .split(',')
                .any(|word| word.trim().eq_ignore_ascii_case("close"))
        });
        let connection = self.connection.take();
        if let Some(connection) =
            connection.filter(|_| !ends && !self.head.is_old && self.at == self.early.len())
        {
            self.client.give_back(self.place.clone(), connection);
        }
    }
}
