//! gRPC over HTTP/2 (its PROTOCOL-HTTP2.md): length-prefixed messages, timeouts, status texts.

use std::fmt::Write;
use std::time::Duration;

/// The numbers of the statuses that are given here.
pub(crate) mod code {
    pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(crate) const UNIMPLEMENTED: u32 = 12;
    pub(crate) const INTERNAL: u32 = 13;
}

/// A message as it came: `compressed` by the encoding of its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    pub bytes: Vec<u8>,
    pub compressed: bool,
}

/// A status that a call ends with before its handler has a say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u32,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

const PREFIX: usize = 5;
/// Not more is reserved on a peer's word; the rest grows with what really comes.
const RESERVED: usize = 64 << 10;

/// Cuts the bytes of a stream into messages.
#[derive(Default)]
pub(crate) struct Deframer {
    prefix: [u8; PREFIX],
    prefixed: usize,
    length: usize,
    body: Vec<u8>,
}

impl Deframer {
    /// Bytes of a message that is not complete.
    pub(crate) fn partial(&self) -> usize {
        self.body.len()
    }

    /// Whether the stream may end here.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.prefixed == 0
    }

    /// Takes bytes from `input` until a message is complete or they are used up.
    pub(crate) fn next(
        &mut self,
        input: &mut &[u8],
        max: usize,
    ) -> Result<Option<Payload>, Refusal> {
        while self.prefixed < PREFIX {
            let Some((&first, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            self.prefix[self.prefixed] = first;
            self.prefixed += 1;
            if self.prefixed == PREFIX {
                self.begin(max)?;
            }
        }
        let (now, rest) = input.split_at(input.len().min(self.length - self.body.len()));
        *input = rest;
        self.body.extend_from_slice(now);
        if self.body.len() < self.length {
            return Ok(None);
        }
        self.prefixed = 0;
        Ok(Some(Payload {
            bytes: std::mem::take(&mut self.body),
            compressed: self.prefix[0] == 1,
        }))
    }

    fn begin(&mut self, max: usize) -> Result<(), Refusal> {
        let [flag, a, b, c, d] = self.prefix;
        if flag > 1 {
            return Err(Refusal::new(
                code::INTERNAL,
                "grpc: received unexpected payload format",
            ));
        }
        self.length = u32::from_be_bytes([a, b, c, d]) as usize;
        if self.length > max {
            let length = self.length;
            let text = format!("grpc: received message larger than max ({length} vs. {max})");
            return Err(Refusal::new(code::RESOURCE_EXHAUSTED, text));
        }
        self.body.reserve(self.length.min(RESERVED));
        Ok(())
    }
}

/// The five bytes before a message that is not compressed.
pub(crate) fn prefix(length: usize) -> [u8; PREFIX] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [0, a, b, c, d]
}

/// The value of `grpc-timeout`: at most eight digits and a unit.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// `grpc-message`: bytes outside of printable ASCII, and `%`, as `%XX`.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
