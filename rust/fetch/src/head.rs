//! Status line and headers of an answer.

use std::io::Read;

use crate::error::{Error, Result};

/// More is no honest answer.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

#[derive(Debug)]
pub(crate) struct Head {
    pub status: u16,
    /// HTTP/1.0 ends its connections.
    pub is_old: bool,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; also gives the bytes that came after it. `None` when the host ended before its first byte.
    pub(crate) fn read(source: &mut impl Read) -> Result<Option<(Self, Vec<u8>)>> {
        let mut bytes = Vec::new();
        let mut piece = [0; 8192];
        loop {
            let n = match source.read(&mut piece) {
                Ok(n) => n,
                Err(error) => match Error::from(error) {
                    Error::Closed if bytes.is_empty() => 0,
                    error => return Err(error),
                },
            };
            if n == 0 {
                return match bytes.is_empty() {
                    true => Ok(None),
                    false => Err(Error::Closed),
                };
            }
            bytes.extend_from_slice(&piece[..n]);
            while let Some((head, len)) = Self::parse(&bytes)? {
                bytes.drain(..len);
                // What comes before the answer itself (RFC 9110, section 15.2).
                if !(100..200).contains(&head.status) {
                    return Ok(Some((head, bytes)));
                }
            }
            if bytes.len() > MAX_HEAD {
                return Err(Error::Protocol("its headers have no end".into()));
            }
        }
    }

    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response
            .parse(bytes)
            .map_err(|e| Error::Protocol(e.to_string()))?
        {
            httparse::Status::Partial => Ok(None),
            httparse::Status::Complete(len) => {
                let headers = response.headers.iter();
                Ok(Some((
                    Self {
                        status: response.code.unwrap_or_default(),
                        is_old: response.version == Some(0),
                        headers: headers
                            .map(|h| (h.name.to_owned(), latin1(h.value)))
                            .collect(),
                    },
                    len,
                )))
            }
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<(Head, Vec<u8>)>> {
        Head::read(&mut &bytes[..])
    }

    #[test]
    fn the_body_that_came_with_it_is_kept() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 206 x\r\nA: 1\r\na: 2\r\n\r\nbody";
        let (head, rest) = read(answer).unwrap().unwrap();
        assert_eq!((head.status, head.header("a")), (206, Some("1")));
        assert_eq!(rest, b"body");
    }

    #[test]
    fn no_answer_is_no_error_and_half_of_one_is() {
        assert!(read(b"").unwrap().is_none());
        assert!(matches!(read(b"HTTP/1.1 2"), Err(Error::Closed)));
        assert!(matches!(read(b"SSH-2.0-x\r\n"), Err(Error::Protocol(_))));
        let endless = [b"HTTP/1.1 200 x\r\nA: ".to_vec(), vec![b'x'; 80_000]].concat();
        assert!(matches!(read(&endless), Err(Error::Protocol(_))));
    }
}
