//! The gzip format around raw deflate (RFC 1952): member headers, trailers, several members.

use zlib_rs::crc32::crc32;
use zlib_rs::{Inflate, InflateFlush, Status};

use crate::error::{Error, Result};
use crate::isal::Isal;

/// Who decompresses gzip here: ISA-L where the system has it and `CONTAINERD_HYBRID_GZIP` does not say
/// `zlib-rs`, else zlib-rs, which is part of this crate.
pub fn gzip_backend() -> &'static str {
    match Engine::new() {
        Engine::Isal(_) => "isa-l",
        Engine::Zlib(_) => "zlib-rs",
    }
}

enum Engine {
    Zlib(Box<Inflate>),
    Isal(Isal),
}

impl Engine {
    fn new() -> Self {
        let wanted =
            std::env::var_os("CONTAINERD_HYBRID_GZIP").is_none_or(|name| name != "zlib-rs");
        match Isal::new().filter(|_| wanted) {
            Some(isal) => Self::Isal(isal),
            None => Self::Zlib(Box::new(Inflate::new(false, 15))),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Zlib(inflate) => inflate.reset(false),
            Self::Isal(isal) => isal.reset(),
        }
    }
}

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
    engine: Engine,
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
            engine: Engine::new(),
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
                self.engine.reset();
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
        let (used, made, finished) = match &mut self.engine {
            Engine::Zlib(inflate) => {
                let (start_in, start_out) = (inflate.total_in(), inflate.total_out());
                let status = inflate
                    .decompress(input, output, InflateFlush::NoFlush)
                    .map_err(|e| {
                        let detail = inflate.error_message().unwrap_or(e.as_str());
                        Error::invalid(format!("gzip: {detail}"))
                    })?;
                let made = (inflate.total_out() - start_out) as usize;
                self.crc = crc32(self.crc, &output[..made]);
                let used = (inflate.total_in() - start_in) as usize;
                (used, made, matches!(status, Status::StreamEnd))
            }
            Engine::Isal(isal) => {
                let step = isal.step(input, output)?;
                if step.finished {
                    self.crc = isal.crc();
                    self.pending.extend_from_slice(&step.held);
                }
                (step.used, step.made, step.finished)
            }
        };
        self.len = self.len.wrapping_add(made as u32);
        if finished {
            self.state = State::Trailer;
            self.check_trailer()?;
        } else if used == 0 && made == 0 && !input.is_empty() && !output.is_empty() {
            return Err(Error::invalid("gzip: the decompressor makes no progress"));
        }
        Ok((used, made))
    }

    fn trailer(&mut self, input: &[u8]) -> Result<usize> {
        let used = input.len().min(8 - self.pending.len());
        self.pending.extend_from_slice(&input[..used]);
        self.check_trailer()?;
        Ok(used)
    }

    /// Once all of it is there.
    fn check_trailer(&mut self) -> Result<()> {
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
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two members with trailing zeros, made by gzip(1) of "hello\n" and of nothing.
    const MEMBERS: &[u8] =
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\xe7\x02\0\x20\x30\x3a\x36\x06\0\0\0\
        \x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0\0\0";

    fn engines() -> Vec<Engine> {
        let zlib = Engine::Zlib(Box::new(Inflate::new(false, 15)));
        [Some(zlib), Isal::new().map(Engine::Isal)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn inflated(engine: Engine, data: &[u8], piece: usize, room: usize) -> Result<Vec<u8>> {
        let mut decoder = GzipDecoder::new();
        decoder.engine = engine;
        let (mut made, mut buffer) = (Vec::new(), vec![0; room]);
        for mut input in data.chunks(piece) {
            loop {
                let (used, n) = decoder.step(input, &mut buffer)?;
                made.extend_from_slice(&buffer[..n]);
                input = &input[used..];
                if input.is_empty() && n < room {
                    break;
                }
            }
        }
        decoder.finish().map(|()| made)
    }

    #[test]
    fn every_engine_reads_it_whatever_the_pieces() {
        for piece in 1..MEMBERS.len() + 1 {
            for room in [1, 3, 100] {
                for engine in engines() {
                    let made = inflated(engine, MEMBERS, piece, room).unwrap();
                    assert_eq!(made, b"hello\n", "pieces of {piece}, room for {room}");
                }
            }
        }
    }

    #[test]
    fn every_engine_sees_what_is_wrong() {
        for at in [10, 17, 18, 20, 24] {
            let mut damaged = MEMBERS.to_vec();
            damaged[at] ^= 0x15;
            for piece in [1, 7, 100] {
                for engine in engines() {
                    assert!(inflated(engine, &damaged, piece, 100).is_err(), "byte {at}");
                }
            }
        }
        for engine in engines() {
            assert!(inflated(engine, &MEMBERS[..20], 7, 100).is_err());
        }
    }
}
