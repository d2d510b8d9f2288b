//! Header compression (RFC 7541): a decoder, and an encoder that needs no table.

use std::collections::VecDeque;

use crate::huffman;

/// The size of the dynamic table that we allow, which is the protocol's default.
const TABLE_SIZE: usize = 4096;
/// What an entry costs beside its bytes (RFC 7541, 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// A block that cannot be decoded: the connection is lost, because the tables differ from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

struct Entry {
    bytes: Box<[u8]>,
    name: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.bytes.len() + ENTRY_OVERHEAD
    }
}

/// Decodes the header blocks of one connection, in their order.
pub struct Decoder {
    table: VecDeque<Entry>,
    size: usize,
    max_size: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            max_size: TABLE_SIZE,
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Decoder {
    /// Calls `each` with the name and value of every field; false when they are more than `limit`
    /// bytes (32 counted for each beside its own), of which `each` saw the first.
    pub fn decode(
        &mut self,
        block: &[u8],
        limit: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<bool, Invalid> {
        let mut input = Input(block);
        let mut total = 0usize;
        let mut resizable = true;
        while let Some(first) = input.peek() {
            if first & 0xe0 == 0x20 {
                let size = input.integer(5)?;
                if !resizable || size > TABLE_SIZE {
                    return Err(Invalid);
                }
                self.max_size = size;
                self.evict(0);
                continue;
            }
            resizable = false;
            if first & 0x80 != 0 {
                let index = input.integer(7)?;
                let (name, value) = self.entry(index)?;
                total = total.saturating_add(name.len() + value.len() + ENTRY_OVERHEAD);
                if total <= limit {
                    each(name, value);
                }
                continue;
            }
            let indexed = first & 0x40 != 0;
            self.literal(&mut input, if indexed { 6 } else { 4 })?;
            total = total.saturating_add(self.name.len() + self.value.len() + ENTRY_OVERHEAD);
            if total <= limit {
                each(&self.name, &self.value);
            }
            if indexed {
                self.insert();
            }
        }
        Ok(total <= limit)
    }

    fn literal(&mut self, input: &mut Input<'_>, prefix: u8) -> Result<(), Invalid> {
        let index = input.integer(prefix)?;
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        if index == 0 {
            input.string(&mut name)?;
        } else {
            name.extend_from_slice(self.entry(index)?.0);
        }
        self.name = name;
        self.value.clear();
        input.string(&mut self.value)
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Invalid> {
        if let Some((name, value)) = index.checked_sub(1).and_then(|index| STATIC.get(index)) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = index
            .checked_sub(STATIC.len() + 1)
            .and_then(|index| self.table.get(index));
        entry
            .map(|entry| entry.bytes.split_at(entry.name))
            .ok_or(Invalid)
    }

    fn insert(&mut self) {
        let bytes = [self.name.as_slice(), self.value.as_slice()]
            .concat()
            .into_boxed_slice();
        let entry = Entry {
            bytes,
            name: self.name.len(),
        };
        self.evict(entry.size());
        // One larger than the table empties it and is not kept (RFC 7541, 4.4).
        if entry.size() <= self.max_size {
            self.size += entry.size();
            self.table.push_front(entry);
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.max_size {
            match self.table.pop_back() {
                Some(entry) => self.size -= entry.size(),
                None => break,
            }
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn byte(&mut self) -> Result<u8, Invalid> {
        let (first, rest) = self.0.split_first().ok_or(Invalid)?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Invalid> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Invalid)?;
        self.0 = rest;
        Ok(taken)
    }

    /// An integer whose first byte has `prefix` bits of it (RFC 7541, 5.1).
    fn integer(&mut self, prefix: u8) -> Result<usize, Invalid> {
        let mask = (1usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Invalid)
    }

    fn string(&mut self, into: &mut Vec<u8>) -> Result<(), Invalid> {
        let huffman = self.peek().ok_or(Invalid)? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.take(length)?;
        if !huffman {
            into.extend_from_slice(bytes);
            return Ok(());
        }
        // No code is shorter than five bits.
        if huffman::decode(bytes, bytes.len() * 8 / 5, into) {
            Ok(())
        } else {
            Err(Invalid)
        }
    }
}

/// Appends a field that no table is to remember.
pub fn encode(name: &[u8], value: &[u8], into: &mut Vec<u8>) {
    into.push(0);
    encode_string(name, into);
    encode_string(value, into);
}

fn encode_string(text: &[u8], into: &mut Vec<u8>) {
    encode_integer(text.len(), 7, 0, into);
    into.extend_from_slice(text);
}

fn encode_integer(value: usize, prefix: u8, first: u8, into: &mut Vec<u8>) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        into.push(first | value as u8);
        return;
    }
    into.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        into.push(rest as u8 & 0x7f | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

/// Before the first block: our table is empty, which a peer that makes its own smaller waits to be
/// told (RFC 7541, 4.2).
pub const NO_TABLE: u8 = 0x20;
/// `:status: 200`, from the static table.
pub const STATUS_OK: u8 = 0x88;

#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""),
    ("cache-control", ""), ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""),
    ("content-length", ""), ("content-location", ""), ("content-range", ""), ("content-type", ""),
    ("cookie", ""), ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""),
    ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""),
    ("retry-after", ""), ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""),
    ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
];
