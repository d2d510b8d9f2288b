//! Frames: encoding, and an incremental decoder that never holds more than one oversized header.

pub const HEADER_LEN: usize = 10;
/// The most data one frame may carry, in bytes.
pub const MAX_DATA: usize = 4 << 20;

pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;
pub const DATA: u8 = 3;

/// The sender sends no more on the stream.
pub const REMOTE_CLOSED: u8 = 1;
/// Without this flag even an empty frame is a message.
pub const NO_DATA: u8 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub stream: u32,
    pub kind: u8,
    pub flags: u8,
    pub data: Vec<u8>,
}

/// What the decoder found next in the bytes it was given.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    Frame(Frame),
    /// A frame above [`MAX_DATA`]; its data is skipped as it arrives, the connection stays usable.
    Oversized {
        stream: u32,
        length: u32,
    },
}

/// Appends one frame to `out`.
///
/// Returns false, and appends nothing, when `data` is above [`MAX_DATA`].
#[must_use]
pub fn encode(out: &mut Vec<u8>, stream: u32, kind: u8, flags: u8, data: &[u8]) -> bool {
    if data.len() > MAX_DATA {
        return false;
    }
    out.reserve(HEADER_LEN + data.len());
    // The cast is exact: MAX_DATA fits in 32 bits.
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.push(kind);
    out.push(flags);
    out.extend_from_slice(data);
    true
}

#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    /// Data bytes of an oversized frame that are still to be thrown away.
    skip: u64,
}

impl Decoder {
    pub fn feed(&mut self, mut bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len() as u64) as usize;
        self.skip -= skipped as u64;
        bytes = &bytes[skipped..];
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or None until more bytes are fed.
    pub fn next(&mut self) -> Option<Decoded> {
        let pending = &self.buffer[self.start..];
        let (header, rest) = pending.split_first_chunk::<HEADER_LEN>()?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if length as usize > MAX_DATA {
            let here = rest.len().min(length as usize);
            self.start += HEADER_LEN + here;
            self.skip = u64::from(length) - here as u64;
            self.compact();
            return Some(Decoded::Oversized { stream, length });
        }
        let data = rest.get(..length as usize)?.to_vec();
        let frame = Frame {
            stream,
            kind: header[8],
            flags: header[9],
            data,
        };
        self.start += HEADER_LEN + length as usize;
        self.compact();
        Some(Decoded::Frame(frame))
    }

    /// True while a frame has begun and not ended: an end of stream now is a torn connection.
    pub fn mid_frame(&self) -> bool {
        self.skip > 0 || self.start < self.buffer.len()
    }

    fn compact(&mut self) {
        if self.start == self.buffer.len() {
            // A burst of large requests must not stay in the memory of an idle shim.
            self.buffer = Vec::new();
            self.start = 0;
        } else if self.start > 64 << 10 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u32, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(encode(&mut out, stream, REQUEST, 0, data));
        out
    }

    #[test]
    fn header_is_ten_big_endian_bytes() {
        let mut out = Vec::new();
        assert!(encode(&mut out, 0x0102_0304, RESPONSE, 5, b"abc"));
        assert_eq!(out, [0, 0, 0, 3, 1, 2, 3, 4, 2, 5, b'a', b'b', b'c']);
    }

    #[test]
    fn frames_survive_any_split() {
        let mut wire = frame(1, b"first");
        wire.extend(frame(3, b""));
        wire.extend(frame(5, &[7; 300]));
        for step in 1..wire.len() {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for chunk in wire.chunks(step) {
                decoder.feed(chunk);
                while let Some(Decoded::Frame(f)) = decoder.next() {
                    got.push((f.stream, f.data));
                }
            }
            assert_eq!(
                got,
                [(1, b"first".to_vec()), (3, vec![]), (5, vec![7; 300])],
                "step {step}"
            );
            assert!(!decoder.mid_frame());
        }
    }

    #[test]
    fn data_at_the_limit_passes_and_above_it_does_not() {
        let data = vec![0; MAX_DATA];
        let wire = frame(1, &data);
        let mut decoder = Decoder::default();
        decoder.feed(&wire);
        assert!(matches!(decoder.next(), Some(Decoded::Frame(f)) if f.data.len() == MAX_DATA));
        let mut out = Vec::new();
        assert!(!encode(&mut out, 1, REQUEST, 0, &vec![0; MAX_DATA + 1]));
        assert!(out.is_empty());
    }

    #[test]
    fn an_oversized_frame_is_skipped_and_the_next_one_read() {
        let length = (MAX_DATA + 9) as u32;
        let mut decoder = Decoder::default();
        let mut head = length.to_be_bytes().to_vec();
        head.extend([0, 0, 0, 9, REQUEST, 0]);
        decoder.feed(&head);
        assert_eq!(
            decoder.next(),
            Some(Decoded::Oversized { stream: 9, length })
        );
        for _ in 0..MAX_DATA / 4096 {
            decoder.feed(&[1; 4096]);
            assert_eq!(decoder.next(), None);
            assert!(decoder.buffer.len() < 4096, "skipped data is not kept");
        }
        assert!(decoder.mid_frame());
        let mut tail = vec![1; 9];
        tail.extend(frame(11, b"ok"));
        decoder.feed(&tail);
        assert!(
            matches!(decoder.next(), Some(Decoded::Frame(f)) if f.stream == 11 && f.data == b"ok")
        );
    }

    /// Random bytes, random mutations of valid streams, random splits: the decoder must neither
    /// panic nor keep more than one frame's worth, and must account for every byte.
    #[test]
    fn random_input_is_bounded() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..3000 {
            let mut wire = Vec::new();
            if round % 2 == 0 {
                wire.extend((0..random() % 200).map(|_| 0).collect::<Vec<u8>>());
                wire.iter_mut().for_each(|b| *b = random() as u8);
            } else {
                for _ in 0..random() % 5 {
                    let data = vec![random() as u8; (random() % 100) as usize];
                    wire.extend(frame(random() as u32, &data));
                }
                for _ in 0..random() % 4 {
                    if !wire.is_empty() {
                        let at = random() as usize % wire.len();
                        wire[at] = random() as u8;
                    }
                }
            }
            let mut decoder = Decoder::default();
            let mut frames = 0;
            let mut at = 0;
            while at < wire.len() {
                let step = 1 + random() as usize % 50;
                let end = wire.len().min(at + step);
                decoder.feed(&wire[at..end]);
                at = end;
                while let Some(decoded) = decoder.next() {
                    frames += 1;
                    if let Decoded::Frame(f) = decoded {
                        assert!(f.data.len() <= wire.len());
                    }
                }
                assert!(decoder.buffer.len() <= wire.len());
            }
            assert!(frames <= wire.len() / HEADER_LEN);
        }
    }
}
