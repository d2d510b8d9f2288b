//! The gzip format around raw deflate (RFC 1952): member headers, trailers, several members.

use zlib_rs::crc32::crc32;
use zlib_rs::{Inflate, InflateFlush, Status};

use crate::error::{Error, Result};

/// Who decompresses gzip in this build.
pub const GZIP_BACKEND: &str = "zlib-rs";

/// `FNAME` and `FCOMMENT` have no length of their own; more than this is no honest header.
const MAX_HEADER: usize = 1 << 20;

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

enum State {
    /// Collecting a member header; the first member must come, later ones may.
    Header {
        first: bool,
    },
    Body,
    /// Collecting CRC-32 and length of the member.
    Trailer,
    /// gzip(1) ignores zeros behind the last member (tapes, padded blobs).
    Padding,
}

pub(crate) struct GzipDecoder {
    state: State,
    inflate: Inflate,
    /// Bytes of a header or trailer cut by the end of an input chunk.
    pending: Vec<u8>,
    crc: u32,
    /// Length of the member modulo 2³², as its trailer has it.
    len: u32,
}

impl GzipDecoder {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header { first: true },
            inflate: Inflate::new(false, 15),
            pending: Vec::new(),
            crc: 0,
            len: 0,
        }
    }

    /// Consumes some of `input`, fills some of `output`; returns how much of each. Without progress
    /// only when `input` or `output` is empty.
    pub(crate) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize)> {
        let between_members = matches!(self.state, State::Header { first: false });
        if between_members && self.pending.is_empty() && input.first() == Some(&0) {
            self.state = State::Padding;
        }
        match self.state {
            State::Header { .. } => Ok((self.header(input)?, 0)),
            State::Body => self.body(input, output),
            State::Trailer => Ok((self.trailer(input)?, 0)),
            State::Padding if input.iter().all(|&b| b == 0) => Ok((input.len(), 0)),
            State::Padding => Err(Error::invalid("gzip: garbage after the last member")),
        }
    }

    /// Called at the end of the input.
    pub(crate) fn finish(&self) -> Result<()> {
        let cut = match self.state {
            State::Header { first: false } if self.pending.is_empty() => return Ok(()),
            State::Padding => return Ok(()),
            State::Header { .. } => "gzip header",
            State::Body => "gzip stream",
            State::Trailer => "gzip trailer",
        };
        Err(Error::UnexpectedEof(cut.into()))
    }

    fn header(&mut self, input: &[u8]) -> Result<usize> {
        let had = self.pending.len();
        let parsed = if had == 0 {
            header_len(input)?
        } else {
            self.pending.extend_from_slice(input);
            header_len(&self.pending)?
        };
        match parsed {
            Some(len) => {
                self.pending.clear();
                self.inflate.reset(false);
                self.crc = 0;
                self.len = 0;
                self.state = State::Body;
                Ok(len - had)
            }
            None => {
                if had == 0 {
                    self.pending.extend_from_slice(input);
                }
                if self.pending.len() > MAX_HEADER {
                    return Err(Error::invalid("gzip: member header exceeds 1 MiB"));
                }
                Ok(input.len())
            }
        }
    }

    fn body(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize)> {
        let (start_in, start_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(input, output, InflateFlush::NoFlush)
            .map_err(|e| {
                let detail = self.inflate.error_message().unwrap_or(e.as_str());
                Error::invalid(format!("gzip: {detail}"))
            })?;
        let used = (self.inflate.total_in() - start_in) as usize;
        let made = (self.inflate.total_out() - start_out) as usize;
        self.crc = crc32(self.crc, &output[..made]);
        self.len = self.len.wrapping_add(made as u32);
        match status {
            Status::StreamEnd => self.state = State::Trailer,
            _ if used == 0 && made == 0 && !input.is_empty() && !output.is_empty() => {
                return Err(Error::invalid("gzip: the decompressor makes no progress"));
            }
            _ => {}
        }
        Ok((used, made))
    }

    fn trailer(&mut self, input: &[u8]) -> Result<usize> {
        let used = input.len().min(8 - self.pending.len());
        self.pending.extend_from_slice(&input[..used]);
        if let [a, b, c, d, e, f, g, h] = self.pending[..] {
            if u32::from_le_bytes([a, b, c, d]) != self.crc {
                return Err(Error::invalid(
                    "gzip: CRC-32 of the uncompressed data does not match",
                ));
            }
            if u32::from_le_bytes([e, f, g, h]) != self.len {
                return Err(Error::invalid(
                    "gzip: length of the uncompressed data does not match",
                ));
            }
            self.pending.clear();
            self.state = State::Header { first: false };
        }
        Ok(used)
    }
}

/// Length of the member header at the start of `bytes`; `None` when more bytes are needed.
fn header_len(bytes: &[u8]) -> Result<Option<usize>> {
    const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        return Err(Error::invalid("gzip: no member header where one must be"));
    }
    let Some(&flags) = bytes.get(3) else {
        return Ok(None);
    };
    if flags & RESERVED != 0 {
        return Err(Error::invalid("gzip: reserved header flags are set"));
    }
    let mut at = 10;
    if flags & FEXTRA != 0 {
        let Some(len) = bytes.get(at..at + 2) else {
            return Ok(None);
        };
        at += 2 + usize::from(u16::from_le_bytes([len[0], len[1]]));
    }
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            let Some(end) = bytes.get(at..).and_then(|b| b.iter().position(|&b| b == 0)) else {
                return Ok(None);
            };
            at += end + 1;
        }
    }
    if flags & FHCRC != 0 {
        let Some(sum) = bytes.get(at..at + 2) else {
            return Ok(None);
        };
        if u16::from_le_bytes([sum[0], sum[1]]) != crc32(0, &bytes[..at]) as u16 {
            return Err(Error::invalid("gzip: header checksum does not match"));
        }
        at += 2;
    }
    Ok((bytes.len() >= at).then_some(at))
}
